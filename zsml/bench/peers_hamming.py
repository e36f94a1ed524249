"""Nearest codes and whole rankings as people compute them, each as `make(data) -> call` (see case.Provider).

`topk` peers return (distances [Q, k], indices [Q, k]); `rank` peers return a list of blocks of whole rankings.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from zsml.bench.case import Unable
from zsml.bench.data import Retrieval
from zsml.ops import hamming_rank, hamming_topk, unpack_bits

BLOCK = 64  # queries ranked at a time by those who hold all distances of a block

Make = Callable[[Retrieval], Callable[[], Any]]


def topk_zsml(k: int) -> Make:
    """The op itself."""
    return lambda data: lambda: hamming_topk(data.query, data.gallery, k)


def topk_faiss(k: int, heap: bool) -> Make:
    """faiss' IndexBinaryFlat: a heap per query (its default) or counting sort (`use_heap = False`)."""

    def make(data: Retrieval) -> Callable[[], Any]:
        import faiss

        query, gallery = data.query.numpy(), data.gallery.numpy()
        index = faiss.IndexBinaryFlat(8 * gallery.shape[1])
        index.use_heap = heap
        index.add(gallery)
        return lambda: index.search(query, k)

    return make


def topk_torch(k: int) -> Make:
    """The product of +-1 rows, unpacked beforehand, and torch.topk."""

    def make(data: Retrieval) -> Callable[[], Any]:
        query, gallery, bits = signs(data.query), signs(data.gallery).T, 8 * data.query.shape[1]

        def call() -> tuple[torch.Tensor, torch.Tensor]:
            best = [(rows @ gallery).topk(k, dim=1) for rows in query.split(4 * BLOCK)]
            product = torch.cat([values for values, _ in best])
            return (bits - product) / 2, torch.cat([indices for _, indices in best])

        return call

    return make


def rank_zsml(data: Retrieval) -> Callable[[], Any]:
    """The op itself, in blocks only where the ranking of all queries would not fit."""
    return lambda: [hamming_rank(query, data.gallery) for query in data.query.split(4096)]


def rank_faiss(data: Retrieval) -> Callable[[], Any]:
    """faiss.hammings, then numpy's stable argsort, which for 16-bit keys is a radix sort; blocks of queries on all threads."""
    import faiss

    query, gallery = data.query.numpy(), data.gallery.numpy()

    def block(start: int) -> np.ndarray:
        rows = query[start : start + BLOCK]
        distance = np.empty((len(rows), len(gallery)), np.int32)
        pointers = [faiss.swig_ptr(array) for array in (rows, gallery, distance)]
        faiss.hammings(*pointers[:2], len(rows), len(gallery), gallery.shape[1], pointers[2])
        return np.argsort(distance.astype(np.uint16), axis=1, kind="stable")

    return lambda: in_threads(block, range(0, len(query), BLOCK))


def rank_numpy(data: Retrieval) -> Callable[[], Any]:
    """xor, np.bitwise_count, sum over the words, and the same radix sort."""
    if not hasattr(np, "bitwise_count"):
        raise Unable(f"needs numpy 2 or newer, found {np.__version__}")
    width = data.query.shape[1]
    word = np.dtype(next(f"uint{8 * size}" for size in (8, 4, 2, 1) if width % size == 0))
    query, gallery = (np.ascontiguousarray(codes.numpy()).view(word) for codes in (data.query, data.gallery))
    columns = np.ascontiguousarray(gallery.T)  # [words, N]

    def block(start: int) -> np.ndarray:
        rows = query[start : start + BLOCK]
        distance = np.zeros((len(rows), len(gallery)), np.uint16)
        for mine, theirs in zip(rows.T, columns, strict=True):
            distance += np.bitwise_count(mine[:, None] ^ theirs)
        return np.argsort(distance, axis=1, kind="stable")

    return lambda: in_threads(block, range(0, len(query), BLOCK))


def rank_scipy(data: Retrieval) -> Callable[[], Any]:
    """As published evaluation code does it: scipy's cdist of bool rows, numpy's default argsort of the negated scores."""
    from scipy.spatial.distance import cdist

    query, gallery = (unpack_bits(codes, 8 * codes.shape[1]).numpy() for codes in (data.query, data.gallery))

    def call() -> list[np.ndarray]:
        scores = -cdist(query, gallery, "hamming")
        return [np.argsort(-scores, axis=1)]

    return call


def rank_torch(data: Retrieval) -> Callable[[], Any]:
    """The product of +-1 rows, unpacked beforehand, and torch's stable argsort of 16-bit keys."""
    query, gallery = signs(data.query), signs(data.gallery).T
    return lambda: [(-(rows @ gallery)).short().argsort(dim=1, stable=True) for rows in query.split(4 * BLOCK)]


def signs(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [N, W] -> float32 [N, 8 W] of -1 and +1."""
    return unpack_bits(codes, 8 * codes.shape[1]).float() * 2 - 1


def in_threads(function: Callable[[Any], Any], items: Any) -> list[Any]:
    """map() on as many threads as torch may use: numpy and faiss release the interpreter lock where they work."""
    if (threads := torch.get_num_threads()) == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
