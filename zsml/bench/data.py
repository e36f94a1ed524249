"""Retrieval sets of the published benchmarks' sizes, drawn by a seeded generator.

Codes: each class has a random prototype, and an item is its prototype with 28 % of the bits flipped. Embeddings: a class centre
plus three times as much noise, normalised; the average precision is then about what the published systems reach.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FLIPPED = 72  # of 256: 28 %
NOISE = 3.0  # times the length of a class centre


class Size(NamedTuple):
    """Queries, gallery items and classes of a set."""

    queries: int
    gallery: int
    classes: int


SETS = {
    "sketchy": Size(15_229, 17_101, 25),
    "tuberlin": Size(2_400, 27_989, 30),
    "quickdraw": Size(92_291, 54_146, 30),
    "tiny": Size(80, 300, 5),  # to try things out
}


class Retrieval(NamedTuple):
    """Queries and gallery, as embeddings [rows, D] or packed codes [rows, W], with their class ids int64 [rows]."""

    query: Tensor
    query_labels: Tensor
    gallery: Tensor
    gallery_labels: Tensor

    def head(self, queries: int) -> Retrieval:
        """The same gallery with the first queries only."""
        return self._replace(query=self.query[:queries], query_labels=self.query_labels[:queries])


def draw_codes(name: str, queries: int, bits: int, device: str) -> Retrieval:
    """Packed codes uint8 [rows, bits / 8].

    >>> data = draw_codes("tiny", 10, 64, "cpu")
    >>> data.query.shape, data.gallery.shape
    (torch.Size([10, 8]), torch.Size([300, 8]))
    """

    def draw(labels: np.ndarray, random: np.random.Generator, prototypes: np.ndarray) -> Tensor:
        flips = random.integers(0, 256, (len(labels), bits), dtype=np.uint8) < FLIPPED
        return torch.from_numpy(np.packbits(prototypes[labels] ^ flips, axis=1, bitorder="little"))

    return _draw(name, queries, device, lambda random, classes: random.integers(0, 2, (classes, bits)).astype(bool), draw)


def draw_embeddings(name: str, queries: int, width: int, device: str) -> Retrieval:
    """Unit vectors float32 [rows, width].

    >>> draw_embeddings("tiny", 10, 16, "cpu").query.norm(dim=1).round(decimals=5).unique()
    tensor([1.])
    """

    def draw(labels: np.ndarray, random: np.random.Generator, centres: np.ndarray) -> Tensor:
        x = centres[labels] + NOISE * random.standard_normal((len(labels), width), dtype=np.float32)
        return torch.nn.functional.normalize(torch.from_numpy(x), dim=1)

    return _draw(name, queries, device, lambda random, classes: random.standard_normal((classes, width), np.float32), draw)


def _draw(name: str, queries: int, device: str, draw_classes, draw_items) -> Retrieval:
    size = SETS[name]
    seed = zlib.crc32(name.encode())
    random = np.random.default_rng([seed, 0])
    weights = random.uniform(0.5, 1.5, size.classes)  # classes differ in size as much as the published ones do
    classes = draw_classes(random, size.classes)
    sets = []
    for place, count in ((1, queries), (2, size.gallery)):
        own = np.random.default_rng([seed, place])  # so that the gallery does not depend on the number of queries
        labels = own.choice(size.classes, count, p=weights / weights.sum())
        sets += [draw_items(labels, own, classes).to(device), torch.from_numpy(labels).to(device)]
    return Retrieval(*sets)
