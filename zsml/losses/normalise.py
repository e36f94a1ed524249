"""Rows of length 1, as every loss on directions sees them, and how long they were."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """Rows of length 1, in float32 for half precision; a row of zeros stays one, with a gradient of its own size."""
    x, _ = _tame(x)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / torch.where(length > 0, length, 1)


def row_lengths(x: Tensor) -> Tensor:
    """The length of each row, [B], in float32 for half precision; of a row of zeros 0, without gradient."""
    x, scale = _tame(x)
    return (torch.linalg.vector_norm(x, dim=1, keepdim=True) * scale)[:, 0]


def _tame(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by a power of two that brings their largest coordinate near 1, so that no square over- or underflows; it."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    peak = x.detach().abs().amax(dim=1, keepdim=True)
    usable = (peak > 0) & (peak < torch.inf)
    scale = torch.where(usable, torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent - 1), 1)
    return x / scale, scale
