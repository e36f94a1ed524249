"""Rows of a batch as the plain-torch stand-ins take them."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1 << 17  # pairs at a time: 1 MiB of float64, which stays in the cache, as do the few of its size that are made on the way


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over rows of this dtype are held and returned in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def finite_rows(t: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, with zeros for what is not finite, [rows, D]; and which rows are finite, [rows]."""
    return t.double().nan_to_num(0.0, 0.0, 0.0), t.isfinite().all(dim=1)


def blocks(rows: int, columns: int) -> list[slice]:
    """Slices of rows, each of at most BLOCK pairs with the columns (or one row)."""
    step = max(1, BLOCK // max(columns, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
