"""supcon and margin_softmax by their definitions: dense, float64, gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

ALL, WITHIN, CROSS = range(3)
INNER, SQUARED_DISTANCE, DISTANCE = range(3)


def candidates_of(
    labels: Tensor, modality: Tensor, ref_labels: Tensor, ref_modality: Tensor, skip: Tensor, usable: Tensor, pairs: int
) -> tuple[Tensor, Tensor]:
    """(positives, negatives), both bool [B, M]; skip: [B] a candidate's row, or -1."""
    allowed = usable & (torch.arange(len(ref_labels)) != skip[:, None])
    if pairs != ALL:
        allowed = allowed & ((modality[:, None] == ref_modality) == (pairs == WITHIN))
    same = labels[:, None] == ref_labels
    return allowed & same, allowed & ~same


def log_sum(values: Tensor, kept: Tensor) -> Tensor:
    """Row-wise log sum exp over the kept, -inf where there are none; its gradient is 0 elsewhere."""
    some = kept.any(dim=1, keepdim=True)
    filled = torch.where(kept, values, torch.where(some, -torch.inf, 0.0))
    return torch.where(some[:, 0], filled.logsumexp(dim=1), -torch.inf)


def supcon(
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
    """(loss, lse, positives, pull), the first differentiable in x and refs (float64)."""
    finite = x.isfinite().all(dim=1)
    anchors = torch.where(finite[:, None], x, 0.0)
    if refs is None:
        candidates, ref_labels, ref_modality, usable, skip = anchors, labels, modality, finite, torch.arange(len(x))
    else:
        usable = refs.isfinite().all(dim=1)
        candidates = torch.where(usable[:, None], refs, 0.0)
        skip = torch.full((len(x),), -1) if exclude is None else exclude
    positive, negative = candidates_of(labels, modality, ref_labels, ref_modality, skip, usable, pairs)
    s = anchors @ candidates.T / temperature
    count = positive.sum(dim=1)
    if per_pair:
        lse = log_sum(s, negative)
        behind = torch.where(positive & (lse > -torch.inf)[:, None], lse[:, None] - s, -torch.inf)
        terms = torch.logaddexp(behind.clamp(min=-1e300), torch.zeros_like(behind))  # torch's softplus drops e^-20
        loss, pull = terms.sum(dim=1), behind.sigmoid().sum(dim=1)
    else:
        lse = log_sum(s, positive | negative)
        mean = torch.where(positive, s, 0.0).sum(dim=1) / count.clamp(min=1)
        loss, pull = torch.where(count > 0, lse, 0.0) - mean, torch.zeros_like(lse)
    nan = torch.full_like(loss, torch.nan)
    return (
        torch.where(finite, loss, nan),
        torch.where(finite, lse, nan).detach(),
        torch.where(finite, count, 0),
        torch.where(finite, pull, 0.0).detach(),
    )


def margin_softmax(x: Tensor, centers: Tensor, labels: Tensor, measure: int, scale: float) -> tuple[Tensor, Tensor]:
    """(others, target), differentiable in x and centers (float64)."""
    finite, usable = x.isfinite().all(dim=1), centers.isfinite().all(dim=1)
    samples, rows = torch.where(finite[:, None], x, 0.0), torch.where(usable[:, None], centers, 0.0)
    if measure == INNER:
        m = samples @ rows.T
    else:
        square = (samples[:, None] - rows).square().sum(dim=2)
        m = torch.where(square > 0, square, 1.0).sqrt() * (square > 0) if measure == DISTANCE else square
    own = torch.nn.functional.one_hot(labels, len(centers)).bool()
    others = log_sum(scale * m if measure == INNER else -scale * m, usable & ~own)
    target = torch.where(own, m, 0.0).sum(dim=1)
    known = finite & usable[labels]
    return torch.where(finite, others, torch.nan), torch.where(known, target, torch.nan)


def agree(ours: Tensor, truth: Tensor, atol: float, name: str) -> None:
    """Equal where not finite; elsewhere within atol times the largest of the truth. Says where it is worst."""
    ours = ours.double()
    equal = (ours == truth) | (ours.isnan() & truth.isnan())
    size = truth[truth.isfinite()].abs().max().item() if truth.isfinite().any() else 0.0
    error = torch.where(equal, 0.0, (ours - truth).abs()).nan_to_num(nan=torch.inf)
    if error.numel() and not error.max() <= atol * max(size, 1e-2):
        at = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
        raise AssertionError(f"{name}{list(at)}: {ours[at].item()} instead of {truth[at].item()}, largest {size}")
