"""Data sets whose split is published as list files: one image and its label per line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsml.data.dataset import MODALITIES, PARTS, ImageDataset
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
    # (modality, part) -> rows of the list, or of each of its published versions; a list of unknown length is not named
    rows: Mapping[tuple[str, str], int | tuple[int, ...]]
    val: bool = True  # there is a list of held-out sketches
    aliases: tuple[str, ...] = ()  # other names under which copies keep the folder of the list files
    # (modality, part) -> of a published list the first 16 hexadecimal digits of the SHA-256 of the file, and of its sorted paths
    sha256: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def lengths(self, modality: str, part: str) -> tuple[int, ...]:
        """How many rows that list may have; empty if nobody knows."""
        known = self.rows.get((modality, part), ())
        return known if isinstance(known, tuple) else (known,)

    def parts(self, modality: str) -> tuple[str, ...]:
        """The parts of which there is a list: no photos are held out of training."""
        return PARTS if modality == "sketch" and self.val else ("train", "test")

    def lists_folder(self, root: Path, lists: str | os.PathLike[str] | None = None) -> Path:
        """The folder of the list files: the one named, or the published place under root."""
        if lists is None:
            folders = [root / name for name in (self.folder, *self.aliases)]
            folder = next((folder for folder in folders if folder.is_dir()), folders[0])
        else:
            folder = Path(lists)
        if not folder.is_dir():
            raise InputError(f"lists: no folder {str(folder)!r} with the list files of {self.name}; name it with lists=")
        return folder

    def list_file(self, folder: Path, modality: str, part: str) -> Path:
        """The list of that part. Some copies leave the word "filelist" out of its name."""
        names = [f"{self.stems[modality]}{middle}_{SUFFIXES[part]}.txt" for middle in ("_filelist", "")]
        return folder / next((name for name in names if (folder / name).is_file()), names[0])

    def classes_file(self, folder: Path, part: str) -> Path:
        """The names of the classes of that part, with their labels."""
        return folder / f"cname_cid{'_zero' if part == 'test' else ''}.txt"


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
    if part not in split.parts(kind):
        held_out = "hold out sketches only" if split.val else "hold out nothing"
        raise InputError(
            f"{split.name} has no part {part!r} of modality {kind!r}: its lists {held_out}; use part 'train' or 'test'"
        )
    found = read_list(split, split.lists_folder(root, lists), part, kind)
    if check_counts and (problems := wrong_counts(split, found)):
        hint = "compare with the published file, or set check_counts=False if yours is meant to differ"
        raise InputError(f"{problems[0]}; {hint}")
    if require_images:
        check_images(root, found.paths, split.name)
    full = [f"{root}/{path}" for path in found.paths]
    return FileDataset(split.name, part, modality, found.labels, found.classes, full, seed=seed, **common)


@dataclass(frozen=True)
class ImageList:
    """A list as it was read."""

    part: str
    modality: str
    file: Path
    classes: list[str]  # in label order
    paths: list[str]
    labels: list[int]  # by the folder of each path
    written: list[int]  # the label beside each path


def read_list(split: PublishedSplit, folder: Path, part: str, modality: str) -> ImageList:
    """One list file of the folder, with its classes.

    Raises:
        InputError: a missing or malformed file, an image in a folder that is no class.
    """
    classes = _read_classes(split.classes_file(folder, part), split)
    file = split.list_file(folder, modality, part)
    rows = _read_lines(file, split)
    paths = [path for path, _ in rows]
    return ImageList(part, modality, file, classes, paths, _labels(paths, classes, file), [int(label) for _, label in rows])


def wrong_counts(split: PublishedSplit, found: ImageList) -> list[str]:
    """How a list differs from the published one in its numbers of classes and rows."""
    number = split.unseen if found.part == "test" else split.seen
    rows = split.lengths(found.modality, found.part) or (len(found.paths),)
    problems = [
        f"{str(found.file)!r}: expected {' or '.join(f'{number:,}' for number in expected)} {what}, found {count:,}"
        for what, count, expected in (("classes", len(found.classes), (number,)), ("rows", len(found.paths), rows))
        if count not in expected
    ]
    used = set(found.labels)
    absent = [name for label, name in enumerate(found.classes) if label not in used]
    if absent:
        problems.append(f"{str(found.file)!r} has no image of {len(absent)} of its classes ({', '.join(sorted(absent)[:5])})")
    return problems


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


def missing_images(root: Path, paths: Sequence[str]) -> list[str]:
    """The paths that no file under root has; each folder is listed once, which is quick also over a network."""
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
    return missing


def check_images(root: Path, paths: Sequence[str], name: str) -> None:
    """Refuse if files are missing."""
    missing = missing_images(root, paths)
    if missing:
        shown = ", ".join(repr(path) for path in missing[:3])
        raise InputError(
            f"root={str(root)!r}: {len(missing):,} of the {len(paths):,} images listed for {name} are missing: {shown}...; "
            "root is the folder that these paths start from"
        )
