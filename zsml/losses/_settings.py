"""Checks of what losses are made with, and of the batch they are called with."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.ops import _check


def whole(value: int, name: str, least: int) -> int:
    """A whole number, NumPy's too, at least so large."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}")
    return int(value)


def between(value: float, name: str, low: float, high: float = math.inf) -> float:
    """A finite number from low to high."""
    if not _check.is_number(value) or not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name} must be a number, {allowed}, got {value!r}")
    return float(value)


def batch(embeddings: Tensor) -> None:
    """Embeddings [B, D] with at least one row."""
    _check.embeddings(embeddings, "embeddings")
    if embeddings.shape[0] == 0:
        raise InputError(f"embeddings must have shape [B, D] with B >= 1, got {list(embeddings.shape)}")


def in_inference_mode() -> bool:
    """Whether what is made now can take part in no training: then a loss keeps its state."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()  # dynamo leaves the mode while it traces


def described(loss: nn.Module, *names: str) -> str:
    """What extra_repr() says: the settings of a loss by name."""
    return ", ".join(f"{name}={getattr(loss, name)!r}" for name in names)
