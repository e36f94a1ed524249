"""Distances in float64 and the ranks of the relevant by their definition, over sorted Python tuples."""

from __future__ import annotations

import bisect

import numpy as np
import torch
from torch import Tensor


def ranks_of_relevant(distance: np.ndarray, query_class: Tensor, labels: Tensor) -> Tensor:
    """int32 [3, T] by the definition, from float64 [Q, N]."""
    columns = []
    for row, own in zip(distance, query_class.tolist(), strict=True):
        relevant, others = np.flatnonzero(labels.numpy() == own), np.flatnonzero(labels.numpy() != own)
        pairs = sorted((float(row[j]), int(j)) for j in others)
        for value, j in sorted((float(row[j]), int(j)) for j in relevant):
            nearer = bisect.bisect_left(pairs, (value, -1))
            before, tied = bisect.bisect_left(pairs, (value, j)) - nearer, bisect.bisect_left(pairs, (value, len(row))) - nearer
            columns.append((nearer, before, tied))
    return torch.tensor(columns, dtype=torch.int32).reshape(-1, 3).T


def squared(query: Tensor, gallery: Tensor) -> np.ndarray:
    """float64 [Q, N], exact for moderate integers."""
    q, g = query.double().numpy(), gallery.double().numpy()
    return np.stack([((row - g) ** 2).sum(axis=1) for row in q])


def angles(query: Tensor, gallery: Tensor) -> np.ndarray:
    """-<q, g> / |g| in float64, 0 for a row of zeros."""
    g = gallery.double().numpy()
    length = np.sqrt((g * g).sum(axis=1))
    return -(query.double().numpy() @ g.T) / np.where(length > 0, length, 1)


def bit_distances(q: Tensor, g: Tensor) -> np.ndarray:
    return np.stack([np.unpackbits(row ^ g.numpy(), axis=1).sum(axis=1, dtype=np.int64) for row in q.numpy()])
