"""SBKA's student, ConvNeXt V2 Tiny with two heads, written down a second time from its published weight names alone."""

from __future__ import annotations

import math

import torch
from published_layers import Filler, Weights
from torch import Tensor

DEPTHS = (3, 3, 9, 3)
WIDTHS = (96, 192, 384, 768)


def random_checkpoint(classes: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """A state dict in published names without "module."; classes 0: without `linear`."""
    fill = Filler(seed)
    fill.conv("downsample_layers.0.0", WIDTHS[0], 3, 4, bias=True)
    fill.layer_norm("downsample_layers.0.1", WIDTHS[0])
    for stage in range(1, 4):
        fill.layer_norm(f"downsample_layers.{stage}.0", WIDTHS[stage - 1])
        fill.conv(f"downsample_layers.{stage}.1", WIDTHS[stage], WIDTHS[stage - 1], 2, bias=True)
    for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        for block in range(depth):
            p = f"stages.{stage}.{block}"
            fill.conv(f"{p}.dwconv", width, 1, 7, bias=True)
            fill.layer_norm(f"{p}.norm", width)
            fill.linear(f"{p}.pwconv1", 4 * width, width)
            fill.normal(f"{p}.grn.gamma", 1, 1, 1, 4 * width, std=0.5)
            fill.normal(f"{p}.grn.beta", 1, 1, 1, 4 * width, std=0.5)
            fill.linear(f"{p}.pwconv2", width, 4 * width)
    fill.layer_norm("norm", WIDTHS[-1])
    fill.linear("head", 1000, WIDTHS[-1])
    if classes:
        fill.linear("linear", classes, WIDTHS[-1])
    return fill.state


def forward(state: dict[str, Tensor], images: Tensor, tag: Tensor) -> dict[str, Tensor | None]:
    """Embedding, logits and imagenet_logits in float64, in evaluation mode; the tag has no influence."""
    w = Weights(state)

    def norm_channels(x: Tensor, name: str) -> Tensor:
        return w.layer_norm(x.permute(0, 2, 3, 1), name).permute(0, 3, 1, 2)

    x = norm_channels(w.conv(images.double(), "downsample_layers.0.0", stride=4), "downsample_layers.0.1")
    for stage, depth in enumerate(DEPTHS):
        if stage:
            x = w.conv(norm_channels(x, f"downsample_layers.{stage}.0"), f"downsample_layers.{stage}.1", stride=2)
        for block in range(depth):
            p = f"stages.{stage}.{block}"
            h = w.conv(x, f"{p}.dwconv", padding=3, groups=WIDTHS[stage]).permute(0, 2, 3, 1)  # [B, H, W, C]
            h = w.linear(w.layer_norm(h, f"{p}.norm"), f"{p}.pwconv1")
            h = h * (1 + torch.erf(h / math.sqrt(2))) / 2  # GELU
            energy = torch.sqrt((h**2).sum((1, 2), keepdim=True))  # [B, 1, 1, 4C]
            share = energy / (energy.mean(-1, keepdim=True) + 1e-6)
            h = w[f"{p}.grn.gamma"] * h * share + w[f"{p}.grn.beta"] + h
            x = x + w.linear(h, f"{p}.pwconv2").permute(0, 3, 1, 2)
    embedding = w.layer_norm(x.mean((2, 3)), "norm")
    return {"embedding": embedding, "logits": w.linear(embedding, "linear"), "imagenet_logits": w.linear(embedding, "head")}
