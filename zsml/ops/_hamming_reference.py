"""The ops on packed codes in plain torch: the oracle of the tests, and what runs where no kernel was built.

    d(q, g) = (8 W - <s(q), s(g)>) / 2,    s = +1 for a set bit, -1 for a clear one

The product of +-1 rows is a sum of integers below 2^24, which float32 holds exactly whatever the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1 << 20  # distances held at a time, besides the result
UNPACKED = 1 << 22  # unpacked bits held at a time, per operand
CHUNK = 1 << 16  # bytes of a code per product: sums stay far below 2^24, where float32 stops counting


def pack_bits(bits: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).view(bits.shape[0], -1, 8)  # [N, W, 8]
    place = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (padded * place).sum(dim=2, dtype=torch.uint8)


def unpack_bits(codes: Tensor, b: int) -> Tensor:
    return _bits(codes)[:, :b].bool()


def hamming_distance(q: Tensor, g: Tensor) -> Tensor:
    result = torch.empty(q.shape[0], g.shape[0], dtype=torch.int32, device=q.device)
    rows = _rows(q)
    for start in range(0, q.shape[0], rows):
        for first, tile in _tiles(q[start : start + rows], g):
            result[start : start + rows, first : first + tile.shape[1]] = tile
    return result


def hamming_topk(q: Tensor, g: Tensor, k: int) -> tuple[Tensor, Tensor]:
    size = g.shape[0]
    distance = torch.empty(q.shape[0], k, dtype=torch.int32, device=q.device)
    index = torch.empty(q.shape[0], k, dtype=torch.int64, device=q.device)
    rows = _rows(q)
    for start in range(0, q.shape[0], rows):
        block = q[start : start + rows]
        best = torch.empty(block.shape[0], 0, dtype=torch.int64, device=q.device)  # [rows, <= k] keys so far
        for first, tile in _tiles(block, g):
            columns = torch.arange(first, first + tile.shape[1], device=q.device)
            keys = torch.cat([best, tile.long() * size + columns], dim=1)  # distinct: one order on every device
            best = keys.topk(min(k, keys.shape[1]), dim=1, largest=False).values
        distance[start : start + rows] = best // size
        index[start : start + rows] = best % size
    return distance, index


def hamming_rank(q: Tensor, g: Tensor) -> Tensor:
    result = torch.empty(q.shape[0], g.shape[0], dtype=torch.int32, device=q.device)
    rows = max(1, BLOCK // g.shape[0])
    for start in range(0, q.shape[0], rows):
        distance = hamming_distance(q[start : start + rows], g)
        result[start : start + rows] = distance.argsort(dim=1, stable=True)
    return result


def _rows(q: Tensor) -> int:
    """Queries per block: enough for an efficient product, few enough for the unpacked bits to fit."""
    return max(1, min(256, UNPACKED // (8 * min(q.shape[1], CHUNK))))


def _tiles(q: Tensor, g: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first gallery row, int32 [rows, columns]) over the gallery, at most BLOCK distances at a time."""
    bits = 8 * q.shape[1]
    columns = max(1, min(BLOCK // q.shape[0], UNPACKED // (8 * min(q.shape[1], CHUNK))))
    for first in range(0, g.shape[0], columns):
        part = g[first : first + columns]
        product = torch.zeros(q.shape[0], part.shape[0], dtype=torch.int32, device=q.device)
        with torch.autocast(q.device.type, enabled=False):  # a bfloat16 result would round the count
            for q_bytes, g_bytes in zip(q.split(CHUNK, dim=1), part.split(CHUNK, dim=1), strict=True):
                product += (_signs(q_bytes) @ _signs(g_bytes).T).int()
        yield first, product.neg_().add_(bits).bitwise_right_shift_(1)  # halves an even number


def _bits(codes: Tensor) -> Tensor:
    """uint8 [N, W] -> uint8 [N, 8 W] of 0 and 1, the lowest bit of each byte first."""
    shift = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return ((codes.unsqueeze(2) >> shift) & 1).flatten(1)


def _signs(codes: Tensor) -> Tensor:
    """uint8 [N, W] -> float32 [N, 8 W] of -1 and +1."""
    return _bits(codes).float().mul_(2).sub_(1)
