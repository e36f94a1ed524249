"""Squared Euclidean distances in float64."""

from __future__ import annotations

import torch
from torch import Tensor


class SquaredDistances:
    """To the rows of one gallery, for many blocks of queries: ||q||^2 + ||g||^2 - 2 <q, g>, not below 0.

    Args:
        gallery: real-valued [N, D]; a float64 copy of it is held.

    >>> SquaredDistances(torch.tensor([[0.0, 1.0], [3.0, 4.0]]))(torch.zeros(1, 2))
    tensor([[ 1., 25.]], dtype=torch.float64)
    """

    def __init__(self, gallery: Tensor):
        self.gallery = gallery.double()
        self.squares = self.gallery.square().sum(dim=1)  # [N]

    def __call__(self, query: Tensor) -> Tensor:
        """float64 [q, N] for real-valued [q, D]."""
        q = query.double()
        products = torch.addmm(self.squares, q, self.gallery.T, alpha=-2)
        return products.add_(q.square().sum(dim=1, keepdim=True)).clamp_(min=0)


def squares_between(x: Tensor, words: Tensor) -> Tensor:
    """||x_i - w_k||^2 of few rows w, [n, K], by differences: nothing cancels."""
    return torch.stack([(x - word).square_().sum(dim=1) for word in words], dim=1)
