"""Exact nearest rows among the shards of an index, in bounded memory.

Equally distant rows stand in the order of their ids, in whatever parts they were searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zsml.ops.hamming import hamming_topk

if TYPE_CHECKING:
    from zsml.retrieval.index_shard import Shard

BLOCK = 1 << 11  # rows of the gallery looked at together: in float32 they stay in the cache
QUERIES = 64  # queries asked together
SPARE = 64  # rows kept beyond k by their approximate distance
HALF_ULP = 2.0**-24  # of float32: relative error of one operation

Found = tuple[np.ndarray, np.ndarray]  # distance [Q, m], id int64 [Q, m]


def merge(parts: Iterable[Found], k: int) -> Found:
    """The k nearest of what was found in parts, by (distance, id).

    >>> near, far = (np.array([[1.0, 5.0]]), np.array([[7, 2]])), (np.array([[1.0]]), np.array([[3]]))
    >>> [found.tolist() for found in merge([near, far], 2)]
    [[[1.0, 1.0]], [[3, 7]]]
    """
    parts = list(parts)
    distance, ids = (np.concatenate([part[n] for part in parts], axis=1) for n in (0, 1))
    order = np.lexsort((ids, distance), axis=-1)[:, :k]
    return np.take_along_axis(distance, order, 1), np.take_along_axis(ids, order, 1)


def nearest_codes(codes: Tensor, shards: Sequence[Shard], k: int) -> Found:
    """By Hamming distance, int32, for codes uint8 [Q, W]."""
    found = [_nothing(len(codes), np.int32)]
    for shard in shards:
        distance, row = hamming_topk(codes, shard.code, min(k, len(shard)))
        found.append((distance.numpy(), shard.id[row].numpy()))
    return merge(found, k)


def nearest_rows(query: Tensor, shards: Sequence[Shard], k: int) -> Found:
    """By squared Euclidean distance, float64, for query float32 [Q, D]: sum_d (q_d - g_d)^2, every term and sum in float64.

    Rows are first chosen by ||g||^2 - 2 <q, g> in float32, with more of them than k; those are then measured in float64. Where
    the error bound of the first step does not prove that the rest is farther, the shard is measured in float64 as a whole.
    """
    found = []
    for part in query.split(QUERIES):
        found.append(merge([_nothing(len(part), np.float64), *(_in_shard(part.numpy(), shard, k) for shard in shards)], k))
    return tuple(np.concatenate([part[n] for part in found]) for n in (0, 1))


def measure(query: Tensor, ids: np.ndarray, shards: Sequence[Shard]) -> Found:
    """Squared Euclidean distances, float64, of candidates `ids` [Q, m]; infinite where the id is in none of the shards."""
    distance = np.full(ids.shape, np.inf)
    for n, (q, wanted) in enumerate(zip(query.numpy(), torch.from_numpy(ids), strict=True)):
        for shard in shards:
            place, row = shard.rows_of(wanted)
            if len(place):
                distance[n, place.numpy()] = measured = _squared(q, shard.embedding[row])
                if not np.isfinite(measured).all():
                    raise shard.damaged()
    return distance, ids


def _in_shard(query: np.ndarray, shard: Shard, k: int) -> Found:
    keep = min(len(shard), k + max(SPARE, k))
    rough, rows = _roughly(query, shard, keep)
    sure = np.full(len(query), keep == len(shard))
    if keep > k:
        with np.errstate(over="ignore", invalid="ignore"):
            sure |= rough[:, -1] - rough[:, k - 1] > 2 * _error(query, shard)
    results = []
    for q, near, enough in zip(query, rows, sure, strict=True):
        chosen = torch.from_numpy(near).sort().values if enough else torch.arange(len(shard))
        distance = np.concatenate([_squared(q, shard.embedding[part]) for part in chosen.split(BLOCK)])
        best = np.argsort(distance, kind="stable")[:k]  # rows ascend, and so do their ids
        results.append((distance[best], shard.id[chosen[torch.from_numpy(best)]].numpy()))
    return tuple(np.stack([result[n] for result in results]) for n in (0, 1))


def _roughly(query: np.ndarray, shard: Shard, keep: int) -> Found:
    """||g||^2 - 2 <q, g> in float32 and rows of the `keep` least, ascending, as far as float32 can tell."""
    best, rows = torch.empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.int64)
    room = torch.empty(min(BLOCK, len(shard)), query.shape[1])  # once: fresh memory costs more than the product
    for start in range(0, len(shard), BLOCK):
        block = shard.embedding[start : start + BLOCK]
        block = room[: len(block)].copy_(block)
        with np.errstate(over="ignore", invalid="ignore"):  # numpy: torch's product may be told to use fewer bits
            rough = shard.squares[start : start + BLOCK].numpy() - 2 * (query @ block.numpy().T)  # [Q, B]
        if best.shape[1] == keep and not (rough.min(axis=1) < best.numpy().max(axis=1)).any() and np.isfinite(rough).all():
            continue
        value, row = torch.from_numpy(rough).topk(min(keep, len(block)), dim=1, largest=False)
        best, rows = torch.cat([best, value], dim=1), torch.cat([rows, row + start], dim=1)
        if best.shape[1] > keep:
            best, order = best.topk(keep, dim=1, largest=False)
            rows = rows.gather(1, order)
    best, order = best.sort(dim=1)
    return best.numpy(), rows.gather(1, order).numpy()


def _error(query: np.ndarray, shard: Shard) -> np.ndarray:
    """What rounding can have moved each query's rough values by, at most, [Q]: D terms to a sum, in any order."""
    width = query.shape[1]
    longest = float(shard.squares.double().max()) ** 0.5
    lengths = np.sqrt(np.square(query.astype(np.float64)).sum(axis=1))
    return 2 * HALF_ULP * ((width + 4) * lengths * longest + 2 * longest**2) + width * 2.0**-120  # the last: underflow


def _squared(q: np.ndarray, rows: Tensor) -> np.ndarray:
    difference = rows.numpy().astype(np.float64) - q.astype(np.float64)
    return np.square(difference, out=difference).sum(axis=1)


def _nothing(queries: int, dtype: type) -> Found:
    return np.empty((queries, 0), dtype), np.empty((queries, 0), np.int64)
