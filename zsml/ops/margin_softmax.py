"""Softmax over class centres with the target kept apart, so that any margin can be put on it, without the B x C logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from zsml.errors import InputError

from . import _check
from ._arrays import as_tensor
from ._register import define, no_second_derivative
from ._rows import accumulate_dtype, blocks, finite_rows

MEASURES = {"inner": 0, "squared_distance": 1, "distance": 2}


class MarginSoftmax(NamedTuple):
    """One entry per sample, float32 (float64 for float64 rows)."""

    others: Tensor  # [B] log-sum-exp of the logits of the other classes; -inf where there is no other class
    target: Tensor  # [B] what was measured to the centre of the own class, without scale and sign


def margin_softmax(
    x: Tensor,  # [B, D]
    centers: Tensor,  # [C, D]
    labels: Tensor,  # [B]
    *,
    measure: str = "squared_distance",
    scale: float = 1.0,
) -> MarginSoftmax:
    r"""For each sample, the log-sum-exp of its logits for all other classes, and how near the centre of its own class is.

    .. math:: m_{ij} = \langle x_i, c_j \rangle, \; \|x_i - c_j\|^2 \text{ or } \|x_i - c_j\|, \qquad
              z_{ij} = \pm s \, m_{ij} \;(+ \text{ for inner}), \qquad
              \text{others}_i = \log \sum_{j \ne y_i} e^{z_{ij}}, \quad \text{target}_i = m_{i y_i}

    A softmax loss whose target logit is any function z of ``target`` (MEMS, arXiv 1812.04275; CosFace, arXiv 1801.09414;
    ArcFace, arXiv 1801.07698) is then ``softplus(others - z(target)).mean()``. Classes are streamed: nothing of size B x C is
    held, and the backward pass computes the logits again.

    Args:
        x: samples, [B, D], float16, bfloat16, float32 or float64.
        centers: one row per class, [C, D]. A dtype other than that of ``x`` promotes both.
        labels: class of each sample, [B] int64, from 0 to C - 1.
        measure: "inner", "squared_distance" or "distance".
        scale: s, positive.

    Returns:
        ``others`` [B] and ``target`` [B], both differentiable in ``x`` and ``centers``. ``target`` is computed from the
        difference of the two rows, so that it does not cancel; where a distance is 0 its gradient is 0. A sample with a NaN or
        infinite coordinate: both NaN, no gradient. Such a centre: left out of ``others``, and ``target`` NaN for its samples,
        without gradient.

    The squared distances in ``others`` come from products of rows about the mean of the centres: where the rows lie in groups
    whose distance is more than about a hundred times their spread, float32 loses digits there. Use float64, or normalise.

    Under autocast the rows are taken in the dtype they arrive in. On CUDA a label out of range cannot be told without
    waiting for the device: there ``target`` is NaN. Arrays of other libraries (NumPy, CuPy, anything with ``__dlpack__``) are
    taken on the memory they have, without a copy and without a gradient. On CUDA products
    of float32 are as precise as ``torch.set_float32_matmul_precision`` says; they are cuBLAS's, for which torch wants
    ``CUBLAS_WORKSPACE_CONFIG`` set under ``torch.use_deterministic_algorithms(True)``.

    Raises:
        ValueError: wrong rank, width, length or device, empty batch, no centre, label out of range (CPU), unknown measure,
            scale not a positive number.
        TypeError: not a tensor, rows not floating point or not dense, labels not int64.
        NotImplementedError: a forward-mode or a second derivative is asked for.

    >>> x, centers = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    >>> others, target = margin_softmax(x, centers, torch.tensor([0]))
    >>> round(others.item(), 4), target.item(), round(torch.nn.functional.softplus(others + 4 * target).item(), 4)
    (-0.9999, 1.0, 3.0487)
    """
    x, centers, labels = as_tensor(x, "x"), as_tensor(centers, "centers"), as_tensor(labels, "labels")
    _check.embeddings(x, "x")
    _check.embeddings(centers, "centers")
    if centers.shape[0] == 0:
        raise InputError(f"centers must have at least one row, got shape {list(centers.shape)}: there are no classes")
    if centers.shape[1] != x.shape[1]:
        raise InputError(f"centers must have the width of x, {x.shape[1]}, got shape {list(centers.shape)}")
    if centers.device != x.device:
        raise InputError(f"centers is on {centers.device} but x is on {x.device}; move it there")
    _check.ids(labels, "labels", x)
    _check.classes(labels, centers.shape[0])
    _check.choice(measure, "measure", MEASURES)
    _check.positive(scale, "scale")
    _check.no_forward_mode("margin_softmax", x, centers)
    dtype = torch.promote_types(x.dtype, centers.dtype)
    return MarginSoftmax(*torch.ops.zsml.margin_softmax(x.to(dtype), centers.to(dtype), labels, MEASURES[measure], float(scale)))


# ---- plain torch: the oracle of the tests, and what runs where no kernel was built -------------------------------------------


def _others(x: Tensor, centers: Tensor, usable: Tensor, labels: Tensor, measure: int, scale: float) -> Iterator[tuple]:
    """(rows, m [block, C], z [block, C]) for blocks of samples; z is -inf for the own class and for centres not finite."""
    columns = torch.arange(len(centers), device=x.device)
    for rows in blocks(len(x), len(centers)):
        if measure == MEASURES["inner"]:
            m = x[rows] @ centers.T
        else:
            m = torch.cdist(x[rows], centers, compute_mode="donot_use_mm_for_euclid_dist")
            m = m.square_() if measure == MEASURES["squared_distance"] else m
        kept = usable & (columns != labels[rows, None])
        yield rows, m, torch.where(kept, scale * m if measure == MEASURES["inner"] else -scale * m, -torch.inf)


def _own_centers(centers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's own centre [B, D], some other one for a label out of range; and which labels are in range [B]."""
    known = (labels >= 0) & (labels < len(centers))
    return centers[torch.where(known, labels, 0)], known


