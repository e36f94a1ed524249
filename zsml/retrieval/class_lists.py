"""Which gallery items are relevant: the gallery's rows class by class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class ClassLists:
    """Rows of a gallery grouped by label, as :func:`zsml.ops.rank_relevant.rank_relevant` takes them.

    Attributes:
        classes: int64 [C], the labels that occur, ascending.
        order: int64 [N], rows class by class, ascending within each.
        starts: int64 [C + 1]; class c is ``order[starts[c] : starts[c + 1]]``.

    >>> lists = ClassLists(torch.tensor([7, 3, 7]))
    >>> lists.order.tolist(), lists.starts.tolist(), lists.find(torch.tensor([3, 5, 7])).tolist()
    ([1, 0, 2], [0, 1, 3], [0, -1, 1])
    """

    def __init__(self, labels: Tensor) -> None:
        ordered = labels.sort(stable=True)
        self.order = ordered.indices
        self.classes, counts = ordered.values.unique_consecutive(return_counts=True)
        self.starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def find(self, labels: Tensor) -> Tensor:
        """The place of each label in ``classes``, -1 where it does not occur."""
        place = torch.searchsorted(self.classes, labels).clamp(max=len(self.classes) - 1)
        return torch.where(self.classes[place] == labels, place, -1)

    def count(self, places: Tensor) -> np.ndarray:
        """Number of gallery rows of each class, int64; 0 for -1."""
        size = self.starts.diff()
        return torch.where(places >= 0, size[places.clamp(min=0)], 0).numpy()

    def blocks(self, places: Tensor, most: int) -> Iterator[Tensor]:
        """Queries that have relevant rows, class by class, in blocks of at most ``most`` relevant rows (but at least a query)."""
        queries = places.sort(stable=True).indices
        queries = queries[places[queries] >= 0]
        ends = np.cumsum(self.count(places[queries]))
        first = 0
        while first < len(queries):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
            yield queries[first:last]
            first = last
