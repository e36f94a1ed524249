"""Generalised zero-shot retrieval: the photos of the seen classes stand in the gallery, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zsml.data.load import available_parts
from zsml.engine.config import TrainConfig
from zsml.engine.embed import Embeddings, load_part
from zsml.errors import InputError


class JoinedImages:
    """The images of several data sets, one after the other: what a report asks of a gallery's data set."""

    def __init__(self, datasets: Sequence[Any], classes: Sequence[str]):
        self.datasets, self.classes = list(datasets), list(classes)
        self.paths = [path for dataset in self.datasets for path in dataset.paths]

    def load(self, index: int) -> Any:
        for dataset in self.datasets:
            if index < len(dataset):
                return dataset.load(index)
            index -= len(dataset)
        raise IndexError(index)


def seen_photos(config: TrainConfig, unseen: Any) -> Any:
    """Every photo of the seen classes, those held out of training included; `unseen` is the data set of the others.

    Raises:
        InputError: a class is both seen and unseen.
    """
    options = {"val_fraction": 0} if "val" in available_parts(config.data, "photo") else {}
    seen = load_part(config, "train", "photo", **options)
    both = sorted(set(unseen.classes) & set(seen.classes))
    if both:
        named = ", ".join(both[:5]) + (" ..." if len(both) > 5 else "")
        raise InputError(f"--generalised has no meaning here: {len(both)} classes are both trained on and tested ({named})")
    return seen


def with_seen(unseen: Embeddings, seen: Embeddings) -> Embeddings:
    """The gallery of all classes: labels of the unseen ones as they were, those of the seen ones after them."""
    parts = (unseen, seen)
    joined = JoinedImages([part.dataset for part in parts], [name for part in parts for name in part.dataset.classes])
    return Embeddings(
        joined,
        torch.cat([part.embedding for part in parts]),
        torch.cat([unseen.labels, seen.labels + len(unseen.dataset.classes)]),
        torch.cat([unseen.items, seen.items + len(unseen.dataset)]),
        [path for part in parts for path in part.skipped],
    )
