"""Ranks of the relevant gallery items alone: what average precision needs, without sorting anything else.

For each query the R items of its class are taken by ascending (distance, gallery row), and around each the items of other
classes are counted: NEARER (strictly nearer), TIED_BEFORE (equal distance, lower gallery row), TIED (equal distance). The rank
of the p-th of them, p = 1 ... R, is p + NEARER + TIED_BEFORE; over the orders of ties it ranges from p + NEARER to
p + NEARER + TIED.

The order of distances is that of |g|^2 - 2 <q, g> in float32 (float64 for float64 embeddings), after a common shift towards the
origin where it would otherwise cancel; with ``cosine`` it is that of -<q, g> / |g|.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from zsml import _ext

from ._hamming_reference import hamming_distance
from ._register import define

__all__ = ["NEARER", "TIED", "TIED_BEFORE", "hamming_rank_relevant", "rank_relevant"]

NEARER, TIED_BEFORE, TIED = range(3)
CENTRE_ABOVE = 16.0  # squared length of the mean over the spread, as in csrc/hardest_pairs.h
ROWS = 1 << 12  # gallery rows widened at a time
BLOCK = 1 << 20  # distances held at a time by the plain-torch reference


def rank_relevant(
    query: Tensor,
    query_class: Tensor,
    gallery: Tensor,
    order: Tensor,
    starts: Tensor,
    cosine: bool = False,
    frame: tuple[Tensor, float] | None = None,
    packed: Tensor | None = None,
) -> Tensor:
    """Counts of other classes' items around each relevant item, by Euclidean distance or cosine.

    Args:
        query: real-valued [Q, D], finite.
        query_class: int64 [Q], 0 to C - 1.
        gallery: finite [N, D], dtype and device of the query, N < 2^31.
        order: int64 [N], the gallery rows class by class, ascending within each class.
        starts: int64 [C + 1], class c is ``order[starts[c] : starts[c + 1]]``.
        cosine: order by the angle instead of the distance.
        frame: what :func:`common_frame` found for this gallery and all queries, if it was asked before.
        packed: what :func:`pack_gallery` made of the same gallery, order, frame and cosine.

    Returns:
        int32 [3, T] with T = sum of R over the queries: rows NEARER, TIED_BEFORE, TIED, query after query.

    >>> sketch, photos = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    >>> rank_relevant(sketch, torch.tensor([0]), photos, torch.tensor([0, 2, 1]), torch.tensor([0, 2, 3])).tolist()
    [[0, 1], [0, 0], [0, 0]]
    """
    shift, scale = frame or common_frame(gallery, query, cosine)
    return torch.ops.zsml.rank_relevant(query, query_class, gallery, order, starts, shift, scale, cosine, packed)


def common_frame(gallery: Tensor, query: Tensor, cosine: bool) -> tuple[Tensor, float]:
    """(shift float64 [D], scale): x -> scale x - shift brings the largest coordinate near 1 and, where the mean of the gallery
    is much longer than its spread, the mean near 0.

    The scale is a power of two, and the shift lies on a grid no finer than the spread: both are exact for coordinates that lie
    on a grid of their own, so that equal distances stay equal.
    """
    low, high = zip(*(torch.aminmax(x) for x in (gallery, query)), strict=True)
    largest = max(abs(float(edge)) for edge in (*low, *high))
    limit = 1000 if gallery.dtype == torch.float64 else 120  # the scale and what it scales stay normal numbers
    exponent = -math.frexp(largest)[1] if largest > 0 else 0
    scale = math.ldexp(1.0, min(max(exponent, -limit), limit))
    shift = torch.zeros(gallery.shape[1], dtype=torch.float64, device=gallery.device)
    if cosine:
        return shift, scale
    wide = wide_dtype(gallery)
    first = scale if abs(exponent) > 30 else 1.0  # spares a pass where no sum can overflow
    mean = sum(part.sum(dim=0).double() for part in _parts(gallery, first)) / gallery.shape[0]
    distances = (torch.linalg.vector_norm(part - mean.to(wide)) for part in _parts(gallery, first))
    spread = sum((float(distance) * scale / first) ** 2 for distance in distances) / gallery.shape[0]
    mean = mean * (scale / first)
    if float(mean.square().sum()) > CENTRE_ABOVE * spread:
        grid = math.ldexp(1.0, math.frexp(math.sqrt(spread / gallery.shape[1]))[1] - 1) if spread > 0 else 0.0
        shift = (mean / grid).round() * grid if grid > 0 else mean
    return shift, scale


def _parts(gallery: Tensor, scale: float) -> Iterator[Tensor]:
    """A few rows at a time, in the type that is accumulated in."""
    for part in gallery.split(ROWS):
        wide = part.to(wide_dtype(gallery))
        yield wide if scale == 1.0 else wide * scale


def pack_gallery(gallery: Tensor, order: Tensor, frame: tuple[Tensor, float], cosine: bool = False) -> Tensor | None:
    """The gallery laid out once for several calls of :func:`rank_relevant`; None where that is of no use."""
    if gallery.device.type != "cpu" or _ext.cpu_reason:
        return None
    return torch.ops.zsml.pack_gallery(gallery, order, *frame, cosine)


def wide_dtype(x: Tensor) -> torch.dtype:
    """What is accumulated in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def hamming_rank_relevant(q: Tensor, query_class: Tensor, g: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """:func:`rank_relevant` by Hamming distance of packed codes, uint8 [Q, W] and [N, W]."""
    return torch.ops.zsml.hamming_rank_relevant(q, query_class, g, order, starts)


# ---- plain torch: the oracle of the tests, and what runs where no kernel was built -------------------------------------------


def reference(
    query: Tensor,
    query_class: Tensor,
    gallery: Tensor,
    order: Tensor,
    starts: Tensor,
    shift: Tensor,
    scale: float,
    cosine: bool,
    packed: Tensor | None = None,
) -> Tensor:
    wide = wide_dtype(query)
    framed = (gallery.to(wide) * scale - shift.to(wide)).T.contiguous()  # [D, N]
    square = framed.new_zeros(framed.shape[1], dtype=torch.float64)
    for g_k in framed.double():  # not sum(): its order of summation would differ between columns
        square += g_k * g_k
    length = square.sqrt().to(wide)

    def rows(block: Tensor) -> Tensor:
        # Feature by feature: a matrix product's order of summation, and with it the ties, would depend on the shape.
        block = (block.to(wide) * scale - shift.to(wide)).T  # [D, rows]
        total = framed.new_zeros(block.shape[1], framed.shape[1])
        for q_k, g_k in zip(block, framed, strict=True):
            total += q_k[:, None] * g_k if cosine else (q_k[:, None] - g_k).square_()
        return total / -torch.where(length > 0, length, 1) + 0.0 if cosine else total

    return _count(query, query_class, order, starts, gallery.shape[0], rows)


def hamming_reference(q: Tensor, query_class: Tensor, g: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    return _count(q, query_class, order, starts, g.shape[0], lambda block: hamming_distance(block, g))


def _count(query, query_class, order, starts, size, distance_rows) -> Tensor:
    total = int((starts.diff()[query_class]).sum())
    # Written in place: small parts kept between large blocks would scatter memory.
    result = order.new_empty(3, total, dtype=torch.int32)
    done = 0
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
            counts = torch.stack([nearer, torch.tensor(low, device=row.device, dtype=nearer.dtype), tied])
            result[:, done : done + len(relevant)] = counts
            done += len(relevant)
    return result


# ---- registration --------------------------------------------------------------------------------------------------------------

define(
    "rank_relevant",
    "(Tensor query, Tensor query_class, Tensor gallery, Tensor order, Tensor starts, Tensor shift, float scale, "
    "bool cosine, Tensor? packed=None) -> Tensor",
    reference,
)
define(
    "pack_gallery",
    "(Tensor gallery, Tensor order, Tensor shift, float scale, bool cosine) -> Tensor",
    lambda gallery, order, shift, scale, cosine: gallery.new_empty(0, dtype=wide_dtype(gallery)),  # plain torch has no use for it
)
define(
    "hamming_rank_relevant",
    "(Tensor q, Tensor query_class, Tensor g, Tensor order, Tensor starts) -> Tensor",
    hamming_reference,
)


@torch.library.register_fake("zsml::pack_gallery")
def _fake_pack(gallery, order, shift, scale, cosine):
    # How long the result is, is up to the kernels of the machine.
    return gallery.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=wide_dtype(gallery))


@torch.library.register_fake("zsml::rank_relevant")
@torch.library.register_fake("zsml::hamming_rank_relevant")
def _fake(query, query_class, gallery, order, starts, *frame):
    # How many items are relevant is known only from the values.
    return query.new_empty(3, torch.library.get_ctx().new_dynamic_size(), dtype=torch.int32)
