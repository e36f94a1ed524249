"""Ranks of the relevant gallery items alone: what average precision needs, without sorting anything else.

For each query the R items of its class are taken by ascending (distance, gallery row), and around each the items of other
classes are counted: NEARER (strictly nearer), TIED_BEFORE (equal distance, lower gallery row), TIED (equal distance). The rank
of the p-th of them, p = 1 ... R, is p + NEARER + TIED_BEFORE; over the orders of ties it ranges from p + NEARER to
p + NEARER + TIED.

The order of distances is that of |g|^2 - 2 <q, g> in float32 (float64 for float64 embeddings), or with ``inner`` of -<q, g>.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._hamming_reference import hamming_distance
from ._register import define

__all__ = ["NEARER", "TIED", "TIED_BEFORE", "hamming_rank_relevant", "rank_relevant"]

NEARER, TIED_BEFORE, TIED = range(3)
BLOCK = 1 << 20  # distances held at a time by the plain-torch reference


def rank_relevant(
    query: Tensor, query_class: Tensor, gallery: Tensor, order: Tensor, starts: Tensor, inner: bool = False
) -> Tensor:
    """Counts of other classes' items around each relevant item, by Euclidean distance or inner product.

    Args:
        query: real-valued [Q, D], finite, without a common offset that dwarfs the distances.
        query_class: int64 [Q], each a class with at least one gallery item; queries of one class are best kept together.
        gallery: [N, D], dtype and device of the query, N < 2^31.
        order: int64 [N], the gallery rows class by class, ascending within each class.
        starts: int64 [C + 1], class c is ``order[starts[c] : starts[c + 1]]``.
        inner: order by -<q, g> instead of |q - g|.

    Returns:
        int32 [3, T] with T = sum of R over the queries: rows NEARER, TIED_BEFORE, TIED, query after query.

    >>> sketch, photos = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    >>> rank_relevant(sketch, torch.tensor([0]), photos, torch.tensor([0, 2, 1]), torch.tensor([0, 2, 3])).tolist()
    [[0, 1], [0, 0], [0, 0]]
    """
    return torch.ops.zsml.rank_relevant(query, query_class, gallery, order, starts, inner)


def hamming_rank_relevant(q: Tensor, query_class: Tensor, g: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """:func:`rank_relevant` by Hamming distance of packed codes, uint8 [Q, W] and [N, W]."""
    return torch.ops.zsml.hamming_rank_relevant(q, query_class, g, order, starts)


# ---- plain torch: the oracle of the tests, and what runs where no kernel was built -------------------------------------------


def reference(query: Tensor, query_class: Tensor, gallery: Tensor, order: Tensor, starts: Tensor, inner: bool) -> Tensor:
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    gallery = gallery.to(wide)

    def rows(block: Tensor) -> Tensor:
        # Feature by feature: a matrix product's order of summation, and with it the ties, would depend on the shape.
        block = block.to(wide)
        total = gallery.new_zeros(block.shape[0], gallery.shape[0])
        for q_k, g_k in zip(block.T, gallery.T, strict=True):
            total += q_k[:, None] * g_k if inner else (q_k[:, None] - g_k).square_()
        return -total if inner else total

    return _count(query, query_class, order, starts, gallery.shape[0], rows)


def hamming_reference(q: Tensor, query_class: Tensor, g: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    return _count(q, query_class, order, starts, g.shape[0], lambda block: hamming_distance(block, g))


def _count(query, query_class, order, starts, size, distance_rows) -> Tensor:
    parts = []
    block = max(1, BLOCK // size)
    for first in range(0, query.shape[0], block):
        distances = distance_rows(query[first : first + block])  # [rows, N]
        for row, own in zip(distances, query_class[first : first + block].tolist(), strict=True):
            relevant = order[starts[own] : starts[own + 1]]
            others = torch.cat([order[: starts[own]], order[starts[own + 1] :]]).sort().values
            by_distance = row[relevant].sort(stable=True)
            wanted, place = by_distance.values, relevant[by_distance.indices]
            sorted_others = row[others].sort(stable=True)
            nearer = torch.searchsorted(sorted_others.values, wanted)
            tied = torch.searchsorted(sorted_others.values, wanted, right=True) - nearer
            # Within a run of equals the others lie by ascending row, so the lower ones come first.
            rows = others[sorted_others.indices]
            low = [int(torch.searchsorted(rows[n : n + t], p)) for n, t, p in zip(nearer, tied, place, strict=True)]
            parts.append(torch.stack([nearer, torch.tensor(low, device=row.device, dtype=nearer.dtype), tied]))
    return torch.cat(parts, dim=1).int() if parts else order.new_empty(3, 0, dtype=torch.int32)


# ---- registration --------------------------------------------------------------------------------------------------------------

define(
    "rank_relevant",
    "(Tensor query, Tensor query_class, Tensor gallery, Tensor order, Tensor starts, bool inner) -> Tensor",
    reference,
)
define(
    "hamming_rank_relevant",
    "(Tensor q, Tensor query_class, Tensor g, Tensor order, Tensor starts) -> Tensor",
    hamming_reference,
)


@torch.library.register_fake("zsml::rank_relevant")
@torch.library.register_fake("zsml::hamming_rank_relevant")
def _fake(query, query_class, gallery, order, starts, inner=False):
    # How many items are relevant is known only from the values.
    return query.new_empty(3, torch.library.get_ctx().new_dynamic_size(), dtype=torch.int32)
