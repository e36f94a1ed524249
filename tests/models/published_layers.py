"""What the published networks are made of, written down a second time: random tensors by name, and plain functions of them.

Nothing here uses zsml or timm. All is computed in float64.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Filler:
    """A state dict in the making: random tensors under published names, of sizes that keep activations moderate."""

    def __init__(self, seed: int, *, counters: bool = True) -> None:
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.counters = counters

    def normal(self, name: str, *shape: int, std: float) -> None:
        self.state[name] = std * torch.randn(shape, generator=self.generator)

    def uniform(self, name: str, *shape: int) -> None:
        self.state[name] = 0.5 + torch.rand(shape, generator=self.generator)

    def conv(self, name: str, out: int, into: int, side: int, *, bias: bool = False) -> None:
        """A convolution from `into` channels each (the inputs over the groups)."""
        self.normal(f"{name}.weight", out, into, side, side, std=math.sqrt(2 / (into * side * side)))
        if bias:
            self.normal(f"{name}.bias", out, std=0.1)

    def linear(self, name: str, out: int, into: int, *axes: int, bias: bool = True) -> None:
        self.normal(f"{name}.weight", out, into, *axes, std=1 / math.sqrt(into))
        if bias:
            self.normal(f"{name}.bias", out, std=0.1)

    def bn(self, name: str, size: int) -> None:
        self.uniform(f"{name}.weight", size)
        self.normal(f"{name}.bias", size, std=0.1)
        self.normal(f"{name}.running_mean", size, std=0.1)
        self.uniform(f"{name}.running_var", size)
        if self.counters:
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(1000)

    def layer_norm(self, name: str, size: int) -> None:
        self.uniform(f"{name}.weight", size)
        self.normal(f"{name}.bias", size, std=0.1)


class Weights:
    """Layers of a network in evaluation mode, by the published names of their tensors."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def __contains__(self, name: str) -> bool:
        return name in self.state

    def __getitem__(self, name: str) -> Tensor:
        return self.state[name].double()

    def conv(self, x: Tensor, name: str, **options: int) -> Tensor:
        out = F.conv2d(x, self[f"{name}.weight"], **options)
        return out + self[f"{name}.bias"][:, None, None] if f"{name}.bias" in self else out

    def linear(self, x: Tensor, name: str) -> Tensor | None:
        """x W^T + b; without b where there is none, None where there is no such layer. W may have axes of one image point."""
        if f"{name}.weight" not in self:
            return None
        weight = self[f"{name}.weight"]
        out = x @ weight.reshape(weight.shape[:2]).T
        return out + self[f"{name}.bias"] if f"{name}.bias" in self else out

    def bn(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        """Over the last axis."""
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6) * self[f"{name}.weight"] + self[f"{name}.bias"]


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names and shapes, one number each: torch.save writes a broadcast tensor as that number alone."""
    numbers = {name: torch.tensor((i + 1) / 16) for i, name in enumerate(state)}
    return {name: numbers[name].expand(value.shape) if value.is_floating_point() else value for name, value in state.items()}
