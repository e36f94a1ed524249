"""SE-ResNet50 whose squeeze-and-excitation gates are told the modality of each image (CSE-ResNet50).

Only the gate and the route of the tag are ours: every convolution, normalisation and weight name is timm's
`legacy_seresnet50`, so its ImageNet weights fit as they are.
"""

from __future__ import annotations

import torch
from timm.models.senet import SEModule, SENet, SEResNetBottleneck
from torch import Tensor, nn

STAGES = 4


class ConditionalSE(SEModule):
    """Rescale channels by a gate that also sees the modality tag y (0 sketch, 1 photo).

        z = relu(W1 mean_hw(x) + b1);  g = sigmoid(W2 z + b2 + w_tag y);  out = x * g

    x, out: float [B, C, H, W]; tag: float [B, 1]; W1: [C / reduction, C]; W2: [C, C / reduction]; w_tag: [C, 1].
    w_tag starts at zero: the gate then equals plain squeeze-and-excitation for both modalities. With `fc_tag = None`
    it stays plain. This is MATHM's factored form of SAKE's gate, which appends y to z as one more input of W2; w_tag is
    that column.

    Source: Liu et al., SAKE, ICCV 2019; Lu et al., MATHM, arXiv 2112.07966.

    >>> import torch
    >>> gate = ConditionalSE(32, 16)
    >>> gate(torch.ones(2, 32, 4, 4), torch.tensor([[0.0], [1.0]])).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__(channels, reduction)
        self.fc_tag: nn.Linear | None = nn.Linear(1, channels, bias=False)
        nn.init.zeros_(self.fc_tag.weight)

    def forward(self, x: Tensor, tag: Tensor) -> Tensor:
        z = self.relu(self.fc1(x.mean((2, 3), keepdim=True)))  # [B, C / reduction, 1, 1]
        a = self.fc2(z)  # [B, C, 1, 1]
        if self.fc_tag is not None:
            a = a + self.fc_tag(tag)[:, :, None, None]
        return x * self.sigmoid(a)


class ConditionalBottleneck(SEResNetBottleneck):
    """timm's SE-ResNet bottleneck, handing the tag to its gate."""

    def __init__(
        self, inplanes: int, planes: int, groups: int, reduction: int, stride: int = 1, downsample=None, **kwargs
    ) -> None:
        super().__init__(inplanes, planes, groups, reduction, stride, downsample, **kwargs)
        self.se_module = ConditionalSE(planes * self.expansion, reduction)

    def forward(self, x: Tensor, tag: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(self.se_module(out, tag) + shortcut)


class ConditionalSEResNet50(SENet):
    """CSE-ResNet50 trunk: images [B, 3, H, W] and tag [B, 1] to pooled features [B, 2048].

    The tag is an argument of every block, never state, so that batches of one, several models and threads are safe.
    Stages 1..cse_end of 4 have conditional gates, the later ones plain gates (MATHM's `cse_end`).
    """

    def __init__(self, cse_end: int = STAGES) -> None:
        super().__init__(ConditionalBottleneck, layers=(3, 4, 6, 3), groups=1, reduction=16, drop_rate=0.0, num_classes=0)
        for layer in self.stages()[cse_end:]:
            for block in layer:
                block.se_module.fc_tag = None

    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x: Tensor, tag: Tensor) -> Tensor:
        x = self.pool0(self.layer0(x))
        for layer in self.stages():
            for block in layer:
                x = block(x, tag)
        return self.global_pool(x)  # [B, 2048]


def modality_tag(modality: Tensor, dtype: torch.dtype) -> Tensor:
    """The tag [B, 1] of modality [B]: 0.0 sketch, 1.0 photo, NaN for any other value.

    A value cannot be looked at without making the host wait for a GPU, and not at all inside a compiled graph; NaN
    keeps such a row from ever passing for an answer.
    """
    known = (modality == 0) | (modality == 1)
    return torch.where(known, modality.to(dtype), torch.nan)[:, None]