def reference(x: Tensor, centers: Tensor, labels: Tensor, measure: int, scale: float) -> tuple[Tensor, Tensor]:
    """The definition, a block of samples at a time, in float64: no square of a float32 over- or underflows there."""
    _check.classes(labels, len(centers))
    dtype = accumulate_dtype(x.dtype)
    samples, finite = finite_rows(x)
    rows_of, usable = finite_rows(centers)
    others = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for rows, _, z in _others(samples, rows_of, usable, labels, measure, scale):
        others[rows] = z.logsumexp(dim=1)
    own, known = _own_centers(rows_of, labels)
    if measure == MEASURES["inner"]:
        target = (samples * own).sum(dim=1)
    else:
        target = (samples - own).square().sum(dim=1)
        target = target if measure == MEASURES["squared_distance"] else target.sqrt()
    target[~(finite & known & _own_centers(usable, labels)[0])] = torch.nan
    others[~finite] = torch.nan
    return others.to(dtype), target.to(dtype)


def backward_reference(
    grad_others: Tensor,
    grad_target: Tensor,
    x: Tensor,
    centers: Tensor,
    labels: Tensor,
    others: Tensor,
    target: Tensor,
    measure: int,
    scale: float,
    need_x: bool,
    need_centers: bool,
) -> tuple[Tensor, Tensor]:
    """dm_ij of every class, spread over x_i and c_j; nothing for a sample without a target."""
    samples, _ = finite_rows(x)
    rows_of, usable = finite_rows(centers)
    into_x, into_centers = torch.zeros_like(samples), torch.zeros_like(rows_of)
    active = ~target.isnan()  # [B]
    through_others = torch.where(active, grad_others, 0).double() * (scale if measure == MEASURES["inner"] else -scale)
    through_target = torch.where(active, grad_target, 0).double()
    base = torch.where(others.isfinite(), others, 0).double()
    for rows, m, z in _others(samples, rows_of, usable, labels, measure, scale):
        share = (z - base[rows, None]).clamp(max=0).exp()  # [block, C], more than 1 only where others was rounded
        dm = through_others[rows, None] * share
        dm = torch.where(active[rows, None] & usable, dm, 0)
        if measure == MEASURES["inner"]:
            into_x[rows] += dm @ rows_of
            into_centers.addmm_(dm.T, samples[rows])
            continue
        # d|x - c|^2 = 2 (x - c) and d|x - c| = (x - c) / |x - c|, which is 0 where the distance is
        w = 2 * dm if measure == MEASURES["squared_distance"] else torch.where(m > 0, dm / m, 0)
        into_x[rows] += w.sum(dim=1, keepdim=True) * samples[rows] - w @ rows_of
        into_centers += w.sum(dim=0)[:, None] * rows_of - w.T @ samples[rows]
    own, _ = _own_centers(rows_of, labels)
    if measure == MEASURES["inner"]:
        flow_x, flow_centers = own, samples
    else:
        slope = (samples - own) * (2 if measure == MEASURES["squared_distance"] else 1)
        if measure == MEASURES["distance"]:
            slope = slope / torch.where(slope.any(dim=1), slope.norm(dim=1), 1)[:, None]
        flow_x, flow_centers = slope, -slope
    into_x += through_target[:, None] * flow_x
    known = torch.where(active, labels, 0)
    into_centers.index_add_(0, known, through_target[:, None] * flow_centers)
    none = x.new_empty(0, x.shape[1])
    return into_x.to(x.dtype) if need_x else none, into_centers.to(x.dtype) if need_centers else none


# ---- registration ------------------------------------------------------------------------------------------------------------

define(
    "margin_softmax",
    "(Tensor x, Tensor centers, Tensor labels, int measure, float scale) -> (Tensor others, Tensor target)",
    reference,
)
define(
    "margin_softmax_backward",
    "(Tensor grad_others, Tensor grad_target, Tensor x, Tensor centers, Tensor labels, Tensor others, Tensor target, "
    "int measure, float scale, bool need_x, bool need_centers) -> (Tensor grad_x, Tensor grad_centers)",
    backward_reference,
)


@torch.library.register_fake("zsml::margin_softmax")
def _fake(x, centers, labels, measure, scale):
    others = x.new_empty(x.shape[0], dtype=accumulate_dtype(x.dtype))
    return others, torch.empty_like(others)


@torch.library.register_fake("zsml::margin_softmax_backward")
def _fake_backward(grad_others, grad_target, x, centers, labels, others, target, measure, scale, need_x, need_centers):
    return (
        x.new_empty(x.shape[0] if need_x else 0, x.shape[1]),
        x.new_empty(centers.shape[0] if need_centers else 0, x.shape[1]),
    )


def _setup_context(ctx, inputs, output):
    x, centers, labels, *ctx.options = inputs
    ctx.save_for_backward(x, centers, labels, *output)


def _backward(ctx, grad_others, grad_target):
    need_x, need_centers, *_ = ctx.needs_input_grad
    grad_x, grad_centers = torch.ops.zsml.margin_softmax_backward(
        grad_others.contiguous(), grad_target.contiguous(), *ctx.saved_tensors, *ctx.options, need_x, need_centers
    )
    return grad_x if need_x else None, grad_centers if need_centers else None, None, None, None


torch.library.register_autograd("zsml::margin_softmax", _backward, setup_context=_setup_context)
no_second_derivative("margin_softmax")
