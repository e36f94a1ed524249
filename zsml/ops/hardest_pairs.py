"""Modality-aware hardest positives and negatives, without the distance matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import _check
from ._arrays import as_tensor
from ._register import define, no_second_derivative
from ._rows import accumulate_dtype

WITHIN_POS, WITHIN_NEG, CROSS_POS, CROSS_NEG = range(4)
_PRECISIONS = {"highest": 0, "high": 1, "medium": 2}


class HardestPairs(NamedTuple):
    """Rows WITHIN_POS, WITHIN_NEG, CROSS_POS, CROSS_NEG; one column per anchor."""

    distance: Tensor  # [4, B] float32 (float64 for float64 embeddings)
    index: Tensor  # [4, B] int64, -1 where there is no partner


def hardest_pairs(
    x: Tensor,  # [B, D]
    labels: Tensor,  # [B]
    modality: Tensor | None = None,  # [B]
    *,
    refs: Tensor | None = None,  # [M, D]
    ref_labels: Tensor | None = None,  # [M]
    ref_modality: Tensor | None = None,  # [M]
    exclude: Tensor | None = None,  # [B]
) -> HardestPairs:
    r"""For each anchor, its farthest same-class and nearest other-class sample, within its own modality and across modalities.

    .. math:: d_{ij} = \sqrt{\textstyle\sum_k (x_{ik} - r_{jk})^2}, \quad
              p_i = \arg\max_{y_j = y_i} d_{ij}, \quad n_i = \arg\min_{y_j \ne y_i} d_{ij}

    each once over the samples j with :math:`m_j = m_i` (within) and once with :math:`m_j \ne m_i` (cross): batch-hard mining
    (Hermans et al. 2017, eq. 5) kept apart by modality (MATHM, arXiv 2112.07966, section 3.2). Nothing of size B x M is held.

    Arrays of other libraries (NumPy, CuPy, anything with ``__dlpack__``) are taken on the memory they have, without a copy and
    without a gradient.

    Args:
        x: anchors, [B, D], float16, bfloat16, float32 or float64.
        labels: class ids, [B] int64.
        modality: modality ids, [B] int64 (0 sketch, 1 photo, ...); None means one modality.
        refs: candidates, [M, D] (memory bank, other ranks); ``x`` itself where None, and then no anchor is its own partner.
            A dtype other than that of ``x`` promotes both.
        ref_labels: [M] int64, required with ``refs``.
        ref_modality: [M] int64, given exactly when ``refs`` and ``modality`` are.
        exclude: [B] int64, one row of ``refs`` per anchor to skip, or -1.

    Returns:
        ``distance`` [4, B] and ``index`` [4, B]; rows are WITHIN_POS, WITHIN_NEG, CROSS_POS, CROSS_NEG. Equal distances: the
        lowest index. No candidate: index -1, distance -inf (positives) or +inf (negatives). An anchor with a NaN or infinite
        coordinate: distance NaN, index -1; as a candidate such a row is never chosen. ``distance`` is recomputed from the chosen
        pairs in float32 (float64), and differentiable in ``x`` and ``refs``; where it is 0 the gradient is 0.

    The search has the precision of the input dtype; float32 on CUDA follows :func:`torch.get_float32_matmul_precision`. Under
    autocast the embeddings are taken in the dtype they arrive in.

    Raises:
        ValueError: wrong rank, length, device, empty batch, ``exclude`` out of range.
        TypeError: not a tensor, embeddings not floating point or not dense, ids not int64.
        NotImplementedError: a forward-mode or a second derivative is asked for.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    >>> pairs = hardest_pairs(x, torch.tensor([0, 0, 1]))
    >>> pairs.distance[WITHIN_POS, 0].item(), pairs.index[WITHIN_NEG, 0].item()
    (5.0, 2)
    """
    x, labels, modality = as_tensor(x, "x"), as_tensor(labels, "labels"), as_tensor(modality, "modality")
    refs, ref_labels = as_tensor(refs, "refs"), as_tensor(ref_labels, "ref_labels")
    ref_modality, exclude = as_tensor(ref_modality, "ref_modality"), as_tensor(exclude, "exclude")
    _check.embeddings(x, "x")
    _check.ids(labels, "labels", x)
    if modality is not None:
        _check.ids(modality, "modality", x)
    x, refs, modality, ref_modality = _check.candidates(x, labels, modality, refs, ref_labels, ref_modality, exclude)
    _check.no_forward_mode("hardest_pairs", x, refs)
    precision = search_precision()
    distance, index = torch.ops.zsml.hardest_pairs(x, labels, modality, refs, ref_labels, ref_modality, exclude, precision)
    return HardestPairs(distance, index)


@torch.compiler.assume_constant_result  # a compiled graph guards on this global setting, and is compiled anew when it changes
def search_precision() -> int:
    try:
        return _PRECISIONS[torch.get_float32_matmul_precision()]
    except RuntimeError:  # refuses once torch.backends.cuda.matmul.fp32_precision is in use, which then has the answer
        return _PRECISIONS["high" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "highest"]


# ---- plain torch: the oracle of the tests, and what runs where no kernel was built -------------------------------------------


def reference(
    x: Tensor,
    labels: Tensor,
    modality: Tensor,
    refs: Tensor | None,
    ref_labels: Tensor | None,
    ref_modality: Tensor | None,
    exclude: Tensor | None,
    precision: int,
) -> tuple[Tensor, Tensor]:
    """The definition, a block of anchors at a time, in float64: no square of a float32 over- or underflows there."""
    anchors = x.double()  # [B, D]
    if refs is None:
        candidates, ref_labels, ref_modality = anchors, labels, modality
        exclude = torch.arange(len(x), device=x.device)
    else:
        candidates = refs.double()  # [M, D]
    usable, finite = candidates.isfinite().all(dim=1), anchors.isfinite().all(dim=1)  # [M], [B]
    candidates, anchors = candidates.nan_to_num(0.0, 0.0, 0.0), anchors.nan_to_num(0.0, 0.0, 0.0)
    columns = torch.arange(len(candidates), device=x.device)
    distance = torch.empty(4, len(x), dtype=accumulate_dtype(x.dtype), device=x.device)
    index = torch.empty(4, len(x), dtype=torch.int64, device=x.device)
    block = max(1, (1 << 18) // max(len(candidates), 1))  # 2 MiB of distances: they stay in the cache
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        d = torch.cdist(anchors[rows], candidates, compute_mode="donot_use_mm_for_euclid_dist")  # [block, M]
        d.clamp_(max=torch.finfo(torch.float64).max)  # infinite is who may not be chosen
        allowed = usable.expand_as(d)
        if exclude is not None:
            allowed = allowed & (columns != exclude[rows, None])
        same_class = labels[rows, None] == ref_labels
        within = allowed & (modality[rows, None] == ref_modality)
        cross = allowed & ~within
        for role, side in ((WITHIN_POS, within), (WITHIN_NEG, within), (CROSS_POS, cross), (CROSS_NEG, cross)):
            positive = role in (WITHIN_POS, CROSS_POS)
            wanted = side & same_class if positive else side & ~same_class
            distance[role, rows], index[role, rows] = _extreme(d, wanted, positive)
    distance[:, ~finite] = torch.nan
    index[:, ~finite] = -1
    return distance, index


def _extreme(d: Tensor, wanted: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """Row-wise max (or min) over the wanted columns and the lowest column that reaches it; -1 where none is wanted."""
    worst = -torch.inf if positive else torch.inf
    if d.shape[1] == 0:
        return d.new_full(d.shape[:1], worst), torch.full(d.shape[:1], -1, device=d.device)
    masked = torch.where(wanted, d, worst)
    first = masked.argmax(dim=1) if positive else masked.argmin(dim=1)  # of equals
    best = masked.gather(1, first[:, None])[:, 0]
    return best, torch.where(best.isfinite(), first, -1)


def backward_reference(
    grad: Tensor, x: Tensor, refs: Tensor | None, distance: Tensor, index: Tensor, need_x: bool, need_refs: bool
) -> tuple[Tensor, Tensor]:
    """d(i, j)' = (x_i - r_j) / d(i, j) for x_i and its opposite for r_j; 0 where d is 0 or there is no pair."""
    anchors = x.to(grad.dtype)  # [B, D]
    candidates = anchors if refs is None else refs.to(grad.dtype)  # [M, D]
    grad_x = torch.zeros_like(anchors) if need_x else anchors.new_empty(0, x.shape[1])
    into_refs = grad_x if refs is None else torch.zeros_like(candidates)
    for role in range(4):
        pair = (index[role] >= 0) & (distance[role] > 0)
        weight = torch.where(pair, grad[role] / torch.where(pair, distance[role], 1), 0)
        partner = index[role].clamp(min=0)
        if len(candidates) == 0:
            continue
        flow = weight[:, None] * (anchors - candidates[partner]).nan_to_num(0.0, 0.0, 0.0)  # [B, D]
        if need_x:
            grad_x += flow
        if need_refs or (need_x and refs is None):
            into_refs.index_add_(0, partner, -flow)
    grad_refs = into_refs if need_refs else anchors.new_empty(0, x.shape[1])
    return grad_x.to(x.dtype), grad_refs.to(x.dtype)


