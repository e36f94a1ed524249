"""Rows of length 1, as every loss on directions sees them, and how long they were."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """Rows of length 1, in float32 for half precision; a row of zeros stays one, with a gradient of its own size.

    It holds the result alone for backward: of a million class centres a second copy would matter.
    """
    return _UnitRows.apply(_single(x))[0]


def row_lengths(x: Tensor) -> Tensor:
    """The length of each row, [B], in float32 for half precision; of a row of zeros 0, without gradient."""
    x = _single(x)
    scale = _scale(x)
    return (torch.linalg.vector_norm(x / scale, dim=1, keepdim=True) * scale)[:, 0]


class _UnitRows(torch.autograd.Function):
    """u = x / |x|; its gradient is what of g is at right angles to u, over |x|, and 0 for a row that is not finite."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        scale = _scale(x)
        unit = x / scale
        length = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
        length = torch.where(length > 0, length, 1)
        return unit / length, length * scale  # not in place, by which compiled code loses the gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        unit, length = ctx.saved_tensors
        along = (grad * unit).sum(dim=1, keepdim=True)  # not vecdot, for which autocast would round both
        flow = torch.addcmul(grad, unit, along, value=-1) / length
        finite = unit.sum(dim=1, keepdim=True).isfinite()  # [B, 1]; no coordinate is beyond 1
        return torch.where(finite, flow, 0)


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _scale(x: Tensor) -> Tensor:
    """Of each row a power of two near its largest coordinate, [B, 1]: divided by it, no square over- or underflows."""
    peak = torch.linalg.vector_norm(x.detach(), ord=torch.inf, dim=1, keepdim=True)
    usable = (peak > 0) & (peak < torch.inf)
    return torch.where(usable, torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent - 1), 1)
