"""The right losses and gradients, by hand in float64, a block at a time, and how far a provider's may be from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zsml.bench.case import Disagrees
from zsml.bench.peers_pairs import chunked

BLOCK = 64  # anchors at a time
LOGITS = 1 << 25  # of classes, at a time
VALUE_ERROR = 1e-4  # relative
GRAD_ERROR = 1e-3  # relative, of the whole
SWAPPED_ERROR = 2e-2  # where a search in float32 may swap partners that are equally far up to rounding


class Batch(NamedTuple):
    """Embeddings [B, D] with class ids [B] and modality [B], or with the centres [C, D] of the classes instead."""

    x: Tensor
    labels: Tensor
    modality: Tensor | None = None
    centers: Tensor | None = None


class Step(NamedTuple):
    """A loss and its gradient with respect to the embeddings, and to the centres if there are any."""

    value: Tensor
    grad: Tensor
    centers_grad: Tensor | None = None


def step(loss: Callable[..., Tensor], batch: Batch) -> Step:
    """Forward and backward."""
    x = batch.x.detach().requires_grad_()
    value = loss(x, batch.labels, batch.modality)
    value.backward()
    return Step(value.detach(), x.grad)


def pairs_by_hand(batch: Batch) -> Step:
    """MATHM's loss."""
    return step(chunked, batch._replace(x=batch.x.double()))


def contrastive_by_hand(per_pair: bool, temperature: float) -> Callable[[Batch], Step]:
    """SupCon's loss (the mean over anchors), or NT-Xent's (the mean over positive pairs), by their definitions."""

    def truth(batch: Batch) -> Step:
        x = batch.x.double().requires_grad_()
        unit = F.normalize(x, dim=1).detach().requires_grad_()
        labels = batch.labels
        own = torch.arange(len(x), device=x.device)
        value, positives = x.new_zeros(()), (labels[:, None] == labels).sum(dim=1) - 1  # [B]
        terms = positives.sum() if per_pair else (positives > 0).sum()
        for rows in own.split(BLOCK):
            s = unit[rows] @ unit.T / temperature
            positive = (labels[rows, None] == labels) & (rows[:, None] != own)
            if per_pair:
                negatives = s.masked_fill(labels[rows, None] == labels, -torch.inf).logsumexp(dim=1, keepdim=True)
                per_anchor = torch.where(positive, torch.logaddexp(s, negatives) - s, 0).sum(dim=1)
            else:
                everyone = s.masked_fill(rows[:, None] == own, -torch.inf).logsumexp(dim=1, keepdim=True)
                per_anchor = torch.where(positive, everyone - s, 0).sum(dim=1) / positives[rows].clamp(min=1)
            part = per_anchor.sum() / terms
            part.backward()
            value += part.detach()
        F.normalize(x, dim=1).backward(unit.grad)
        return Step(value, x.grad)

    return truth


def margin_by_hand(logits: Callable[[Tensor, Tensor, Tensor], Tensor], unit: bool) -> Callable[[Batch], Step]:
    """Cross-entropy of logits(x, centers, labels), of rows that are normalised first where `unit`."""

    def truth(batch: Batch) -> Step:
        leaves = [t.double().requires_grad_() for t in (batch.x, batch.centers)]
        ready = [(F.normalize(t, dim=1) if unit else t).detach().requires_grad_() for t in leaves]
        value = leaves[0].new_zeros(())
        block = max(1, min(BLOCK, LOGITS // len(batch.centers)))
        for rows in torch.arange(len(batch.x), device=batch.x.device).split(block):
            labels = batch.labels[rows]
            part = F.cross_entropy(logits(ready[0][rows], ready[1], labels), labels, reduction="sum") / len(batch.x)
            part.backward()
            value += part.detach()
        grads = [t.grad for t in ready]
        if unit:
            grads = [torch.autograd.grad(F.normalize(t, dim=1), t, g)[0] for t, g in zip(leaves, grads, strict=True)]
        return Step(value, *(grad.float() for grad in grads))  # as exact as its use asks for, in half the memory

    return truth


def check_loss(answer: Step | Tensor, truth: Step, batch: Batch, allowed: float = GRAD_ERROR) -> str:
    """Value and gradients; of a bare product (a tensor) the rows it has."""
    if isinstance(answer, Tensor):
        rows = batch.x if batch.centers is None else batch.centers
        right = rows[: len(answer)].double() @ batch.x.double().T
        error = ((answer.double() - right).abs().max() / right.abs().max()).item()
        if not error <= GRAD_ERROR:
            raise Disagrees(f"product is off by {error:.1e}")
        return ""
    error = (abs(answer.value.double() - truth.value) / truth.value).item()
    gradient_error = max(_distance(a, b) for a, b in zip(answer[1:], truth[1:], strict=True) if b is not None)
    if not (error <= VALUE_ERROR and gradient_error <= allowed):
        raise Disagrees(f"value off by {error:.1e}, gradient by {gradient_error:.1e}")
    return ""


def _distance(grad: Any, right: Tensor) -> float:
    """Relative, of the whole; infinite if there is none."""
    if grad is None:
        return torch.inf
    return (torch.linalg.vector_norm(grad.to(right.dtype) - right) / torch.linalg.vector_norm(right)).item()
