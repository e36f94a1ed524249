"""The official downloads of a data set, resized and laid out as its readers expect.

Nothing is unpacked: an image's place follows from its class folder and its file name alone. Each file is written whole or not at
all, and one that is there is not made again, so that a broken-off run goes on where it stopped.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from zsml.data.archives import ARCHIVES, BadArchive, BadEntry, entries, find_sources
from zsml.data.decode import EXTENSIONS, decode
from zsml.data.layouts import LAYOUTS, Layout
from zsml.errors import CorruptImage, InputError, not_known
from zsml.files import write_atomic

MARK = ".prepared.json"  # in the root: the size its images have
NO_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # what is wrong with a name, not with the disk


@dataclass
class Prepared:
    """What a run of :func:`prepare_dataset` did."""

    data: str
    root: str
    size: int
    folders: dict[str, int] = field(default_factory=dict)  # folder of class folders, or of lists -> files of the downloads there
    written: int = 0
    already: int = 0  # there before
    repeated: int = 0  # further copies of the same file in the downloads, left out
    corrupt: list[dict[str, str]] = field(default_factory=list)  # file and reason
    links: list[str] = field(default_factory=list)  # not followed
    damaged: list[str] = field(default_factory=list)  # archives, with what is wrong with them
    unread: list[str] = field(default_factory=list)  # archives of kinds that cannot be read

    @property
    def complete(self) -> bool:
        """Everything in the downloads could be used."""
        return not (self.corrupt or self.links or self.damaged)


def prepare_dataset(
    name: str, downloads: Path, root: Path, *, size: int = 256, workers: int | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Prepared:  # fmt: skip
    """Resize the images of the downloads to size x size pixels and put them under root, with the lists found beside them.

    Args:
        name: "sketchy", "sketchy2", "tuberlin", "quickdraw", "annotations" (the root is then called TUBerlin or sketchy, like its
            JSON files) or "folder".
        downloads: folder of the downloads, with class folders or .zip and .tar archives at any depth, or one archive.
        root: folder to fill.
        size: pixels; the aspect ratio is not kept, as no published system does. 0 copies the files as they are.
        workers: images resized at once; None: one per core.
        progress: wraps the loop over the files, to show how far it is.

    Returns:
        What was done, and what could not be: corrupt images are left out and listed, links are not followed, and of a damaged
        archive, or one with names that lead out of it, the sound part is used.

    Raises:
        InputError: an unknown data set, nothing of it in the downloads, a root that cannot be written (a full disk: what is there
            stays) or was filled with images of another size, or that is being filled by another process.
    """
    if name not in LAYOUTS:
        raise InputError(f"name {not_known(name, LAYOUTS)}")
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size must be an int, got {type(size).__name__}")
    if size < 0:
        raise InputError(f"size={size} must be 1 or more (pixels), or 0 to copy the files as they are")
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} must be 1 or more")
    downloads, root = downloads.absolute(), root.absolute()
    if root.resolve().is_relative_to(downloads.resolve()):
        raise InputError(f"root={str(root)!r} lies in the folder of the downloads; choose one outside it")
    sources, unread = find_sources(downloads)
    done = Prepared(name, str(root), size, unread=[str(path) for path in unread])
    layout = LAYOUTS[name](root.name)
    try:
        with (
            _held(root, size, set(layout.images.values())),
            closing(_placed(_wanted(sources, layout, root, done), root, size, workers)) as outcomes,
        ):
            for file, place, outcome in progress(outcomes):
                _count(done, file, place, outcome)
    except OSError as error:
        raise InputError(
            f"root={str(root)!r} cannot be written: {error.strerror or error}; {done.written:,} files were written, "
            "and the same command goes on from there"
        ) from error
    if not done.folders and not done.corrupt:
        raise InputError(_nothing(downloads, layout, done))
    return done


def _nothing(downloads: Path, layout: Layout, done: Prepared) -> str:
    expected = ", ".join("/".join(ending) for ending in layout.images)
    hints = [*done.damaged, *(f"{file} has to be unpacked first" for file in done.unread)]
    hints += [f"{link} is a link, and not followed" for link in done.links]
    return "; ".join(
        [
            f"{str(downloads)!r} holds no images of {done.data}: expected are folders of class folders called {expected}, "
            f"loose or in archives ({', '.join(ARCHIVES)})",
            *hints[:5],
        ]
    )


@contextmanager
def _held(root: Path, size: int, folders: Collection[str] = ()) -> Iterator[None]:
    """The root, made if need be, held against other processes and marked with the size of its images."""
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"root={str(root)!r} is being filled by another process") from error
        mark = root / MARK
        if not mark.exists():
            there = sorted(folder for folder in folders if (root / folder).is_dir() and any((root / folder).iterdir()))
            if there:
                raise InputError(
                    f"root={str(root)!r} holds {there[0]} already, of a size that nothing says; choose another folder, or write "
                    f'{{"size": S}} into {str(mark)!r} if its images have S pixels'
                )
            write_atomic(mark, json.dumps({"size": size}).encode())
        try:
            before = json.loads(mark.read_text())["size"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(mark)!r} is damaged; delete it if the images in its folder have the size wanted") from error
        if before != size:
            raise InputError(f"root={str(root)!r} holds images of size {before}, not {size}; go on with that size, or elsewhere")
        yield
    finally:
        os.close(handle)  # and with it the lock


Wanted = tuple[str, str, bytes | None]  # file, place, and its bytes, or None if the place is filled already


def _wanted(sources: list[Path], layout: Layout, root: Path, done: Prepared) -> Iterator[Wanted]:
    """The files that have a place, each place once."""
    filled: dict[Path, set[str]] = {}  # by folder
    seen: set[str] = set()
    for source in sources:
        try:
            for entry in entries(source):
                place = layout.place(entry.parts)
                if entry.link:
                    done.links.append(entry.name)
                elif place in seen:
                    done.repeated += 1
                elif place is not None:
                    seen.add(place)
                    folder, name = (root / place).parent, Path(place).name
                    if folder not in filled:
                        filled[folder] = _filled(folder)
                    try:
                        yield entry.name, place, None if name in filled[folder] else entry.read()
                    except BadEntry as error:
                        done.corrupt.append({"file": entry.name, "reason": str(error)})
        except BadArchive as error:
            done.damaged.append(str(error))


def _filled(folder: Path) -> set[str]:
    """Names of the files there that are not empty, as a power cut can leave them."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as found:
        return {entry.name for entry in found if entry.is_file() and entry.stat().st_size > 0}