# ---- registration --------------------------------------------------------------------------------------------------------------

define(
    "hardest_pairs",
    "(Tensor x, Tensor labels, Tensor modality, Tensor? refs, Tensor? ref_labels, Tensor? ref_modality, Tensor? exclude, "
    "int precision) -> (Tensor, Tensor)",
    reference,
)
define(
    "hardest_pairs_backward",
    "(Tensor grad, Tensor x, Tensor? refs, Tensor distance, Tensor index, bool need_x, bool need_refs) -> (Tensor, Tensor)",
    backward_reference,
)


@torch.library.register_fake("zsml::hardest_pairs")
def _fake(x, labels, modality, refs, ref_labels, ref_modality, exclude, precision):
    shape = (4, x.shape[0])
    return x.new_empty(shape, dtype=accumulate_dtype(x.dtype)), x.new_empty(shape, dtype=torch.int64)


@torch.library.register_fake("zsml::hardest_pairs_backward")
def _fake_backward(grad, x, refs, distance, index, need_x, need_refs):
    candidates = x if refs is None else refs
    return (
        x.new_empty(x.shape[0] if need_x else 0, x.shape[1]),
        x.new_empty(candidates.shape[0] if need_refs else 0, x.shape[1]),
    )


def _setup_context(ctx, inputs, output):
    x, _, _, refs, *_ = inputs
    ctx.save_for_backward(x, refs, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_distance, grad_index):
    x, refs, distance, index = ctx.saved_tensors
    need_x, need_refs = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    grad_x, grad_refs = torch.ops.zsml.hardest_pairs_backward(
        grad_distance.contiguous(), x, refs, distance, index, need_x, need_refs
    )
    return grad_x if need_x else None, None, None, grad_refs if need_refs else None, None, None, None, None


torch.library.register_autograd("zsml::hardest_pairs", _backward, setup_context=_setup_context)
no_second_derivative("hardest_pairs")
