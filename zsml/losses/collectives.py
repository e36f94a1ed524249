"""Collectives of ``torch.distributed`` that autograd can go through, and that do not wait for ever."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(seconds=60)  # how long to wait for the other ranks; raise it where one of them may be busy for longer


class GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        return all_rows(t, sizes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        world, own = len(ctx.sizes), ctx.sizes[dist.get_rank()]
        parts = grad.new_empty(world * own, *grad.shape[1:])  # what each rank has for the own rows
        finish(dist.all_to_all_single(parts, grad.contiguous(), [own] * world, list(ctx.sizes), async_op=True), grad)
        wide = torch.promote_types(grad.dtype, torch.float32)
        return parts.view(world, own, *grad.shape[1:]).sum(dim=0, dtype=wide).to(grad.dtype), None


class GlobalSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        total = t.detach().clone(memory_format=torch.contiguous_format)
        finish(dist.all_reduce(total, async_op=True), total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def all_rows(t: Tensor, sizes: list[int] | tuple[int, ...]) -> Tensor:
    """All ranks send as many rows as the longest has, since not every backend knows uneven parts; what was added is cut off."""
    longest = max(sizes)
    mine = t.detach().contiguous()
    if len(mine) < longest:
        mine = torch.cat([mine, mine.new_zeros(longest - len(mine), *mine.shape[1:])])
    everything = mine.new_empty(len(sizes) * longest, *mine.shape[1:])
    if longest:
        finish(dist.all_gather_into_tensor(everything, mine, async_op=True), everything)
    if min(sizes) == longest:
        return everything
    return torch.cat([part[:size] for part, size in zip(everything.split(longest), sizes, strict=True)])


def finish(work: dist.Work, t: Tensor, *, block: bool = False) -> None:
    """Wait for a collective; on CUDA only the stream does, unless told to block."""
    try:
        work.wait(TIMEOUT) if block or t.device.type == "cpu" else work.wait()
    except RuntimeError as error:
        raise RuntimeError(
            f"gather: not all ranks came within {TIMEOUT.total_seconds():g} s, or one is gone; every rank has to call the loss, "
            f"and backward, equally often ({error})"
        ) from error