def _placed(wanted: Iterator[Wanted], root: Path, size: int, workers: int | None) -> Iterator[tuple[str, str, str]]:
    """Resize and write in threads, a few files ahead of what is counted; gives file, place and what became of it."""
    workers = workers or os.cpu_count() or 1
    pending: deque[tuple[str, str, Future[str] | None]] = deque()

    def oldest() -> tuple[str, str, str]:
        file, place, future = pending.popleft()
        return file, place, "already" if future is None else future.result()

    pool = ThreadPoolExecutor(workers)
    try:
        for file, place, data in wanted:
            pending.append((file, place, None if data is None else pool.submit(_place, root / place, data, size)))
            if len(pending) >= 4 * workers:
                yield oldest()
        while pending:
            yield oldest()
    finally:
        pool.shutdown(cancel_futures=True)


def _place(path: Path, data: bytes, size: int) -> str:
    """Write one file; says "written", or why it is corrupt."""
    if path.suffix.lower() in EXTENSIONS:
        try:
            data = resized(data, size, path.suffix)
        except CorruptImage as error:
            return error.reason
    # One name per file and none per process: a run that goes on writes over what a killed one left.
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        if error.errno not in NO_NAME:
            temporary.unlink(missing_ok=True)
            raise
        return f"its name cannot be one of a file here: {error.strerror}"
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return "written"


def resized(data: bytes, size: int, suffix: str) -> bytes:
    """An image file of size x size pixels, in the format of the suffix; unchanged if it has that size, or size is 0.

    Raises:
        CorruptImage: it cannot be decoded.
    """
    image = decode(io.BytesIO(data))
    if size == 0 or image.size == (size, size):
        return data
    out = io.BytesIO()
    kind = Image.registered_extensions()[suffix.lower()]
    quality = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    image.resize((size, size), Image.Resampling.BILINEAR).save(out, format=kind, **quality)
    return out.getvalue()


def _count(done: Prepared, file: str, place: str, outcome: str) -> None:
    if outcome not in ("written", "already"):
        done.corrupt.append({"file": file, "reason": outcome})
        return
    folder = Path(place).parent
    name = str(folder.parent if Path(place).suffix.lower() in EXTENSIONS else folder)
    done.folders[name] = done.folders.get(name, 0) + 1
    setattr(done, outcome, getattr(done, outcome) + 1)
