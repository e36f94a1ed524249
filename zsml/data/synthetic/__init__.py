"""Generated objects, drawn as photos and as sketches: data for demonstrations and tests that needs no files.

What tells classes apart is structure (which parts an object has, their shapes and where they sit), and both renderings show it;
colour, texture, light, background and drawing style are chance. Unseen classes are built from the same parts as seen ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from zsml.data.dataset import MODALITIES, ImageDataset
from zsml.data.keys import numpy_stream
from zsml.data.split import check_fraction, held_out_count, split_classes
from zsml.data.synthetic.grammar import ObjectClass, object_classes
from zsml.data.synthetic.photo import draw_photo
from zsml.data.synthetic.sketch import draw_sketch
from zsml.errors import InputError


class SyntheticDataset(ImageDataset):
    """Generated images; image i is a function of (seed, its class, its modality, its number in the class) and the size."""

    def __init__(self, *args: Any, objects: Sequence[ObjectClass], numbers: range, image_size: int, **common: Any):
        labels = torch.arange(len(objects)).repeat_interleave(len(numbers))
        kind = MODALITIES[args[2]]
        paths = [f"synthetic/{kind}/{thing.name}/{number}" for thing in objects for number in numbers]
        super().__init__(*args, labels, [thing.name for thing in objects], paths, **common)
        self.objects, self.numbers, self.image_size = list(objects), numbers, image_size

    def load(self, index: int) -> Image.Image:
        """Generate image number index."""
        thing, number = self.objects[int(self.labels[index])], self.numbers[index % len(self.numbers)]
        random = numpy_stream(*thing.traits.key, MODALITIES[self.modality], number)
        render = draw_photo if MODALITIES[self.modality] == "photo" else draw_sketch
        return render(thing.specimen(random), random, self.image_size)


def read_synthetic(
    root: Path | None, part: str, modality: int, *, seed: int, image_size: int, num_classes: int = 100,
    samples_per_class: int = 100, unseen: Sequence[str] | int | None = None, val_fraction: float = 0.1, **common: Any,
) -> ImageDataset:  # fmt: skip
    """Generated classes; root is not used.

    Args:
        seed: chooses the classes, the split and the images.
        num_classes: seen and unseen together.
        samples_per_class: images of each class and modality.
        unseen: names of the unseen classes, or how many to draw; None draws a fifth.
        val_fraction: share of each seen class's images that form the val part instead of the train part.

    Raises:
        InputError: an impossible split, or more classes asked for than the grammar has.
    """
    for name, value, least in (("num_classes", num_classes, 2), ("samples_per_class", samples_per_class, 1)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < least:
            raise InputError(f"{name}={value} must be {least} or more")
    check_fraction(val_fraction)
    objects = {thing.name: thing for thing in object_classes(num_classes, seed)}
    seen_classes, unseen_classes = split_classes(list(objects), unseen, seed)
    names = unseen_classes if part == "test" else seen_classes
    held_out = held_out_count(samples_per_class, val_fraction)
    numbers = {"train": range(held_out, samples_per_class), "val": range(held_out), "test": range(samples_per_class)}[part]
    if not numbers:
        raise InputError(
            f"the val part is empty: samples_per_class={samples_per_class}, val_fraction={val_fraction}; raise one of them"
        )
    return SyntheticDataset(
        "synthetic",
        part,
        modality,
        objects=[objects[name] for name in names],
        numbers=numbers,
        image_size=image_size,
        seed=seed,
        **common,
    )
