"""SupCon's and NT-Xent's loss as people write them by hand, and pytorch-metric-learning's, as zsml.losses defines them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zsml.bench import measure
from zsml.bench.case import Unable

TEMPERATURE = 0.07
BLOCK = 1024  # anchors at a time

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def supcon_sum(rows: Tensor, own: Tensor, unit: Tensor, labels: Tensor) -> Tensor:
    """Sum over anchors: unit vectors `rows`, the rows numbered `own` of `unit`, against all the others."""
    itself = own[:, None] == torch.arange(len(unit), device=unit.device)
    s = (rows @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    positive = (labels[own, None] == labels) & ~itself
    per_pair = torch.where(positive, s.logsumexp(dim=1, keepdim=True) - s, 0)
    return (per_pair.sum(dim=1) / positive.sum(dim=1).clamp(min=1)).sum()


def ntxent_sum(rows: Tensor, own: Tensor, unit: Tensor, labels: Tensor) -> Tensor:
    """Sum over anchors and their positives; arguments as supcon_sum."""
    same_class = labels[own, None] == labels
    s = rows @ unit.T / TEMPERATURE
    negatives = s.masked_fill(same_class, -torch.inf).logsumexp(dim=1, keepdim=True)
    positive = same_class & (own[:, None] != torch.arange(len(unit), device=unit.device))
    return torch.where(positive, F.softplus(negatives - s), 0).sum()


SUMS = {"SupConLoss": supcon_sum, "NTXentLoss": ntxent_sum}


def terms(name: str, labels: Tensor) -> Tensor:
    """How many terms the sum has: anchors with a positive, or positive pairs."""
    positives = labels.unique(return_counts=True)[1] - 1
    return ((positives + 1) * (positives if name == "NTXentLoss" else positives > 0)).sum()


def dense(name: str, summed: Callable[..., Tensor]) -> Loss:
    """The whole N x N matrix of similarities, and masks of the same size."""

    def loss(x: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
        return summed(unit := F.normalize(x, dim=1), torch.arange(len(x), device=x.device), unit, labels) / terms(name, labels)

    return loss


def chunked(name: str, summed: Callable[..., Tensor]) -> Loss:
    """The best careful hand: a block of anchors at a time, computed again for the backward pass."""

    def loss(x: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
        unit = F.normalize(x, dim=1)
        parts = torch.arange(len(x), device=x.device).split(BLOCK)
        sums = [checkpoint(summed, unit[own], own, unit, labels, use_reentrant=False) for own in parts]
        return torch.stack(sums).sum() / terms(name, labels)

    return loss


def metric_learning(name: str, batch: object) -> Loss:
    """pytorch-metric-learning's loss of this name. Its NTXentLoss compares every positive pair with every negative one, of all
    anchors: about 18 bytes for each, and far more than any machine has beyond some hundred samples.
    """
    from pytorch_metric_learning import losses

    loss = getattr(losses, name)(temperature=TEMPERATURE)
    same = batch.labels.unique(return_counts=True)[1].double()
    positive, negative = (same * (same - 1)).sum().item(), (same * (same.sum() - same)).sum().item()
    needed = 18 * positive * negative if name == "NTXentLoss" else 60 * same.sum().item() ** 2
    if batch.x.device.type == "cpu" and needed > measure.available_memory():
        raise Unable(f"needs about {needed / 2**30:,.1f} GiB")
    return lambda x, labels, modality: loss(x, labels)
