"""Whether a copy of a data set is what was published: its lists, their rows and classes, and every image they name."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

from zsml.data.annotations import PARTS as TRAIN_AND_TEST
from zsml.data.annotations import PUBLISHED, check_photo_labels, class_names, find_annotations, read_entries
from zsml.data.annotations import wrong_counts as wrong_annotations
from zsml.data.dataset import MODALITIES
from zsml.data.decode import decode
from zsml.data.folder import class_files
from zsml.data.lists import ImageList, PublishedSplit, missing_images, read_list, wrong_counts
from zsml.data.load import BY_LISTS
from zsml.errors import CorruptImage, InputError, not_known

MOST = 10  # classes named in one message; the result has all of them

Lists = Iterator[tuple[ImageList, dict[str, Any]]]  # a list and what is known of it


def check_dataset(
    name: str, root: Path, lists: Path | None = None, *, decode_images: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:  # fmt: skip
    """Compare a copy with what was published, and find the images that are missing.

    Args:
        name: "folder", "sketchy", "sketchy2", "tuberlin", "quickdraw" or "annotations".
        root, lists: as for :func:`zsml.data.load_dataset`.
        decode_images: also decode every image, which takes a while.
        progress: wraps the loop over the images decoded.

    Returns:
        data, root, ok, problems (a sentence each), and lists: of each list part, modality, file, rows and expected_rows (empty if
        nobody knows), classes and expected_classes, content ("as published"; "same images" in another order or with other labels,
        which are not used; "other images"; or "not known"), missing (the paths), missing_by_class (class -> how many of how many)
        and corrupt (path and reason). Lists that cannot be read are among the problems alone.

    Raises:
        InputError: an unknown data set, or one that has no files; no such root or folder of lists.
    """
    if name == "synthetic":
        raise InputError("name 'synthetic': its images are generated, so there is nothing to check")
    readers = {"folder": _folder, "annotations": _annotations, **{key: _published for key in BY_LISTS}}
    if name not in readers:
        raise InputError(f"name {not_known(name, readers)}")
    for what, folder in (("root", root), ("lists", lists)):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{what}={str(folder)!r} is {'not a folder' if folder.exists() else 'not there'}")
    problems: list[str] = []
    found = list(readers[name](name, root, lists, problems))
    problems += _repeated(found, shared=name == "annotations")
    rows = [_images(root, listed, known, problems) for listed, known in found]
    if decode_images:
        _decode(root, rows, found, problems, progress)
    return {"data": name, "root": str(root), "ok": not problems, "problems": list(dict.fromkeys(problems)), "lists": rows}


# ---- the lists of each kind of data set --------------------------------------------------------------------------------------


def _published(name: str, root: Path, lists: Path | None, problems: list[str]) -> Lists:
    split = BY_LISTS[name]
    try:
        folder = split.lists_folder(root, lists)
    except InputError as error:
        problems.append(str(error))
        return
    classes: dict[str, set[str]] = {}
    version: dict[tuple[str, str], int] = {}
    for kind in MODALITIES:
        for part in split.parts(kind):
            try:
                found = read_list(split, folder, part, kind)
            except InputError as error:
                problems.append(str(error))
                continue
            problems += wrong_counts(split, found)
            lengths, rows = split.lengths(kind, part), len(found.paths)
            content = _content(split, found)
            if content == "other images":
                problems.append(f"{str(found.file)!r} names other images than the published list")
            if len(lengths) > 1 and rows in lengths:
                version[kind, part] = lengths.index(rows)
            classes["test" if part == "test" else "train"] = set(found.classes)
            number = split.unseen if part == "test" else split.seen
            yield found, {"expected_rows": list(lengths), "expected_classes": number, "content": content}
    both = sorted(classes.get("train", set()) & classes.get("test", set()))
    if both:
        problems.append(f"{_some(both)}: classes that are seen and unseen at once")
    if len(set(version.values())) > 1:
        mixed = " and ".join(f"{kind} {part}" for kind, part in version)
        problems.append(f"the lists of {mixed} are of different versions of the split: they do not belong together")


def _content(split: PublishedSplit, found: ImageList) -> str:
    known = split.sha256.get((found.modality, found.part))
    if known is None or len(found.paths) != split.lengths(found.modality, found.part)[0]:
        return "not known"
    file, images = known
    text = found.file.read_bytes().replace(b"\r\n", b"\n")
    if hashlib.sha256(text).hexdigest().startswith(file):
        return "as published"
    paths = "\n".join(sorted(found.paths)).encode()
    return "same images" if hashlib.sha256(paths).hexdigest().startswith(images) else "other images"


def _annotations(name: str, root: Path, lists: Path | None, problems: list[str]) -> Lists:
    try:
        files = find_annotations(root, lists)
        entries = {("sketch", part): read_entries(files["sketch"], part) for part in TRAIN_AND_TEST}
        sketches = {part: entries["sketch", part] for part in TRAIN_AND_TEST}
        classes = class_names(files["sketch"], sketches)
        problems += wrong_annotations(files["sketch"], classes, sketches)
        for part in TRAIN_AND_TEST:
            entries["photo", part] = read_entries(files["photo"], part)
            check_photo_labels(files["photo"], entries["photo", part], classes)
    except InputError as error:
        problems.append(str(error))
        return
    number, *rows = PUBLISHED.get(files["sketch"].name.removesuffix("_sketch.json"), (None, None, None))
    expected = {("sketch", part): [count] for part, count in zip(TRAIN_AND_TEST, rows, strict=True) if count is not None}
    for (kind, part), pairs in entries.items():
        paths, labels = [path for path, _ in pairs], [label for _, label in pairs]
        found = ImageList(part, kind, files[kind], classes, paths, labels, labels)
        known = {"expected_rows": expected.get((kind, part), []), "expected_classes": number, "content": "not known"}
        yield found, known


def _folder(name: str, root: Path, lists: Path | None, problems: list[str]) -> Lists:
    try:
        modalities = class_files(root)
    except InputError as error:
        problems.append(str(error))
        return
    for kind, files in zip(MODALITIES, modalities, strict=True):
        pairs = [(f"{kind}/{name}/{file}", label) for label, (name, names) in enumerate(files.items()) for file in names]
        paths, labels = [path for path, _ in pairs], [label for _, label in pairs]
        found = ImageList("all", kind, root / kind, list(files), paths, labels, labels)
        yield found, {"expected_rows": [], "expected_classes": None, "content": "not known"}


# ---- the images --------------------------------------------------------------------------------------------------------------


def _repeated(found: list[tuple[ImageList, dict[str, Any]]], shared: bool) -> list[str]:
    """Images listed twice, in one list or in two; `shared`: photos are meant to be in both lists."""
    problems = []
    sets = [(listed, set(listed.paths)) for listed, _ in found]
    for listed, paths in sets:
        if len(paths) < len(listed.paths):
            problems.append(f"{str(listed.file)!r}: {len(listed.paths) - len(paths):,} images are listed twice")
    for (one, ours), (other, theirs) in combinations(sets, 2):
        both = ours & theirs
        if both and not (shared and one.modality == other.modality == "photo"):
            problems.append(
                f"{len(both):,} images are listed as {_name(one)} and as {_name(other)}, among them {sorted(both)[0]!r}"
            )
    return problems


def _images(root: Path, listed: ImageList, known: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The row of a list: what it says, and what of it is missing."""
    missing = missing_images(root, listed.paths)
    absent = set(missing)
    class_of = [listed.classes[label] for label in listed.labels]
    of = Counter(class_of)
    counts = Counter(name for name, path in zip(class_of, listed.paths, strict=True) if path in absent)
    by_class = {name: [counts[name], of[name]] for name in listed.classes if counts[name]}
    if missing:
        shown = _some([f"{name} {count:,} of {all_:,}" for name, (count, all_) in by_class.items()])
        problems.append(
            f"{_name(listed)}: {len(missing):,} of the {len(listed.paths):,} images are missing, of {len(by_class)} of the "
            f"{len(listed.classes)} classes: {shown}"
        )
        above = sorted({path.rsplit("/", 2)[0] for path in missing if path.count("/") > 1})
        gone = [f"{folder!r}" for folder in above if not (root / folder).is_dir()]
        if gone:
            problems.append(f"root={str(root)!r} has no folder {_some(gone)}")
    other = sum(a != b for a, b in zip(listed.labels, listed.written, strict=True))
    return {
        "part": listed.part, "modality": listed.modality, "file": str(listed.file), "rows": len(listed.paths),
        "classes": len(listed.classes), **known, "labels_not_used": other, "missing": missing, "missing_by_class": by_class,
        "corrupt": [],
    }  # fmt: skip


