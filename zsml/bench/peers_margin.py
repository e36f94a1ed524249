"""Softmax losses over class centres as people write them by hand: logits of all classes, the target's changed, cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MARGIN, SCALE = 0.35, 32.0  # CosFace
FACTOR = 4.0  # MEMS
BLOCK = 1 << 16  # classes at a time

Logits = Callable[[Tensor, Tensor], Tensor]  # of rows [B, D] and centres [C, D]: [B, C], without a margin
Own = Callable[[Tensor], Tensor]  # the target's logit with its margin, of that without


def cosines(x: Tensor, centers: Tensor) -> Tensor:
    """Scaled; of unit vectors."""
    return SCALE * F.linear(x, centers)


def squared_distances(x: Tensor, centers: Tensor) -> Tensor:
    """Negative, from a product."""
    squares = x.pow(2).sum(dim=1, keepdim=True) + centers.pow(2).sum(dim=1)
    return -(squares - 2 * F.linear(x, centers)).clamp(min=0)


def cdist_squared(x: Tensor, centers: Tensor) -> Tensor:
    """Negative, by torch.cdist."""
    return -torch.cdist(x, centers).square()


# loss name -> (logits, the target's, whether both sides are normalised first)
LOSSES: dict[str, tuple[Logits, Own, bool]] = {
    "CosFaceLoss": (cosines, lambda z: z - SCALE * MARGIN, True),
    "MEMSLoss": (squared_distances, lambda z: FACTOR**2 * z, False),
}


def with_margin(logits: Logits, own: Own) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(x, centers, labels) -> logits with the margin on the target."""

    def call(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        z = logits(x, centers)
        return z.scatter(1, labels[:, None], own(z.gather(1, labels[:, None])))

    return call


def dense(name: str, logits: Logits | None = None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The whole B x C matrix of logits."""
    usual, own, unit = LOSSES[name]
    final = with_margin(logits or usual, own)

    def loss(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        if unit:
            x, centers = F.normalize(x, dim=1), F.normalize(centers, dim=1)
        return F.cross_entropy(final(x, centers, labels), labels)

    return loss


def chunked(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The best careful hand: a block of classes at a time, computed again for the backward pass; the target by itself."""
    logits, own, unit = LOSSES[name]

    def others(x: Tensor, centers: Tensor, labels: Tensor, first: int) -> Tensor:
        """Log-sum-exp over a block of the classes that are not the target."""
        columns = torch.arange(first, first + len(centers), device=x.device)
        return logits(x, centers).masked_fill(labels[:, None] == columns, -torch.inf).logsumexp(dim=1)

    compiled = torch.compile(others, dynamic=False)

    def loss(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        if unit:
            x, centers = F.normalize(x, dim=1), F.normalize(centers, dim=1)
        blocks = [
            checkpoint(compiled, x, part, labels - i * BLOCK, 0, use_reentrant=False)
            for i, part in enumerate(centers.split(BLOCK))
        ]
        mine = centers[labels]
        target = own(SCALE * (x * mine).sum(dim=1) if unit else -(x - mine).pow(2).sum(dim=1))
        return F.softplus(torch.stack(blocks).logsumexp(dim=0) - target).mean()

    return loss
