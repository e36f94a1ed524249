"""Images sorted into folders: root/sketch/<class>/* and root/photo/<class>/*."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zsml.data.dataset import MODALITIES, ImageDataset
from zsml.data.decode import EXTENSIONS, FileDataset
from zsml.data.keys import stable_hash
from zsml.data.split import check_fraction, held_out_count, split_classes
from zsml.errors import InputError


def read_folder(
    root: Path,
    part: str,
    modality: int,
    *,
    seed: int,
    unseen: Sequence[str] | int | None = None,
    val_fraction: float = 0.1,
    **common: Any,
) -> ImageDataset:
    """Classes are the folders found under both modalities; the seed chooses the unseen ones and the images held out.

    Args:
        unseen: names of the unseen classes, or how many to draw; None draws a fifth.
        val_fraction: share of each seen class's images that form the val part instead of the train part.

    Raises:
        InputError: a missing folder, a class without images or with one modality only, an impossible split.
    """
    check_fraction(val_fraction)
    files = class_files(root)[modality]
    seen_classes, unseen_classes = split_classes(list(files), unseen, seed)
    classes = unseen_classes if part == "test" else seen_classes
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        chosen = files[name]
        if part != "test":
            order = sorted(chosen, key=lambda file: stable_hash("val", seed, f"{MODALITIES[modality]}/{name}/{file}"))
            held_out = set(order[: held_out_count(len(order), val_fraction)])
            chosen = [file for file in chosen if (file in held_out) == (part == "val")]
        paths += [str(root / MODALITIES[modality] / name / file) for file in chosen]
        labels += [label] * len(chosen)
    if not paths:
        raise InputError(f"the val part is empty: no class has 2 images, or val_fraction={val_fraction} is 0; raise it")
    return FileDataset("folder", part, modality, labels, classes, paths, seed=seed, **common)


def class_files(root: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Class name -> image file names, sorted, of the sketches and of the photos."""
    found: list[dict[str, list[str]]] = []
    for kind in MODALITIES:
        folder = root / kind
        if not folder.is_dir():
            raise InputError(
                f"root={str(root)!r} has no folder {kind!r}; expected are root/sketch/<class>/* and root/photo/<class>/*"
            )
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        if not classes:
            raise InputError(f"{str(folder)!r} holds no class folders; expected is one folder of images per class")
        found.append({name: _images(folder / name) for name in classes})
    sketches, photos = found
    lonely = [f"{name!r} (no {MODALITIES[k]} folder)" for k in (0, 1) for name in found[1 - k] if name not in found[k]]
    if lonely:
        raise InputError(
            f"root={str(root)!r}: classes with one modality only: {_first(lonely)}; add the other or remove the folder"
        )
    empty = [str(root / kind / name) for kind, files in zip(MODALITIES, found, strict=True) for name in files if not files[name]]
    if empty:
        raise InputError(
            f"classes without images ({', '.join(sorted(EXTENSIONS))}): {_first(empty)}; add images or remove the folder"
        )
    return sketches, photos


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    return sorted(name for name in names if Path(name).suffix.lower() in EXTENSIONS)


def _first(items: list[str], most: int = 5) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