def _decode(
    root: Path, rows: list[dict[str, Any]], found: list[tuple[ImageList, dict[str, Any]]], problems: list[str],
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> None:  # fmt: skip
    """Fill in the corrupt images of every row."""
    jobs = [(row, path) for row, (listed, _) in zip(rows, found, strict=True) for path in _without(listed.paths, row["missing"])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = pool.map(lambda job: _reason(root / job[1]), jobs)
        try:
            for (row, path), reason in zip(jobs, progress(reasons), strict=True):
                if reason is not None:
                    row["corrupt"].append({"path": path, "reason": reason})
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for row, (listed, _) in zip(rows, found, strict=True):
        if row["corrupt"]:
            shown = _some([repr(entry["path"]) for entry in row["corrupt"]])
            problems.append(f"{_name(listed)}: {len(row['corrupt']):,} images cannot be decoded: {shown}")


def _reason(path: Path) -> str | None:
    """Why an image cannot be decoded; None if it can."""
    try:
        decode(path)
    except CorruptImage as error:
        return error.reason
    except InputError as error:
        return str(error)
    return None


def _without(paths: list[str], missing: list[str]) -> list[str]:
    absent = set(missing)
    return [path for path in paths if path not in absent]


def _name(listed: ImageList) -> str:
    return f"{listed.part} {'sketches' if listed.modality == 'sketch' else 'photos'}"


def _some(items: list[str]) -> str:
    rest = f" and {len(items) - MOST} more" if len(items) > MOST else ""
    return ", ".join(items[:MOST]) + rest
