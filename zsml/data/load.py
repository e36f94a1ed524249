"""`load_dataset`: every data set by its name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zsml.data import quickdraw, sketchy, tuberlin
from zsml.data.annotations import PARTS as TRAIN_AND_TEST
from zsml.data.annotations import read_annotations
from zsml.data.dataset import PARTS, ImageDataset, Transform
from zsml.data.folder import read_folder
from zsml.data.lists import PublishedSplit, read_lists
from zsml.data.synthetic import read_synthetic
from zsml.data.transforms import Normalize, build_transform, check_image_size, modality_number
from zsml.errors import InputError, not_known

READERS: dict[str, Callable[..., ImageDataset]] = {
    "synthetic": read_synthetic,
    "folder": read_folder,
    "sketchy": sketchy.read_sketchy,
    "sketchy2": sketchy.read_sketchy2,
    "tuberlin": tuberlin.read_tuberlin,
    "quickdraw": quickdraw.read_quickdraw,
    "annotations": read_annotations,
}
BY_LISTS: dict[str, PublishedSplit] = {
    split.name: split for split in (sketchy.ZEROSHOT1, sketchy.ZEROSHOT2, tuberlin.ZEROSHOT, quickdraw.ZEROSHOT)
}


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None,
    part: str,
    modality: str | int,
    *,
    transform: str | Transform | None = "test",
    image_size: int = 224,
    normalize: Normalize = "imagenet",
    seed: int = 0,
    strict: bool = False,
    **options: Any,
) -> ImageDataset:
    """One modality of one part of a data set, as a map-style dataset of (image, label, modality).

    Args:
        name: "synthetic" (generated), "folder" (root/{sketch,photo}/<class>/*), "sketchy", "sketchy2", "tuberlin" or "quickdraw"
            (by their published lists), or "annotations" (by the JSON files of MEMS: the same classes in "train" and "test").
        root: folder of the images; "synthetic" ignores it.
        part: "train", "val" (seen classes, not trained on) or "test" (unseen classes, labels from 0 again).
        modality: "sketch" or 0, "photo" or 1.
        transform: a name of :func:`zsml.data.build_transform` (the image is float32 [3, S, S]), any function of a PIL RGB image,
            or None (the image is that PIL image).
        image_size: S, pixels.
        normalize: of a named transform; see :func:`zsml.data.build_transform`.
        seed: of the split, of generated images, and of the augmentation after ``set_epoch``.
        strict: a corrupt image is an error also where it would be skipped.
        options: "synthetic": num_classes, samples_per_class, unseen, val_fraction; "folder": unseen, val_fraction;
            the others: lists, check_counts, require_images. See the readers.

    Raises:
        InputError: an unknown name, part, modality, transform or option, or data that cannot be used; the message names it.

    >>> data = load_dataset("synthetic", None, "test", "sketch", image_size=64, num_classes=20)
    >>> image, label, modality = data[0]
    >>> image.shape, label, modality, len(data.classes)
    (torch.Size([3, 64, 64]), 0, 0, 4)
    """
    if name not in READERS:
        raise InputError(f"name {not_known(name, READERS)}")
    if part not in PARTS:
        raise InputError(f"part={part!r} must be one of {', '.join(map(repr, PARTS))}")
    number = modality_number(modality)
    check_image_size(image_size)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    if isinstance(transform, str):
        transform = build_transform(transform, number, image_size, normalize=normalize)
    elif transform is not None and not callable(transform):
        raise TypeError(f"transform must be a name, a function of a PIL image or None, got {type(transform).__name__}")
    _check_options(name, options)
    folder = None if root is None else Path(root)
    if name == "synthetic":
        options["image_size"] = image_size
    elif folder is None:
        raise InputError(f"root is missing: {name!r} needs the folder that holds the images")
    elif not folder.is_dir():
        raise InputError(f"root={str(folder)!r} is {'not a folder' if folder.exists() else 'not there'}")
    return READERS[name](folder, part, number, seed=seed, transform=transform, strict=strict, **options)


def available_parts(name: str, modality: str) -> tuple[str, ...]:
    """The parts that a data set has of a modality.

    >>> available_parts("sketchy", "sketch"), available_parts("sketchy", "photo")
    (('train', 'val', 'test'), ('train', 'test'))
    """
    if name == "annotations":
        return TRAIN_AND_TEST
    return BY_LISTS[name].parts(modality) if name in BY_LISTS else PARTS


def _check_options(name: str, options: dict[str, Any]) -> None:
    reader = read_lists if name in BY_LISTS else READERS[name]
    known = [
        p.name for p in inspect.signature(reader).parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    ]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise InputError(f"{name!r} has no option {', '.join(map(repr, unknown))}; it takes {', '.join(known)}")
