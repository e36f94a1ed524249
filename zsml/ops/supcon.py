"""Supervised contrastive losses per anchor: a softmax over all other samples, without the similarity matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import _check
from ._arrays import as_tensor
from ._register import define, no_second_derivative
from ._rows import accumulate_dtype, blocks, finite_rows

PAIRS = {"all": 0, "within": 1, "cross": 2}


class SupCon(NamedTuple):
    """One entry per anchor."""

    loss: Tensor  # [B] float32 (float64 for float64 embeddings); 0 for an anchor without a positive
    positives: Tensor  # [B] int64, how many positives it has


def supcon(
    x: Tensor,  # [B, D]
    labels: Tensor,  # [B]
    modality: Tensor | None = None,  # [B]
    *,
    temperature: float = 0.07,
    pairs: str = "all",
    per_pair: bool = False,
    refs: Tensor | None = None,  # [M, D]
    ref_labels: Tensor | None = None,  # [M]
    ref_modality: Tensor | None = None,  # [M]
    exclude: Tensor | None = None,  # [B]
) -> SupCon:
    r"""For each anchor, how far its positives are from winning a softmax over the similarities to all candidates.

    With :math:`s_{ij} = \langle x_i, r_j \rangle / \tau`, candidates A(i), of them the positives P(i) (same label) and the
    negatives N(i) (another label),

    .. math:: \ell_i = \log \sum_{a \in A(i)} e^{s_{ia}} - \frac{1}{|P(i)|} \sum_{p \in P(i)} s_{ip}
              \quad\text{or, per pair,}\quad
              \ell_i = \sum_{p \in P(i)} -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n \in N(i)} e^{s_{in}}}

    The first is SupCon (Khosla et al. 2020, arXiv 2004.11362, eq. 2, with the anchor's own weight :math:`1/|P(i)|`), the second
    NT-Xent (Chen et al. 2020, arXiv 2002.05709) with several positives. Rows are taken as they are: normalise them first for
    cosine similarities. Nothing of size B x M is held; the backward pass computes the similarities again.

    Args:
        x: anchors, [B, D], float16, bfloat16, float32 or float64.
        labels: class ids, [B] int64.
        modality: modality ids, [B] int64 (0 sketch, 1 photo, ...); None means one modality.
        temperature: :math:`\tau`, in units of the inner product, positive.
        pairs: "all" candidates, or only those of the anchor's own modality ("within") or of any other one ("cross").
        per_pair: the second formula.
        refs: candidates, [M, D] (memory bank, other ranks); ``x`` itself where None, and then no anchor is its own candidate.
            A dtype other than that of ``x`` promotes both.
        ref_labels: [M] int64, required with ``refs``.
        ref_modality: [M] int64, given exactly when ``refs`` and ``modality`` are.
        exclude: [B] int64, one row of ``refs`` per anchor to skip, or -1.

    Returns:
        ``loss`` [B], float32 (float64 for float64 rows), and ``positives`` [B] int64. An anchor without positives: loss 0 and
        no gradient. An anchor with a NaN or infinite coordinate: loss NaN, no positives, no gradient; such a row is never a
        candidate. ``loss`` is differentiable in ``x`` and ``refs``.

    Under autocast the embeddings are taken in the dtype they arrive in. Arrays of other libraries (NumPy, CuPy, anything with
    ``__dlpack__``) are taken on the memory they have, without a copy and without a gradient. On CUDA products
    of float32 are as precise as ``torch.set_float32_matmul_precision`` says; they are cuBLAS's, for which torch wants
    ``CUBLAS_WORKSPACE_CONFIG`` set under ``torch.use_deterministic_algorithms(True)``.

    Raises:
        ValueError: wrong rank, length, device, empty batch, ``exclude`` out of range, unknown ``pairs``, temperature not a
            positive number.
        TypeError: not a tensor, embeddings not floating point or not dense, ids not int64.
        NotImplementedError: a forward-mode or a second derivative is asked for.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> result = supcon(x, torch.tensor([0, 0, 1]), temperature=1.0)
    >>> [round(value, 4) for value in result.loss.tolist()], result.positives.tolist()
    ([0.3133, 0.3133, 0.0], [1, 1, 0])
    """
    x, labels, modality = as_tensor(x, "x"), as_tensor(labels, "labels"), as_tensor(modality, "modality")
    refs, ref_labels = as_tensor(refs, "refs"), as_tensor(ref_labels, "ref_labels")
    ref_modality, exclude = as_tensor(ref_modality, "ref_modality"), as_tensor(exclude, "exclude")
    _check.embeddings(x, "x")
    _check.ids(labels, "labels", x)
    if modality is not None:
        _check.ids(modality, "modality", x)
    x, refs, modality, ref_modality = _check.candidates(x, labels, modality, refs, ref_labels, ref_modality, exclude)
    _check.positive(temperature, "temperature")
    _check.choice(pairs, "pairs", PAIRS)
    _check.no_forward_mode("supcon", x, refs)
    loss, _, positives, _ = torch.ops.zsml.supcon(
        x, labels, modality, refs, ref_labels, ref_modality, exclude, float(temperature), PAIRS[pairs], bool(per_pair)
    )
    return SupCon(loss, positives)


# ---- plain torch: the oracle of the tests, and what runs where no kernel was built -------------------------------------------


class _Block(NamedTuple):
    """Some anchors against all candidates."""

    rows: slice
    anchors: Tensor  # [block, D] float64
    s: Tensor  # [block, M] float64
    positive: Tensor  # [block, M] P(i)
    negative: Tensor  # [block, M] N(i)


def _blocks(
    anchors: Tensor,  # [B, D] float64, finite
    candidates: Tensor,  # [M, D] float64, finite
    usable: Tensor,  # [M]
    labels: Tensor,
    modality: Tensor,
    ref_labels: Tensor,
    ref_modality: Tensor,
    exclude: Tensor | None,
    temperature: float,
    pairs: int,
) -> Iterator[_Block]:
    columns = torch.arange(len(candidates), device=anchors.device)
    for rows in blocks(len(anchors), len(candidates)):
        s = anchors[rows] @ candidates.T / temperature
        allowed = usable.expand_as(s)
        if exclude is not None:
            allowed = allowed & (columns != exclude[rows, None])
        if pairs:
            allowed = allowed & ((modality[rows, None] == ref_modality) == (pairs == PAIRS["within"]))
        same_class = labels[rows, None] == ref_labels
        yield _Block(rows, anchors[rows], s, allowed & same_class, allowed & ~same_class)


def _candidates(x, labels, modality, refs, ref_labels, ref_modality, exclude):
    """(anchors, which are finite), and what _blocks wants after them: without refs, x itself save for the anchor."""
    anchors, finite = finite_rows(x)
    if refs is None:
        own = torch.arange(len(x), device=x.device)
        return finite, (anchors, anchors, finite, labels, modality, labels, modality, own)
    return finite, (anchors, *finite_rows(refs), labels, modality, ref_labels, ref_modality, exclude)


def reference(
    x: Tensor,
    labels: Tensor,
    modality: Tensor,
    refs: Tensor | None,
    ref_labels: Tensor | None,
    ref_modality: Tensor | None,
    exclude: Tensor | None,
    temperature: float,
    pairs: int,
    per_pair: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, lse, positives, pull): the definition, a block of anchors at a time, in float64.

    lse is the logarithm of the sum over A(i), per pair over N(i); pull is per pair the sum over P(i) of sigmoid(lse - s).
    """
    finite, setting = _candidates(x, labels, modality, refs, ref_labels, ref_modality, exclude)
    loss, lse, pull = (x.new_zeros(len(x), dtype=torch.float64) for _ in range(3))
    positives = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for rows, _, s, positive, negative in _blocks(*setting, temperature, pairs):
        count = positive.sum(dim=1)
        summed = negative if per_pair else positive | negative
        total = torch.where(summed, s, -torch.inf).logsumexp(dim=1)
        positives[rows], lse[rows] = count, total
        if per_pair:
            behind = torch.where(positive, total[:, None] - s, -torch.inf)  # how far a positive is behind all negatives
            loss[rows], pull[rows] = torch.nn.functional.softplus(behind).sum(dim=1), behind.sigmoid().sum(dim=1)
        else:
            mean = torch.where(positive, s, 0).sum(dim=1) / count.clamp(min=1)
            loss[rows] = torch.where(count > 0, total - mean, 0)
    loss[~finite], lse[~finite], pull[~finite], positives[~finite] = torch.nan, torch.nan, 0, 0
    dtype = accumulate_dtype(x.dtype)
    return loss.to(dtype), lse.to(dtype), positives, pull.to(dtype)


def backward_reference(
    grad: Tensor,
    x: Tensor,
    labels: Tensor,
    modality: Tensor,
    refs: Tensor | None,
    ref_labels: Tensor | None,
    ref_modality: Tensor | None,
    exclude: Tensor | None,
    temperature: float,
    pairs: int,
    per_pair: bool,
    lse: Tensor,
    positives: Tensor,
    pull: Tensor,
    need_x: bool,
    need_refs: bool,
) -> tuple[Tensor, Tensor]:
    """ds_ij of every candidate, times r_j into x_i and times x_i into r_j; nothing for anchors without positives."""
    _, setting = _candidates(x, labels, modality, refs, ref_labels, ref_modality, exclude)
    anchors, candidates, *_ = setting
    into_x = torch.zeros_like(anchors)
    into_refs = into_x if refs is None else torch.zeros_like(candidates)
    active = positives > 0  # [B]
    weight = torch.where(active, grad, 0).double()[:, None] / temperature
    lse, pull = (torch.where(active, t, 0).double()[:, None] for t in (lse, pull))  # [B, 1]
    share = 1 / positives.clamp(min=1).double()[:, None]
    for rows, own, s, positive, negative in _blocks(*setting, temperature, pairs):
        part = (s - lse[rows]).clamp(max=0).exp()  # of the sum; more than 1 only where lse was rounded
        if per_pair:
            ds = torch.where(negative, pull[rows] * part, 0)
            ds = torch.where(positive, -(lse[rows] - s).sigmoid(), ds)
        else:
            ds = torch.where(positive | negative, part, 0) - positive * share[rows]
        ds = torch.where(active[rows, None], weight[rows] * ds, 0)
        if need_x:
            into_x[rows] += ds @ candidates
        if need_refs or (need_x and refs is None):
            into_refs.addmm_(ds.T, own)
    none = x.new_empty(0, x.shape[1])
    return into_x.to(x.dtype) if need_x else none, into_refs.to(x.dtype) if need_refs else none


# ---- registration ------------------------------------------------------------------------------------------------------------

_SETTING = (
    "Tensor x, Tensor labels, Tensor modality, Tensor? refs, Tensor? ref_labels, Tensor? ref_modality, Tensor? exclude, "
    "float temperature, int pairs, bool per_pair"
)
define("supcon", f"({_SETTING}) -> (Tensor loss, Tensor lse, Tensor positives, Tensor pull)", reference)
define(
    "supcon_backward",
    f"(Tensor grad, {_SETTING}, Tensor lse, Tensor positives, Tensor pull, bool need_x, bool need_refs) "
    "-> (Tensor grad_x, Tensor grad_refs)",
    backward_reference,
)


@torch.library.register_fake("zsml::supcon")
def _fake(x, *_):
    acc = x.new_empty(x.shape[0], dtype=accumulate_dtype(x.dtype))
    return acc, torch.empty_like(acc), torch.empty_like(acc, dtype=torch.int64), torch.empty_like(acc)


@torch.library.register_fake("zsml::supcon_backward")
def _fake_backward(grad, x, labels, modality, refs, *rest):
    need_x, need_refs = rest[-2:]
    candidates = x if refs is None else refs
    return (
        x.new_empty(x.shape[0] if need_x else 0, x.shape[1]),
        x.new_empty(candidates.shape[0] if need_refs else 0, x.shape[1]),
    )


def _setup_context(ctx, inputs, output):
    *tensors, temperature, pairs, per_pair = inputs
    _, lse, positives, pull = output
    ctx.options = temperature, pairs, per_pair
    ctx.save_for_backward(*tensors, lse, positives, pull)
    ctx.mark_non_differentiable(lse, positives, pull)


def _backward(ctx, grad, *_):
    *tensors, lse, positives, pull = ctx.saved_tensors
    need_x, need_refs = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    grad_x, grad_refs = torch.ops.zsml.supcon_backward(
        grad.contiguous(), *tensors, *ctx.options, lse, positives, pull, need_x, need_refs
    )
    return grad_x if need_x else None, None, None, grad_refs if need_refs else None, *(None,) * 6


torch.library.register_autograd("zsml::supcon", _backward, setup_context=_setup_context)
no_second_derivative("supcon")
