"""The triplet losses within and across modalities as one op, for batches that are their own candidates.

What :class:`zsml.losses.ModalityTripletLoss` computes, without a dozen small steps between the embeddings and the scalar: at
training sizes these cost several times what the mining does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from zsml.errors import InputError

from . import _check
from ._register import define, no_second_derivative
from .hardest_pairs import CROSS_NEG, CROSS_POS, WITHIN_NEG, WITHIN_POS, search_precision

TERMS = {"within": (WITHIN_POS, WITHIN_NEG), "hybrid": (CROSS_POS, WITHIN_NEG), "cross": (CROSS_POS, CROSS_NEG)}
WEIGHTINGS = (None, "adaptive", "released")


def modality_triplet(
    x: Tensor,  # [B, D]
    labels: Tensor,  # [B]
    modality: Tensor | None = None,  # [B]
    *,
    terms: Iterable[str] = tuple(TERMS),
    margin: float = 0.2,
    beta: float | None = None,
    weighting: str | None = None,
    normalize: bool = True,
) -> Tensor:
    r"""The loss of :class:`zsml.losses.ModalityTripletLoss`, whose arguments these are, as a scalar.

    With :math:`v_{t,i} = d^{+}_{t,i} - d^{-}_{t,i} + \text{margin}` over the distances of :func:`zsml.ops.hardest_pairs` and
    :math:`L_t = \frac1B \sum_i \varphi(v_{t,i})`: the mean of the :math:`L_t`, or their sum weighted by hardness.

    Args:
        x: embeddings, [B, D], float16, bfloat16, float32 or float64.
        labels: [B] int64.
        modality: [B] int64, or None for one modality.
        terms, margin, beta, weighting, normalize: see the loss.

    Returns:
        float32 (float64 for float64 embeddings), [].

    Raises:
        ValueError, TypeError: as :func:`zsml.ops.hardest_pairs`; for the settings as the loss.
        NotImplementedError: a forward-mode or a second derivative is asked for.

    Source: Hermans et al. 2017 (arXiv 1703.07737, eq. 5); MATHM (arXiv 2112.07966).

    >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> modality_triplet(x, torch.tensor([0, 0, 1]), terms=("within",), margin=0.2).item()  # farthest positive, nearest negative
    0.0
    """
    terms = check_settings(terms, margin, beta, weighting)
    return loss_of_batch(x, labels, modality, terms, margin, beta, weighting, normalize)


def check_terms(terms: Iterable[str]) -> tuple[str, ...]:
    """The terms as a tuple; a single one may come as a string."""
    named = (terms,) if isinstance(terms, str) or not isinstance(terms, Iterable) else tuple(terms)
    if not named or any(term not in tuple(TERMS) for term in named):
        raise InputError(f"terms must be one or more of {list(TERMS)}, got {list(named)}")
    if len(set(named)) != len(named):
        raise InputError(f"terms must not repeat, got {list(named)}")
    return named


def check_settings(terms: Iterable[str], margin: float, beta: float | None, weighting: str | None) -> tuple[str, ...]:
    """The terms as a tuple, if they and the rest are what the loss can be made with."""
    named = check_terms(terms)
    if not _check.is_number(margin):
        raise InputError(f"margin must be a finite number, got {margin!r}")
    if beta is not None and not (_check.is_number(beta) and beta > 0):
        raise InputError(f"beta must be a positive number or None (relu), got {beta!r}")
    if weighting not in WEIGHTINGS:
        raise InputError(f"weighting must be one of {list(WEIGHTINGS)}, got {weighting!r}")
    if weighting is not None and beta is None:
        raise InputError(f"weighting={weighting!r} needs beta (the sharpness of the sigmoid), got beta=None")
    return named


def loss_of_batch(
    x: Tensor,
    labels: Tensor,
    modality: Tensor | None,
    terms: tuple[str, ...],
    margin: float,
    beta: float | None,
    weighting: str | None,
    normalize: bool,
) -> Tensor:
    """modality_triplet with settings that were checked before, once for all batches."""
    _check.embeddings(x, "x")
    _check.ids(labels, "labels", x)
    if modality is None:
        modality = torch.zeros_like(labels)
    else:
        _check.ids(modality, "modality", x)
    _check.no_forward_mode("modality_triplet", x)
    bits = sum(1 << list(TERMS).index(term) for term in terms)
    arguments = (bits, margin, beta or 0.0, WEIGHTINGS.index(weighting), bool(normalize), search_precision())
    return torch.ops.zsml.modality_triplet(x, labels, modality, *arguments)[0]


# ---- plain torch: the oracle of the tests, and what runs where no kernel was built ----------------------------------------


def reference(
    x: Tensor,
    labels: Tensor,
    modality: Tensor,
    terms: int,
    margin: float,
    beta: float,
    weighting: int,
    normalize: bool,
    precision: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss [], slope [4, B], distance [4, B], index [4, B], unit [B, D], length [B]), see csrc/modality_triplet.h."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    unit, length = x.new_empty(0, x.shape[1], dtype=dtype), x.new_empty(0, dtype=torch.float64)
    if normalize:
        length = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)  # [B]; no square of a float32 leaves a float64's range
        peak = x.abs().amax(dim=1).double() if x.dtype == torch.float64 else None
        if peak is not None:  # a float64's can
            safe = torch.where((peak > 0) & (peak < torch.inf), peak, 1.0)
            length = torch.linalg.vector_norm(x / safe[:, None], dim=1) * safe
        finite = x.isfinite().all(dim=1)  # [B]
        length = torch.where((length > 0) & finite, length, 1.0)
        unit = torch.where(finite[:, None], x.double() / length[:, None], torch.nan).to(dtype)
    distance, index = torch.ops.zsml.hardest_pairs(unit if normalize else x, labels, modality, None, None, None, None, precision)
    used = [pair for bit, pair in enumerate(TERMS.values()) if terms >> bit & 1]
    positive, negative = [p for p, _ in used], [n for _, n in used]
    violation = distance.double()[positive] - distance.double()[negative] + margin  # [T, B]; -inf without a partner
    scaled = beta * violation
    phi = F.softplus(violation, beta=beta) if beta else F.relu(violation)
    by_violation = torch.sigmoid(scaled).masked_fill(scaled > 20, 1.0) if beta else ((violation > 0) | violation.isnan()).double()
    per_term = phi.mean(dim=1)  # [T]
    if weighting == 0:
        loss, by_violation = per_term.mean(), by_violation / len(used)
    else:
        sigmoid = torch.sigmoid(scaled)
        hardness = sigmoid.mean(dim=1)  # [T]
        floor = hardness.clamp(min=0.1)
        weight = hardness.mean() / floor
        if weighting == 1:
            loss, by_violation = (weight * per_term).sum(), by_violation * weight[:, None]
        else:
            loss = weight.sum() * per_term.mean()
            own = torch.where(hardness >= 0.1, hardness.mean() / hardness**2, 0.0)
            by_hardness = per_term.mean() * ((1 / floor).mean() - own)
            by_violation = by_violation * weight.sum() / len(used)
            by_violation = by_violation + by_hardness[:, None] * (beta * sigmoid * (1 - sigmoid))
    slope = torch.zeros(4, x.shape[0], dtype=torch.float64, device=x.device)
    for (p, n), row in zip(used, by_violation / x.shape[0], strict=True):
        slope[p] += row
        slope[n] -= row
    return loss.to(dtype), slope.to(dtype), distance, index, unit, length


def backward_reference(
    grad: Tensor, x: Tensor, slope: Tensor, distance: Tensor, index: Tensor, unit: Tensor, length: Tensor
) -> Tensor:
    """Through the distances, then through u = x / |x|: (g - u <u, g>) / |x|."""
    if length.shape[0] == 0:
        return torch.ops.zsml.hardest_pairs_backward(grad * slope, x, None, distance, index, True, False)[0]
    flow = torch.ops.zsml.hardest_pairs_backward(grad * slope, unit, None, distance, index, True, False)[0]
    finite = torch.where(unit.isfinite(), unit, 0)
    return ((flow - finite * (flow * finite).sum(dim=1, keepdim=True)) / length[:, None]).to(x.dtype)


# ---- registration --------------------------------------------------------------------------------------------------------------

define(
    "modality_triplet",
    "(Tensor x, Tensor labels, Tensor modality, int terms, float margin, float beta, int weighting, bool normalize, "
    "int precision) -> (Tensor loss, Tensor slope, Tensor distance, Tensor index, Tensor unit, Tensor length)",
    reference,
)
define(
    "modality_triplet_backward",
    "(Tensor grad, Tensor x, Tensor slope, Tensor distance, Tensor index, Tensor unit, Tensor length) -> Tensor",
    backward_reference,
)


@torch.library.register_fake("zsml::modality_triplet")
def _fake(x, labels, modality, terms, margin, beta, weighting, normalize, precision):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = x.shape[0]
    return (
        x.new_empty((), dtype=dtype),
        x.new_empty((4, rows), dtype=dtype),
        x.new_empty((4, rows), dtype=dtype),
        x.new_empty((4, rows), dtype=torch.int64),
        x.new_empty((rows if normalize else 0, x.shape[1]), dtype=dtype),
        x.new_empty((rows if normalize else 0,), dtype=torch.float64),
    )


@torch.library.register_fake("zsml::modality_triplet_backward")
def _fake_backward(grad, x, slope, distance, index, unit, length):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, *rest):
    out = None if grad is None else torch.ops.zsml.modality_triplet_backward(grad, *ctx.saved_tensors)
    return out, None, None, None, None, None, None, None, None


torch.library.register_autograd("zsml::modality_triplet", _backward, setup_context=_setup_context)
no_second_derivative("modality_triplet")
