"""Exact retrieval evaluation of distances of any kind, a few queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.ops._arrays import as_tensor
from zsml.ops.rank_relevant import NEARER, TIED, TIED_BEFORE
from zsml.retrieval.average_precision import score
from zsml.retrieval.checks import check_labels
from zsml.retrieval.class_lists import ClassLists
from zsml.retrieval.metrics import UNSET, RetrievalResult, Totals, _Unset
from zsml.retrieval.protocol import make_protocol

__all__ = ["evaluate_distances"]

BLOCK = 1 << 22  # distances ranked at a time, about 50 bytes each

Rows: TypeAlias = Tensor | tuple[Tensor, Tensor]


@torch.no_grad()
def evaluate_distances(
    distances: Rows | Callable[[int, int], Rows],
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    preset: str | None = None,
    precision_at: Sequence[int] | _Unset = UNSET,
    map_at: Sequence[int] | _Unset = UNSET,
    interpolation: str | _Unset | None = UNSET,
    ties: str | _Unset = UNSET,
    truncated_denominator: str | _Unset = UNSET,
    precision_cutoff: str | _Unset = UNSET,
    average: str | _Unset = UNSET,
    described: str = "the given distance",
    block: int = BLOCK,
    progress: Callable[[int], None] | None = None,
) -> RetrievalResult:
    """Score the rankings by distances that the caller computes; relevant is what has the query's class.

    The numbers are those of :func:`zsml.metrics.evaluate_retrieval`, which computes Euclidean distances, cosines and Hamming
    distances itself, and faster. Nothing is rounded: what is equal is a tie.

    Args:
        distances: real-valued or integer [Q, N], the smaller the nearer; infinite ones rank last. A pair of such: the second
            decides where the first is equal. Or a function ``(start, stop) -> [stop - start, N]`` (or a pair) that gives the rows
            of some queries: then no Q x N matrix need be held.
        query_labels: int64 [Q] class ids.
        gallery_labels: int64 [N].
        preset, precision_at, map_at, interpolation, ties, truncated_denominator, precision_cutoff, average: as in
            :func:`zsml.metrics.evaluate_retrieval`; ``ties`` is about what is equal in both distances of a pair.
        described: the distance in words, for the protocol of the result.
        block: distances held at a time (but those of one query at least); extra memory is about 50 bytes times this.
        progress: called with the number of queries done after each block.

    Raises:
        TypeError: distances that are not tensors of numbers, labels of the wrong kind.
        InputError: wrong rank or length, NaN, unknown names, cut-offs below 1, ties="expected" with interpolation.

    >>> photo_labels = torch.tensor([0, 1, 1])
    >>> evaluate_distances(torch.tensor([[1.0, 2.0, 8.0], [8.0, 7.0, 1.0]]), torch.tensor([0, 1]), photo_labels).map
    1.0
    """
    given = {
        "precision_at": precision_at,
        "map_at": map_at,
        "interpolation": interpolation,
        "ties": ties,
        "truncated_denominator": truncated_denominator,
        "precision_cutoff": precision_cutoff,
        "average": average,
    }
    if not isinstance(described, str) or not described:
        raise TypeError(f"described must be a sentence, got {described!r}")
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise InputError(f"block must be an int of at least 1, got {block!r}")
    protocol = make_protocol(preset, **{name: value for name, value in given.items() if value is not UNSET})
    protocol = replace(protocol, distance="given", described=described)
    query_labels = check_labels("query_labels", query_labels)
    gallery_labels = check_labels("gallery_labels", gallery_labels)
    count, size = len(query_labels), len(gallery_labels)
    rows = distances if callable(distances) else _slices(distances, count, size)

    lists = ClassLists(gallery_labels)
    query_class = lists.find(query_labels)  # [Q], -1: not in the gallery
    totals = Totals(query_labels, lists.count(query_class), size, protocol)
    step = max(1, block // size)
    for start in range(0, count, step):
        stop = min(start + step, count)
        name = f"distances({start}, {stop})" if callable(distances) else "distances"
        keys = _keys(rows(start, stop), start, stop, size, name)
        own = query_class[start:stop]
        for c in own.unique().tolist():
            if c < 0:
                continue
            queries = (own == c).nonzero()[:, 0]
            first, last = lists.starts[c], lists.starts[c + 1]
            others = torch.cat([lists.order[:first], lists.order[last:]]).sort().values
            counts = _count(keys[queries.to(keys.device)], *(x.to(keys.device) for x in (lists.order[first:last], others)))
            totals.put((queries + start).numpy(), score(counts.cpu().numpy(), size, protocol))
        if progress is not None:
            progress(stop)
    return totals.result()


def _slices(distances: Rows, count: int, size: int) -> Callable[[int, int], Rows]:
    """The rows of a matrix, or of a pair of them, checked as a whole."""
    pair = distances if isinstance(distances, tuple) else (distances,)
    tensors = tuple(as_tensor(x, "distances") for x in pair)
    for x in tensors:
        if not isinstance(x, Tensor):
            raise TypeError(f"distances must be a tensor [Q, N], a pair of such or a function, got {type(x).__name__}")
        if list(x.shape) != [count, size]:
            raise InputError(
                f"distances must have shape [{count}, {size}], a row per entry of query_labels and a column per entry of "
                f"gallery_labels, got {list(x.shape)}"
            )
    return lambda start, stop: tuple(x[start:stop] for x in tensors)


def _keys(rows: Rows, start: int, stop: int, size: int, name: str) -> Tensor:
    """int64 [stop - start, N] in the order of the rows, of pairs of rows if two are given; equal where these are."""
    pair = rows if isinstance(rows, tuple) else (rows,)
    if len(pair) not in (1, 2):
        raise InputError(f"{name} must be one tensor or a pair of them, got {len(pair)}")
    for x in pair:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor or a pair of them, got {type(x).__name__}")
        if x.dtype == torch.bool or x.is_complex() or x.layout != torch.strided:
            raise TypeError(f"{name} must hold real numbers or integers, got {x.dtype}, {x.layout}")
        if list(x.shape) != [stop - start, size]:
            raise InputError(f"{name} must have shape [{stop - start}, {size}], got {list(x.shape)}")
        if x.is_floating_point() and x.isnan().any():
            bad = start + int(x.isnan().any(dim=1).nonzero()[0, 0])
            raise InputError(f"{name} has NaN, first for query {bad}; a distance must be a number or infinite")
    first, *second = (_places(x.detach()) for x in pair)
    return (first << 32) + (second[0] + 2**31) if second else first


def _places(x: Tensor) -> Tensor:
    """int64 of the size of int32 in the order of x, row by row."""
    if x.dtype in (torch.float16, torch.bfloat16, torch.float32):
        bits = (x.float() + 0.0).contiguous().view(torch.int32)  # + 0.0: -0 equals 0
        return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    if x.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        return x.long()
    ordered = x.sort(dim=1)
    steps = torch.zeros_like(ordered.indices)
    steps[:, 1:] = (ordered.values[:, 1:] != ordered.values[:, :-1]).cumsum(dim=1)
    return torch.empty_like(steps).scatter_(1, ordered.indices, steps)


def _count(keys: Tensor, relevant: Tensor, others: Tensor) -> Tensor:
    """What :func:`zsml.ops.rank_relevant.rank_relevant` counts: int64 [3, n, R].

    Args:
        keys: int64 [n, N].
        relevant: int64 [R], ascending columns of the queries' class; others: int64 [N - R], the rest, ascending.
    """
    n, size, r = keys.shape[0], keys.shape[1], len(relevant)
    by_key = keys[:, relevant].sort(dim=1, stable=True)
    wanted, place = by_key.values, relevant[by_key.indices]  # [n, R], by (key, column)
    offered = keys[:, others].contiguous()  # [n, N - R]
    low = torch.searchsorted(wanted, offered)  # relevant ones strictly nearer than each other item
    tied = wanted.gather(1, low.clamp(max=r - 1)) == offered
    tied &= low < r
    row, column = tied.nonzero().unbind(dim=1)
    first = low[tied]  # of the relevant ones it is tied with
    last = torch.searchsorted(wanted, wanted, right=True)[row, first]  # after the last of these

    def running(starts: Tensor) -> Tensor:
        """[n, R]: how many of the places ``row (R + 1) + p`` are at p or before, for p < R."""
        return torch.bincount(starts, minlength=n * (r + 1)).reshape(n, r + 1).cumsum(dim=1)[:, :r]

    # An other item is strictly nearer than the relevant ones from `low` on, or if it is tied from `last` on.
    behind = running((torch.arange(n, device=keys.device)[:, None] * (r + 1) + low).flatten())
    ends = running(row * (r + 1) + last)
    tied_with = running(row * (r + 1) + first) - ends
    # The tied item precedes those of its run whose column is higher: a search by (row, run, column) over all rows at once.
    runs = torch.searchsorted(wanted, wanted) + torch.arange(n, device=keys.device)[:, None] * r  # [n, R]
    run = row * r + first
    after = torch.searchsorted((runs * size + place).flatten(), run * size + others[column]) - row * r
    before = running(row * (r + 1) + after) - ends
    counts = torch.empty(3, n, r, dtype=torch.int64, device=keys.device)
    counts[NEARER], counts[TIED_BEFORE], counts[TIED] = behind - tied_with, before, tied_with
    return counts
