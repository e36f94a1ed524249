"""MEMS's SE-ResNeXt101 32x4d written down a second time, from its published weight names alone.

Gates with a sigmoid in the middle; those of the first three stages have the tag as the last input of fc2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from published_layers import Filler, Weights, sigmoid
from torch import Tensor

BLOCKS = (3, 4, 23, 3)
WIDTHS = (64, 128, 256, 512)
GROUPS = 32
TAGGED = 3  # stages


def random_checkpoint(dim: int = 16, seed: int = 0, convolutions: bool = True, counters: bool = True) -> dict[str, Tensor]:
    """A state dict as published: gate matrices as 1x1 convolutions (or linear layers), no prefix, no classifier."""
    fill = Filler(seed, counters=counters)
    axes = (1, 1) if convolutions else ()
    fill.conv("layer0.conv1", 64, 3, 7)
    fill.bn("layer0.bn1", 64)
    into = 64
    for layer, (blocks, planes) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
        for block in range(blocks):
            p, width, out, squeezed = f"layer{layer}.{block}", 2 * planes, 4 * planes, planes // 4
            for i, (o, n, side) in enumerate(((width, into, 1), (width, width // GROUPS, 3), (out, width, 1)), start=1):
                fill.conv(f"{p}.conv{i}", o, n, side)
                fill.bn(f"{p}.bn{i}", o)
            fill.linear(f"{p}.se_module.fc1", squeezed, out, *axes)
            fill.linear(f"{p}.se_module.fc2", out, squeezed + (layer <= TAGGED), *axes)
            if block == 0:
                fill.conv(f"{p}.downsample.0", out, into, 1)
                fill.bn(f"{p}.downsample.1", out)
            into = out
    fill.linear("last_linear", dim, 2048)
    return fill.state


def forward(state: dict[str, Tensor], images: Tensor, tag: Tensor) -> dict[str, Tensor | None]:
    """The embedding in float64, in evaluation mode. tag: [B], 0 sketch and 1 photo."""
    w = Weights(state)
    y = tag.double()[:, None]  # [B, 1]

    def gate(x: Tensor, p: str, tagged: bool) -> Tensor:
        z = sigmoid(w.linear(x.mean((2, 3)), f"{p}.fc1"))  # [B, c / 16]
        return sigmoid(w.linear(torch.cat([z, y], 1) if tagged else z, f"{p}.fc2"))

    x = torch.relu(w.bn(w.conv(images.double(), "layer0.conv1", stride=2, padding=3), "layer0.bn1"))
    x = F.max_pool2d(x, 3, stride=2, padding=0, ceil_mode=True)
    for layer, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            p = f"layer{layer}.{block}"
            stride = 2 if block == 0 and layer > 1 else 1
            out = torch.relu(w.bn(w.conv(x, f"{p}.conv1"), f"{p}.bn1"))
            out = torch.relu(w.bn(w.conv(out, f"{p}.conv2", stride=stride, padding=1, groups=GROUPS), f"{p}.bn2"))
            out = w.bn(w.conv(out, f"{p}.conv3"), f"{p}.bn3")
            if block == 0:
                x = w.bn(w.conv(x, f"{p}.downsample.0", stride=stride), f"{p}.downsample.1")
            x = torch.relu(out * gate(out, f"{p}.se_module", layer <= TAGGED)[:, :, None, None] + x)
    return {"embedding": w.linear(x.mean((2, 3)), "last_linear"), "logits": None, "imagenet_logits": None}
