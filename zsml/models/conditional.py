"""Trunks whose squeeze-and-excitation gates are told the modality of each image.

Only the gate and the route of the tag are ours: every convolution, normalisation and weight name is that of timm's
`legacy_se*` networks, so that their ImageNet weights fit as they are.
"""

from __future__ import annotations

import torch
from timm.models.senet import SENet, SEResNetBlock, SEResNetBottleneck, SEResNeXtBottleneck
from torch import Tensor, nn

from zsml.errors import InputError

STAGES = 4
MID_ACTS = {"relu": lambda: nn.ReLU(inplace=True), "sigmoid": nn.Sigmoid}
TAG_INITS = ("zero", "random")


class ConditionalSE(nn.Module):
    """Rescale channels by a gate that also sees the modality tag y (0 sketch, 1 photo).

        z = act(W1 mean_hw(x) + b1);  g = sigmoid(W2 z + b2 + w_tag y);  out = x * g

    x, out: float [B, C, H, W]; tag: float [B, 1]; W1: [C / reduction, C]; W2: [C, C / reduction]; w_tag: [C, 1]. This is
    MATHM's factored form of the gate of SAKE and DASE, which append y to z as one more input of W2; w_tag is that column.

    mid_act: "relu" (SAKE, MATHM) or "sigmoid" (DASE). tag_init: "zero", and the gate starts as plain
    squeeze-and-excitation for both modalities, or "random": W2 and w_tag are one linear layer's random weights over
    [z; y]. Without `fc_tag` (conditional=False, or set to None) the gate is plain and needs no tag.

    Source: Liu et al., SAKE, ICCV 2019; Huang et al., MATHM, arXiv 2112.07966; DASE: MEMS, arXiv 1812.04275.

    >>> import torch
    >>> gate = ConditionalSE(32, 16)
    >>> gate(torch.ones(2, 32, 4, 4), torch.tensor([[0.0], [1.0]])).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(
        self,
        channels: int,
        reduction: int,
        *,
        mid_act: str = "relu",
        tag_init: str = "zero",
        conditional: bool = True,
    ) -> None:
        super().__init__()
        squeezed = channels // reduction
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.mid_act = MID_ACTS[mid_act]()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        for convolution in (self.fc1, self.fc2):  # as timm starts all convolutions of its SE networks
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.fc_tag: nn.Linear | None = nn.Linear(1, channels, bias=False) if conditional else None
        self.starts_random = conditional and tag_init == "random"  # W2 is then not taken from ImageNet weights
        if self.starts_random:
            bound = (squeezed + 1) ** -0.5  # torch's default for a linear layer of squeezed + 1 inputs
            nn.init.uniform_(self.fc2.weight, -bound, bound)
            nn.init.uniform_(self.fc_tag.weight, -bound, bound)
        elif conditional:
            nn.init.zeros_(self.fc_tag.weight)

    def forward(self, x: Tensor, tag: Tensor | None = None) -> Tensor:
        z = self.mid_act(self.fc1(x.mean((2, 3), keepdim=True)))  # [B, C / reduction, 1, 1]
        a = self.fc2(z)  # [B, C, 1, 1]
        if self.fc_tag is not None:
            a = a + self.fc_tag(tag)[:, :, None, None]
        return x * torch.sigmoid(a)


class _BottleneckForward:
    """The forward of timm's bottlenecks, handing the tag to the gate."""

    def forward(self, x: Tensor, tag: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(self.se_module(out, tag) + shortcut)


class ConditionalBottleneck(_BottleneckForward, SEResNetBottleneck):
    """timm's SE-ResNet bottleneck, handing the tag to its gate."""


class ConditionalNeXtBottleneck(_BottleneckForward, SEResNeXtBottleneck):
    """timm's SE-ResNeXt bottleneck, handing the tag to its gate."""


class ConditionalBasicBlock(SEResNetBlock):
    """timm's SE-ResNet block of two convolutions, handing the tag to its gate."""

    def forward(self, x: Tensor, tag: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))  # timm's, and its weights, have a ReLU before the gate here
        return self.relu(self.se_module(out, tag) + shortcut)


# timm's networks of the same names and shapes: block, blocks per stage, groups of the middle convolution.
LAYOUTS: dict[str, tuple[type[nn.Module], tuple[int, ...], int]] = {
    "legacy_seresnet18": (ConditionalBasicBlock, (2, 2, 2, 2), 1),
    "legacy_seresnet50": (ConditionalBottleneck, (3, 4, 6, 3), 1),
    "legacy_seresnext101_32x4d": (ConditionalNeXtBottleneck, (3, 4, 23, 3), 32),
}


class ConditionalSENet(SENet):
    """A trunk of conditional gates: images [B, 3, H, W] and tag [B, 1] to pooled features [B, F].

    The tag is an argument of every block, never state, so that batches of one, several models and threads are safe.
    Stages 1..cse_end of 4 have conditional gates, the later ones plain gates, with the same activation in the middle.

    source: a name of `LAYOUTS`, timm's network whose weights fit. Raises InputError or TypeError for an option out of range.
    """

    conditional = True  # the model must hand over the tag

    def __init__(self, source: str, *, cse_end: int = STAGES, mid_act: str = "relu", tag_init: str = "zero") -> None:
        if isinstance(cse_end, bool) or not isinstance(cse_end, int):
            raise TypeError(f"cse_end must be an int, got {type(cse_end).__name__}")
        if not 0 <= cse_end <= STAGES:
            raise InputError(f"cse_end must be 0 to {STAGES}, the number of stages with conditional gates, got {cse_end}")
        check_choice("mid_act", mid_act, MID_ACTS)
        check_choice("tag_init", tag_init, TAG_INITS)
        block, layers, groups = LAYOUTS[source]
        super().__init__(block, layers=layers, groups=groups, reduction=16, drop_rate=0.0, num_classes=0)
        for stage, layer in enumerate(self.stages(), start=1):
            for residual in layer:
                channels = residual.se_module.fc2.out_channels
                residual.se_module = ConditionalSE(channels, 16, mid_act=mid_act, tag_init=tag_init, conditional=stage <= cse_end)

    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x: Tensor, tag: Tensor) -> Tensor:
        x = self.pool0(self.layer0(x))
        for layer in self.stages():
            for block in layer:
                x = block(x, tag)
        return self.global_pool(x)  # [B, F]


def check_choice(name: str, value: object, choices) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {type(value).__name__}")
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def own_weights(trunk: nn.Module) -> set[str]:
    """Names of the trunk's weights that keep their own start when ImageNet weights are loaded: no file holds them, or
    (`tag_init="random"`) none that is to be used."""
    names = set()
    for path, module in trunk.named_modules():
        if isinstance(module, ConditionalSE):
            names |= {f"{path}.fc_tag.weight"} if module.fc_tag is not None else set()
            names |= {f"{path}.fc2.weight"} if module.starts_random else set()
    return names


def modality_tag(modality: Tensor, dtype: torch.dtype) -> Tensor:
    """The tag [B, 1] of modality [B]: 0.0 sketch, 1.0 photo, NaN for any other value.

    A value cannot be looked at without making the host wait for a GPU, and not at all inside a compiled graph; NaN
    keeps such a row from ever passing for an answer.
    """
    known = (modality == 0) | (modality == 1)
    return torch.where(known, modality.to(dtype), torch.nan)[:, None]
