"""The trunks of DASE, the domain-aware squeeze-and-excitation networks of MEMS (arXiv 1812.04275).

A DASE gate is a conditional gate (zsml.models.conditional) with a sigmoid in the middle. The residual networks have it in
stages 1 to 3, and plain gates, with the sigmoid too, in stage 4; the AlexNet has it after each of its convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn

from zsml.errors import InputError
from zsml.models.conditional import TAG_INITS, ConditionalSE, check_choice

DASE_STAGES = 3  # the first stages, whose gates see the modality
SMALLEST_SIDE = 7  # pixels; below it the first convolution of the AlexNet has nothing to cover


class DaseAlexNet(nn.Module):
    """AlexNet with batch normalisation and a gate after each convolution: images [B, 3, H, W] to features [B, 4096].

        x_k = pool(gate(relu(BN(conv(x_{k-1}))), tag)), k = 1..5, pools after 1, 2 and 5;  f = dropout(relu(BN(W mean_hw(x_5))))

    published: the gates as the released code calls them, with reduction 1 and without the tag, so that both modalities are
    seen alike. Otherwise they are DASE gates, reduction 16, and tag [B, 1] is needed. Images of any size from 7 pixels; of
    224 the last map is 7 x 7.

    Raises TypeError or InputError for an option that is neither, and InputError for smaller images.

    Source: Krizhevsky et al., NIPS 2012; gates and normalisation as in the published code of MEMS (arXiv 1812.04275).

    >>> import torch
    >>> trunk = DaseAlexNet().eval()
    >>> trunk(torch.zeros(2, 3, 64, 64), torch.tensor([[0.0], [1.0]])).shape
    torch.Size([2, 4096])
    """

    num_features = 4096

    def __init__(self, *, published: bool = False, tag_init: str = "zero") -> None:
        super().__init__()
        if not isinstance(published, bool):
            raise TypeError(f"published must be True or False, got {published!r}")
        check_choice("tag_init", tag_init, TAG_INITS)
        if published and tag_init == "random":
            raise InputError("tag_init='random' has no meaning with published=True, whose gates have no tag")
        self.conditional = not published
        gate = {"reduction": 1 if published else 16, "mid_act": "sigmoid", "tag_init": tag_init, "conditional": not published}
        self.layers = nn.ModuleList(
            [
                _GatedConv(3, 64, 11, gate, stride=4, padding=2, pool=True),
                _GatedConv(64, 192, 5, gate, padding=2, pool=True),
                _GatedConv(192, 384, 3, gate, padding=1),
                _GatedConv(384, 256, 3, gate, padding=1),
                _GatedConv(256, 256, 3, gate, padding=1, pool=True),
            ]
        )
        self.fc = nn.Linear(256, self.num_features)
        self.bn = nn.BatchNorm1d(self.num_features)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, tag: Tensor | None = None) -> Tensor:
        if min(x.shape[2:]) < SMALLEST_SIDE:
            shape = list(x.shape)
            raise InputError(
                f"images must be at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels for dase_alexnet, got shape {shape}"
            )
        for layer in self.layers:
            x = layer(x, tag)
        return self.dropout(self.bn(self.fc(x.mean((2, 3)))).relu())  # [B, 4096]


class _GatedConv(nn.Module):
    """Convolution, batch normalisation, ReLU, gate, and where asked a pool that halves the map."""

    def __init__(
        self, inputs: int, channels: int, size: int, gate: dict, *, stride: int = 1, padding: int, pool: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.se_module = ConditionalSE(channels, **gate)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()

    def forward(self, x: Tensor, tag: Tensor | None) -> Tensor:
        return self.pool(self.se_module(self.bn(self.conv(x)).relu(), tag))
