"""Distances of queries to the whole gallery, block by block, the same to the last bit everywhere.

A ranking must not depend on how the work was cut or where it ran. A matrix product does not give that: its
order of summation changes with the shape, the library and the device, so two identical gallery images get
distances an ulp apart and the tie rule is lost. Here a distance is summed feature by feature in float64, k =
0, 1, ..., D - 1, each step a separately rounded elementwise operation:

    euclidean   sum_k (q_k - g_k)^2                       (squared: the same order)
    cosine      -sum_k q_k g_k / (|q| |g|)                (0 where a vector is 0)
    hamming     popcount(q xor g)                         (an integer)

Every pair sees the same operations whatever block it is in, identical rows get identical distances, and
near-duplicates do not cancel as they do in |q|^2 + |g|^2 - 2 <q, g>.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from zsml.ops.hamming import hamming_distance

TILE = (128, 1024)  # queries x gallery items summed at a time on the CPU: float64, 1 MiB, stays in cache


def distance_rows(query: Tensor, gallery: Tensor, distance: str, block: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first query, distances [rows, N]) with ``rows = max(1, block // N)``.

    Args:
        query: [Q, D] real-valued, or packed codes uint8 [Q, W] for ``"hamming"``.
        gallery: [N, D] or [N, W], same device.
        distance: "euclidean" | "cosine" | "hamming"; only the order of the values means anything.
        block: distances held at a time.

    >>> q, g = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    >>> [(first, d.argsort().tolist()) for first, d in distance_rows(q, g, "euclidean", 100)]
    [(0, [[1, 0]])]
    """
    rows = max(1, block // gallery.shape[0])
    if distance == "hamming":
        for start in range(0, query.shape[0], rows):
            yield start, hamming_distance(query[start : start + rows], gallery)
        return
    pair = _squared_euclidean if distance == "euclidean" else _negative_cosine
    exponent = _exponent(max(_largest(query), _largest(gallery))) if distance == "euclidean" else 0
    for start in range(0, query.shape[0], rows):
        part = query[start : start + rows]
        result = torch.empty(part.shape[0], gallery.shape[0], dtype=torch.float64, device=query.device)
        height, width = TILE if query.device.type == "cpu" else result.shape
        for j in range(0, gallery.shape[0], width):
            g = _by_feature(gallery[j : j + width], exponent)  # [D, width]
            for i in range(0, part.shape[0], height):
                q = _by_feature(part[i : i + height], exponent)  # [D, height]
                result[i : i + height, j : j + width] = pair(q, g)
        yield start, result


def _squared_euclidean(q: Tensor, g: Tensor) -> Tensor:
    total = q.new_zeros(q.shape[1], g.shape[1])
    step = torch.empty_like(total)
    for q_k, g_k in zip(q, g, strict=True):
        torch.sub(q_k.unsqueeze(1), g_k, out=step)
        total += step.mul_(step)  # two roundings on purpose: a fused multiply-add exists on some devices only
    return total


def _negative_cosine(q: Tensor, g: Tensor) -> Tensor:
    q, g = _unit(q), _unit(g)
    total = q.new_zeros(q.shape[1], g.shape[1])
    step = torch.empty_like(total)
    for q_k, g_k in zip(q, g, strict=True):
        total += torch.mul(q_k.unsqueeze(1), g_k, out=step)
    return total.neg_().add_(0.0)  # -0.0 + 0.0 = 0.0: sorts that compare bits must see one zero


def _unit(x: Tensor) -> Tensor:
    """Columns of x [D, n] at length 1; a zero column stays zero."""
    peak = x.abs().amax(dim=0).clamp_min(2.0**-1000)
    x = x * (torch.frexp(peak).mantissa / peak)  # a power of two: exact, and no square below overflows or vanishes
    square = torch.zeros_like(x[0])
    for x_k in x:
        square += x_k * x_k
    return x / torch.where(square > 0, square, 1).sqrt()


def _by_feature(x: Tensor, exponent: int) -> Tensor:
    """x [n, D] -> float64 [D, n], times 2^-exponent: exact, and squares of huge or tiny values stay in
    range."""
    return x.to(torch.float64).T.contiguous().mul_(2.0**-exponent)


def _largest(x: Tensor) -> float:
    return max(part.abs().amax().item() for part in x.split(1 << 16))


def _exponent(value: float) -> int:
    """Power of two that brings ``value`` to about 1; limited so that 2^-exponent is itself a normal
    number."""
    return max(-1000, min(1000, math.frexp(value)[1]))
