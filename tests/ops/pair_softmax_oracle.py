"""supcon and margin_softmax by their definitions, with every pair in one float64 matrix and gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def contrast(batch, temperature: float, pairs: str, per_pair: bool) -> tuple[Tensor, Tensor]:
    """(loss [B], positives [B]); differentiable in batch.x and batch.refs."""
    own = batch.refs is None
    x, refs = batch.x.double(), batch.x.double() if own else batch.refs.double()
    labels, ref_labels = batch.labels, batch.labels if own else batch.ref_labels
    allowed = refs.isfinite().all(dim=1).expand(len(x), len(refs)).clone()
    for i in range(len(x)):
        if own:
            allowed[i, i] = False
        elif batch.exclude is not None and batch.exclude[i] >= 0:
            allowed[i, batch.exclude[i]] = False
    if pairs != "all" and batch.modality is not None:
        same_modality = batch.modality[:, None] == (batch.modality if own else batch.ref_modality)
        allowed &= same_modality if pairs == "within" else ~same_modality
    elif pairs == "cross":
        allowed[:] = False
    same = labels[:, None] == ref_labels
    usable = x.isfinite().all(dim=1)
    s = torch.where(allowed & usable[:, None], clean(x) @ clean(refs).T / temperature, 0)
    losses, positives = [], torch.where(usable, (allowed & same).sum(dim=1), 0)
    for i in range(len(x)):
        P, N = s[i, allowed[i] & same[i]], s[i, allowed[i] & ~same[i]]
        if not usable[i]:
            losses.append(s[i].sum() * 0 + torch.nan)
        elif len(P) == 0:
            losses.append(s[i].sum() * 0)
        elif per_pair:
            losses.append(sum(torch.cat([p[None], N]).logsumexp(dim=0) - p for p in P))
        else:
            losses.append(torch.cat([P, N]).logsumexp(dim=0) - P.mean())
    return torch.stack(losses), positives


def to_centers(x: Tensor, centers: Tensor, labels: Tensor, measure: str, scale: float) -> tuple[Tensor, Tensor]:
    """(others [B], target [B]); differentiable in x and centers."""
    x, centers = x.double(), centers.double()
    usable, kept = x.isfinite().all(dim=1), centers.isfinite().all(dim=1)
    others, target = [], []
    for i, y in enumerate(labels.tolist()):
        row, rows = clean(x)[i], clean(centers)
        if measure == "inner":
            m = rows @ row
            z = scale * m
        else:
            squared = (rows - row).pow(2).sum(dim=1)
            m = squared if measure == "squared_distance" else torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)
            z = -scale * m
        wanted = kept & (torch.arange(len(centers), device=x.device) != y)
        nothing = m.sum() * 0
        total = z[wanted].logsumexp(dim=0) if wanted.any() else nothing - torch.inf
        others.append(total if usable[i] else nothing + torch.nan)
        target.append(m[y] if usable[i] and kept[y] else nothing + torch.nan)
    return torch.stack(others), torch.stack(target)


def clean(t: Tensor) -> Tensor:
    """Zeros instead of what is not finite."""
    return torch.where(t.isfinite().all(dim=1, keepdim=True), t, 0)


def assert_within(ours: Tensor, truth: Tensor, allowed: float | Tensor, what: str) -> None:
    """Of one shape, NaN and infinite at the same places, and elsewhere no farther apart than allowed; else the worst is shown."""
    ours, truth = ours.detach().double().cpu(), truth.detach().double().cpu()
    assert ours.shape == truth.shape, what
    if not ours.numel():
        return
    same = (ours == truth) | (ours.isnan() & truth.isnan())
    error = torch.where(same, 0, (ours - truth).abs()).nan_to_num(torch.inf)
    excess = error - allowed
    if excess.max() > 0:
        at = tuple(int(k) for k in torch.unravel_index(excess.argmax(), ours.shape))
        raise AssertionError(f"{what}, worst at {at}: {ours[at].item()}, true {truth[at].item()}, off by {error[at].item()}")
