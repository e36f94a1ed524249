"""Rows of length 1, as every loss on directions sees them."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """Rows of length 1, in float32 for half precision; a row of zeros stays one, with a gradient of its own size.

    Rows are first brought to a largest coordinate near 1 by a power of two, so that no square over- or underflows.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    peak = x.detach().abs().amax(dim=1, keepdim=True)
    usable = (peak > 0) & (peak < torch.inf)
    x = x / torch.where(usable, torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent - 1), 1)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / torch.where(length > 0, length, 1)
