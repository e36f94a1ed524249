"""Searching an index: what a request must be, and the stages that answer it, in one process or spread over several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.retrieval.checks import check_embeddings
from zsml.retrieval.nearest import Found, measure, merge, nearest_codes, nearest_rows

if TYPE_CHECKING:
    from zsml.retrieval.index import Index

METHODS = ("float", "bits", "rerank")


def find(
    index: Index, query: Any, k: int, method: str, rerank: int, modality: str, device: torch.device | str, *, spread: bool = False
) -> tuple[Tensor, Tensor]:
    """What `Index.search` found: ids int64 and distance float32 or int32, both [Q, min(k, N)].

    Args:
        spread: each process of torch.distributed searches its share of the shards; all of them get the whole answer, which is
            the one of a single process.
    """
    check_request(index, k, method, rerank)
    embedding = _embedded(index, query, modality, device)
    shards, together = index.shards, _alone
    if spread:
        shards = shards[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
        together = _of_all_ranks
        first = [embedding]
        torch.distributed.broadcast_object_list(first)  # another process may have rounded otherwise
        embedding = first[0]
    if method == "float":
        distance, ids = together(nearest_rows(embedding, shards, k), k)
        return torch.from_numpy(ids), _root(distance)
    codes = index.quantizer.transform(embedding)
    near = k if method == "bits" else max(k, rerank)
    distance, ids = together(nearest_codes(codes, shards, near), near)
    if method == "bits":
        return torch.from_numpy(ids), torch.from_numpy(distance)
    distance, ids = together(measure(embedding, ids, shards), min(k, ids.shape[1]))
    return torch.from_numpy(ids), _root(distance)


def check_request(index: Index, k: int, method: str, rerank: int) -> None:
    """Raise TypeError or InputError unless the index can be searched so."""
    for name, value in (("k", k), ("rerank", rerank)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < 1:
            raise InputError(f"{name} must be 1 or more, got {value}")
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method != "float" and index.quantizer is None:
        raise InputError(
            f"method {method!r} needs binary codes, which this index has not; `zsml index codes {index.folder} --bits "
            f"{min(64, index.width)}` makes them"
        )


def _embedded(index: Index, query: Any, modality: str, device: torch.device | str) -> Tensor:
    """The embeddings float32 [Q, D] to search for."""
    if isinstance(query, (list, tuple)):
        query = index.encoder(device)(query, modality)
    query = check_embeddings("query", query).cpu()
    if query.shape[1] != index.width:
        raise InputError(f"query must have the {index.width} columns of this index's embeddings, got {query.shape[1]}")
    return check_embeddings("query, as float32,", query.float())


def _alone(found: Found, k: int) -> Found:
    return merge([found], k)


def _of_all_ranks(found: Found, k: int) -> Found:
    """The nearest of what all processes found; an id that several name, of a shard that one has, counts once."""
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, found)
    distance, ids = merge(parts, sum(part[1].shape[1] for part in parts))
    return distance[:, :k], ids[:, :k]


def _root(squared: np.ndarray) -> Tensor:
    return torch.from_numpy(np.sqrt(squared)).float()
