"""The JSON annotations of DASE and MEMS: ordinary category retrieval, the same classes in training and test.

Lu et al., Learning Large Euclidean Margin for Sketch-based Image Retrieval, arXiv 1812.04275. ``<dataset>_sketch.json`` and
``<dataset>_photo.json`` hold ``{"train": [[path, label], ...], "test": [[path, label], ...]}``, with paths from the root on. Only
sketches are held out: the photos to search in are those of training.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from zsml.data.dataset import MODALITIES, ImageDataset
from zsml.data.decode import FileDataset
from zsml.data.lists import check_images
from zsml.errors import InputError

# classes, sketches of the train and of the test list of the published files
PUBLISHED = {"TUBerlin": (250, 17_500, 2_500), "sketchy": (125, 69_231, 6_250)}
PARTS = ("train", "test")

Entries = list[tuple[str, int]]  # (path, label)


def read_annotations(
    root: Path, part: str, modality: int, *, seed: int, lists: str | os.PathLike[str] | None = None,
    check_counts: bool = True, require_images: bool = True, **common: Any,
) -> ImageDataset:  # fmt: skip
    """One list of a JSON file, in its order, with the labels it gives.

    Classes are named by the folders of the sketches; those of the photos may be spelt otherwise, as some of TU-Berlin's are. Part
    "test" holds the sketches kept out of training and the photos to search in, of the classes of "train". There is no part "val".

    Args:
        root: folder that the paths start from.
        lists: folder of the JSON files; None: root, root/anno, or anno beside the folder of the data sets, as published. Of
            several data sets there, the one with the name of the root is read.
        check_counts: refuse sketch lists of TUBerlin and sketchy whose numbers of rows or classes are not the published ones.
        require_images: refuse if a listed file is not there.

    Raises:
        InputError: no such part, a missing or malformed file, labels that contradict each other, other counts than published,
            missing images.
    """
    if part not in PARTS:
        raise InputError(
            f"annotations have no part {part!r}: nothing but the test sketches is held out; use part 'train' or 'test'"
        )
    files = find_annotations(root, lists)
    sketches = {name: read_entries(files["sketch"], name) for name in PARTS}
    classes = class_names(files["sketch"], sketches)
    if check_counts:
        problems = wrong_counts(files["sketch"], classes, sketches)
        if problems:
            raise InputError(f"{problems[0]}; compare with the published file, or set check_counts=False")
    if MODALITIES[modality] == "sketch":
        entries = sketches[part]
    else:
        entries = read_entries(files["photo"], part)
        check_photo_labels(files["photo"], entries, classes)
    if require_images:
        check_images(root, [path for path, _ in entries], "annotations")
    paths = [f"{root}/{path}" for path, _ in entries]
    return FileDataset("annotations", part, modality, [label for _, label in entries], classes, paths, seed=seed, **common)


def find_annotations(root: Path, lists: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """The JSON file of each modality."""
    if lists is not None and not Path(lists).is_dir():
        raise InputError(f"lists: no folder {str(lists)!r} with the JSON files; name it with lists=")
    root = root.absolute()
    folders = [root, root / "anno", root.parent.parent / "anno"] if lists is None else [Path(lists)]
    for folder in folders:
        names = sorted(path.name.removesuffix("_sketch.json") for path in folder.glob("*_sketch.json"))
        if root.name in names:
            names = [root.name]
        if len(names) > 1:
            raise InputError(
                f"lists: {str(folder)!r} holds annotations of {', '.join(names)}; name a folder that holds those of one data set"
            )
        if names:
            files = {kind: folder / f"{names[0]}_{kind}.json" for kind in MODALITIES}
            if not files["photo"].is_file():
                raise InputError(f"lists: {files['photo'].name!r} is not beside {files['sketch'].name!r} in {str(folder)!r}")
            return files
    searched = ", ".join(repr(str(folder)) for folder in folders)
    raise InputError(f"lists: no <dataset>_sketch.json and <dataset>_photo.json in {searched}; name their folder with lists=")


def read_entries(file: Path, part: str) -> Entries:
    """The list of that part: paths and labels."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(file)!r} is not a JSON file: {error}") from error
    rows = content.get(part) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f'{str(file)!r} has no list {part!r}; expected {{"train": [[path, label], ...], "test": [...]}}')
    for number, row in enumerate(rows):
        sound = isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and type(row[1]) is int and row[1] >= 0
        if not sound:
            raise InputError(
                f"{str(file)!r}, {part} entry {number}: expected [path, label], a whole number; got {json.dumps(row)[:80]}"
            )
        folders = row[0].split("/")
        if len(folders) < 2 or ".." in folders or not folders[0]:
            raise InputError(f"{str(file)!r}, {part} entry {number}: {row[0]!r} is no path from the root on, .../<class>/<file>")
    return [(path, label) for path, label in rows]


def class_names(file: Path, lists: dict[str, Entries]) -> list[str]:
    """The folder of each label, in the order of the labels."""
    names = _folder_of_label(file, [entry for entries in lists.values() for entry in entries])
    if sorted(names) != list(range(len(names))):
        absent = next(label for label in range(len(names)) if label not in names)
        raise InputError(f"{str(file)!r}: labels must be 0..{len(names) - 1}, but no image has label {absent}")
    return [names[label] for label in range(len(names))]


def check_photo_labels(file: Path, entries: Entries, classes: list[str]) -> None:
    """Refuse photo labels that no sketch has, or that mean another class than among the sketches."""
    for label, name in _folder_of_label(file, entries).items():
        if label >= len(classes):
            raise InputError(f"{str(file)!r}: label {label} of {name!r} is none of the {len(classes)} labels of the sketches")
        if name != classes[label] and name in classes:
            raise InputError(
                f"{str(file)!r}: {name!r} has label {label}, but {classes.index(name)} in the sketch file; "
                "the two files do not belong together"
            )


def wrong_counts(file: Path, classes: list[str], lists: dict[str, Entries]) -> list[str]:
    """How a sketch file differs from the published one of that name; empty if it does not, or none is known."""
    published = PUBLISHED.get(file.name.removesuffix("_sketch.json"))
    if published is None:
        return []
    found = {"classes": len(classes), **{f"rows in {part!r}": len(lists[part]) for part in PARTS}}
    return [
        f"{str(file)!r}: expected {expected:,} {what}, found {number:,}"
        for (what, number), expected in zip(found.items(), published, strict=True)
        if number != expected
    ]


def _folder_of_label(file: Path, entries: Entries) -> dict[int, str]:
    """Label -> folder; each has one of the other."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for path, label in entries:
        name = path.split("/")[-2]
        if names.setdefault(label, name) != name:
            raise InputError(f"{str(file)!r}: label {label} is given to the folders {names[label]!r} and {name!r}")
        if labels.setdefault(name, label) != label:
            raise InputError(f"{str(file)!r}: the folder {name!r} has the labels {labels[name]} and {label}")
    return names
