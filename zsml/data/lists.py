"""Data sets whose split is published as list files: one image and its label per line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsml.data.dataset import MODALITIES, ImageDataset
from zsml.data.decode import FileDataset
from zsml.errors import InputError

SUFFIXES = {"train": "train", "val": "test", "test": "zero"}  # the lists call held-out sketches of seen classes "test"


@dataclass(frozen=True)
class PublishedSplit:
    """What is known of a published split."""

    name: str
    folder: str  # of the list files, under root
    seen: int  # classes
    unseen: int
    stems: Mapping[str, str]  # modality -> first part of the list's file name
    rows: Mapping[tuple[str, str], int]  # (modality, part) -> rows of the list; a list of unknown length is not named


def read_lists(
    split: PublishedSplit, root: Path, part: str, modality: int, *, seed: int, lists: str | os.PathLike[str] | None = None,
    check_counts: bool = True, require_images: bool = True, **common: Any,
) -> ImageDataset:  # fmt: skip
    """One part of a published split, in the order of its list.

    A label is the position of the image's class folder in cname_cid.txt (unseen classes: cname_cid_zero.txt). The labels in the
    list are not used: those of a published photo list are broken, and sketches and photos must agree.

    Args:
        root: folder the paths in the lists start from.
        lists: folder of the list files; None: the published place under root.
        check_counts: refuse lists whose numbers of rows or classes are not the published ones.
        require_images: refuse if a listed file is not there.

    Raises:
        InputError: no such part, a missing or malformed list, other counts than published, missing images.
    """
    kind = MODALITIES[modality]
    if part == "val" and kind == "photo":
        raise InputError(
            f"{split.name} has no part 'val' of modality 'photo': its lists hold out sketches only; use part 'train' or 'test'"
        )
    folder = root / split.folder if lists is None else Path(lists)
    if not folder.is_dir():
        raise InputError(f"lists: no folder {str(folder)!r} with the list files of {split.name}; name it with lists=")
    unseen = part == "test"
    classes = _read_classes(folder / f"cname_cid{'_zero' if unseen else ''}.txt", split)
    file = folder / f"{split.stems[kind]}_filelist_{SUFFIXES[part]}.txt"
    paths = _read_paths(file, split)
    labels = _labels(paths, classes, file)
    if check_counts:
        hint = "compare with the published file, or set check_counts=False if yours is meant to differ"
        expected = {"classes": split.unseen if unseen else split.seen, "rows": split.rows.get((kind, part), len(paths))}
        for what, found in (("classes", len(classes)), ("rows", len(paths))):
            if found != expected[what]:
                raise InputError(f"{str(file)!r}: expected {expected[what]:,} {what}, found {found:,}; {hint}")
        absent = sorted(set(classes) - {classes[label] for label in labels})
        if absent:
            raise InputError(f"{str(file)!r} has no image of {len(absent)} of its classes ({', '.join(absent[:5])}); {hint}")
    if require_images:
        _check_images(root, paths, split)
    full = [f"{root}/{path}" for path in paths]
    return FileDataset(split.name, part, modality, labels, classes, full, seed=seed, **common)


def _read_lines(file: Path, split: PublishedSplit) -> list[tuple[str, str]]:
    """(everything before the last word, the last word) of each line that has any."""
    if not file.is_file():
        raise InputError(
            f"{split.name}: the list {file.name!r} is not in {str(file.parent)!r}; put the published file there, "
            "or name the folder that has it with lists="
        )
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(file)!r} is not a text file: {error.reason} at byte {error.start}") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or not (words[-1].isascii() and words[-1].isdecimal()):
            raise InputError(f"{str(file)!r} line {number}: expected a name and then a label, a whole number; got {line[:80]!r}")
        entries.append((" ".join(words[:-1]), words[-1]))
    if not entries:
        raise InputError(f"{str(file)!r} is empty; expected one name and label per line")
    return entries


def _read_classes(file: Path, split: PublishedSplit) -> list[str]:
    """Class names in label order."""
    entries = _read_lines(file, split)
    order = sorted((int(label), name) for name, label in entries)
    if [label for label, _ in order] != list(range(len(order))):
        raise InputError(f"{str(file)!r}: labels must be 0..{len(order) - 1}, each once")
    names = [name for _, name in order]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{str(file)!r}: class {twice!r} has two labels")
    return names


def _read_paths(file: Path, split: PublishedSplit) -> list[str]:
    return [path for path, _ in _read_lines(file, split)]


def _labels(paths: list[str], classes: list[str], file: Path) -> list[int]:
    """The label of each path, from the folder the file lies in."""
    number = {name: label for label, name in enumerate(classes)}
    labels = []
    for line, path in enumerate(paths, start=1):
        name = path.split("/")[-2] if "/" in path else ""
        if name not in number:
            raise InputError(
                f"{str(file)!r}, entry {line}: {path!r} lies in the folder {name!r}, which is no class of the "
                f"{len(classes)} in its cname_cid file"
            )
        labels.append(number[name])
    return labels


def _check_images(root: Path, paths: list[str], split: PublishedSplit) -> None:
    """Refuse if files are missing; each folder is listed once, which is quick also over a network."""
    present: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in present:
            try:
                present[folder] = {entry.name for entry in (root / folder).iterdir()}
            except OSError:
                present[folder] = set()
        if name not in present[folder]:
            missing.append(path)
    if missing:
        shown = ", ".join(repr(path) for path in missing[:3])
        raise InputError(
            f"root={str(root)!r}: {len(missing):,} of the {len(paths):,} images listed for {split.name} are missing: {shown}...; "
            "root is the folder that these paths start from"
        )
