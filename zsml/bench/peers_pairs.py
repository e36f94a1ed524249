"""MATHM's loss as people write it by hand: what the fused loss is tested against, and what the benchmark compares it with.

All return the "adaptive" value of :class:`zsml.losses.MATHMLoss`, for embeddings of two modalities (0 and 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN, BETA = 0.2, 20.0


def combine(positive: Tensor, negative: Tensor) -> Tensor:
    """Softplus terms weighted by their hardness; positive and negative are [3, B] distances, infinite where missing."""
    violation = positive - negative + MARGIN
    per_term = F.softplus(violation, beta=BETA).mean(dim=1)
    hardness = torch.sigmoid(BETA * violation).mean(dim=1)
    return ((hardness.mean() / hardness.clamp(min=0.1)).detach() * per_term).sum()


def dense(x: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """The usual way: the whole B x B distance matrix from a product, masks of the same size, max and min along rows."""
    x = F.normalize(x, dim=1)
    squared = x.pow(2).sum(dim=1)
    d = (squared[:, None] + squared[None, :] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
    same_class = labels[:, None] == labels[None, :]
    same_modality = modality[:, None] == modality[None, :]
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)

    def farthest(mask: Tensor) -> Tensor:
        return d.masked_fill(~mask, -torch.inf).amax(dim=1)

    def nearest(mask: Tensor) -> Tensor:
        return d.masked_fill(~mask, torch.inf).amin(dim=1)

    within_positive = farthest(same_class & same_modality & ~itself)
    within_negative = nearest(~same_class & same_modality)
    cross_positive = farthest(same_class & ~same_modality)
    cross_negative = nearest(~same_class & ~same_modality)
    positive = torch.stack([within_positive, cross_positive, cross_positive])
    return combine(positive, torch.stack([within_negative, within_negative, cross_negative]))


def published(x: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """As research code does it (MATHM's among others): distances through addmm, masks as integers that push the unwanted a
    thousand away, and autograd through all of it. The anchor may be its own positive, which a maximum does not mind.
    """
    far, B = 1000, len(x)
    x = F.normalize(x, dim=1)
    squared = x.pow(2).sum(dim=1, keepdim=True).expand(B, B)
    d = (squared + squared.t()).addmm(x, x.t(), beta=1, alpha=-2).clamp(min=1e-12).sqrt()
    same_class = labels.expand(B, B).eq(labels.expand(B, B).t())
    same_modality = modality.expand(B, B).eq(modality.expand(B, B).t())
    hardest = []
    for modality_fits in (same_modality, ~same_modality):
        hardest.append((d - (~(same_class & modality_fits)) * far).max(dim=1)[0])
        hardest.append((d + (~(~same_class & modality_fits)) * far).min(dim=1)[0])
    within_positive, within_negative, cross_positive, cross_negative = hardest
    positive = torch.stack([within_positive, cross_positive, cross_positive])
    return combine(positive, torch.stack([within_negative, within_negative, cross_negative]))


def select(rows: Tensor, first: int, x: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
    """For a block of anchors: the partners [4, block] and whether there is one, from products (unit vectors)."""
    own = torch.arange(first, first + len(rows), device=x.device)
    likeness = rows @ x.T
    same_class = labels[own, None] == labels
    same_modality = modality[own, None] == modality
    itself = own[:, None] == torch.arange(len(x), device=x.device)
    chosen, found = [], []
    for modality_fits in (same_modality, ~same_modality):
        positive = same_class & modality_fits & ~itself
        negative = ~same_class & modality_fits
        chosen += [likeness.masked_fill(~positive, 9.0).argmin(dim=1), likeness.masked_fill(~negative, -9.0).argmax(dim=1)]
        found += [positive.any(dim=1), negative.any(dim=1)]
    return torch.stack(chosen), torch.stack(found)


compiled_select = torch.compile(select, dynamic=False)


def chunked(x: Tensor, labels: Tensor, modality: Tensor, block: int = 1024, select=select) -> Tensor:
    """The best careful hand: partners found without gradient a block of rows at a time, then only their distances."""
    x = F.normalize(x, dim=1)
    with torch.no_grad():
        parts = [select(x[start : start + block], start, x, labels, modality) for start in range(0, len(x), block)]
        partner = torch.cat([p for p, _ in parts], dim=1)
        found = torch.cat([f for _, f in parts], dim=1)
    return from_partners(x, partner, found)


def from_partners(x: Tensor, partner: Tensor, found: Tensor) -> Tensor:
    """The loss of unit vectors whose partners [4, B] are known, where they were found."""
    d = (x - x[partner]).pow(2).sum(dim=2).clamp(min=1e-24).sqrt()  # [4, B]
    worst = torch.tensor([-torch.inf, torch.inf, -torch.inf, torch.inf], dtype=d.dtype, device=d.device)[:, None]
    within_positive, within_negative, cross_positive, cross_negative = torch.where(found, d, worst)
    positive = torch.stack([within_positive, cross_positive, cross_positive])
    return combine(positive, torch.stack([within_negative, within_negative, cross_negative]))


def chunked_compiled(x: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """chunked with its selection compiled: the peer to beat on memory and speed."""
    return chunked(x, labels, modality, select=compiled_select)


compiled_dense = torch.compile(dense, dynamic=False)


def metric_learning(x: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Partners by pytorch-metric-learning's BatchHardMiner, each modality against itself and against the other; its
    TripletMarginLoss knows neither the weights nor the mixed term, so the rest is as in `chunked`.
    """
    from pytorch_metric_learning.miners import BatchHardMiner

    x = F.normalize(x, dim=1)
    miner = BatchHardMiner()
    partner = torch.zeros(4, len(x), dtype=torch.int64, device=x.device)
    found = torch.zeros(4, len(x), dtype=torch.bool, device=x.device)
    sides = [(modality == m).nonzero().flatten() for m in (0, 1)]
    for own in (0, 1):
        anchors = sides[own]
        for rows, others in ((slice(0, 2), None), (slice(2, 4), sides[1 - own])):
            reference = {} if others is None else {"ref_emb": x[others], "ref_labels": labels[others]}
            a, *hardest = miner(x[anchors], labels[anchors], **reference)
            candidates = anchors if others is None else others
            partner[rows, anchors[a]] = torch.stack([candidates[h] for h in hardest])
            found[rows, anchors[a]] = True
    return from_partners(x, partner, found)


def product(rows: Tensor, others: Tensor, entries: int = 1 << 24) -> Callable[[], Tensor]:
    """The product of two sets of vectors alone: no mining, no loss. A yardstick: blocks of rows in one buffer."""
    block = max(1, min(len(rows), entries // len(others)))
    buffer = torch.empty(block, len(others), dtype=rows.dtype, device=rows.device)

    def call() -> Tensor:
        for start in reversed(range(0, len(rows), block)):
            part = rows[start : start + block]
            torch.mm(part, others.T, out=buffer[: len(part)])
        return buffer

    return call
