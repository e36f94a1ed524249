"""The folder of an index: its manifest, and how a new state of it becomes visible all at once.

    manifest.json                       what belongs to the index: every file with its length and SHA-256
    shards/<name>.rows.safetensors      embedding [n, D] float16 or float32, id int64 [n]
    shards/<name>.codes.safetensors     code uint8 [n, W], if there is a quantiser
    shards/<name>.items.sqlite          items(id, path, label, more): what the rows are
    <generation>.quantizer.safetensors  the quantiser of the codes
    model/                              the network that made the embeddings

No file is ever changed. A writer puts new ones beside the old, then renames one new manifest over the old one, and only then
deletes what that no longer names. Killed before the rename it leaves the old state, after it the new one, and files that
nobody reads, which the next writer deletes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zsml.errors import InputError
from zsml.files import write_atomic

MANIFEST, SHARDS, MODEL, LOCK = "manifest.json", "shards", "model", ".lock"
FORMAT, VERSION = "zsml-index", 1
DTYPES = ("float16", "float32")
LONGEST = 1 << 26  # bytes of a manifest: a hundred thousand shards
NAME = re.compile(r"(?:shards/)?[0-9]{8}[0-9a-z.-]*")  # of files a manifest may name: none outside the folder
OURS = re.compile(  # of files that we write, finished or not: what may be deleted
    r"\.*[0-9]{8}(-[0-9]+)?\.((rows|codes|quantizer)\.safetensors|items\.sqlite)(\.tmp.*)?|\.manifest\.json\..*"
)
SHARD_FILES = ("rows", "items", "codes")


@dataclass(frozen=True)
class Entry:
    """A file of the index, by its name in the folder."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry:
    """Rows that are stored together, in ascending order of their ids."""

    count: int
    rows: Entry
    items: Entry
    codes: Entry | None = None

    @property
    def files(self) -> list[Entry]:
        return [entry for name in SHARD_FILES if (entry := getattr(self, name)) is not None]


@dataclass(frozen=True)
class Manifest:
    """One state of an index.

    bits: length of the codes, 0 without a quantiser. next_id: the id that the next item added will get. model: what made the
    embeddings, as `Index.create` says.
    """

    generation: int
    width: int
    dtype: str
    bits: int
    next_id: int
    model: dict[str, Any] | None
    quantizer: Entry | None
    shards: tuple[ShardEntry, ...]

    @property
    def files(self) -> list[Entry]:
        own = [] if self.quantizer is None else [self.quantizer]
        return own + [entry for shard in self.shards for entry in shard.files]

    def to_bytes(self) -> bytes:
        return (json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """What `folder/manifest.json` says.

    Raises:
        InputError: there is no index, it is of another version, or the manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{str(folder)!r} holds no index: there is no {MANIFEST}; `zsml index` makes one") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if len(data) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST} bytes")
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"it does not say format {FORMAT!r}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not the manifest of an index: {error}") from error
    if found.get("version") != VERSION:
        raise InputError(
            f"{path} is of version {found.get('version')!r}, this zsml reads version {VERSION}; use the zsml that wrote it, or "
            "build the index anew"
        )
    try:
        return _manifest(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error!r}") from error


def _manifest(found: dict[str, Any]) -> Manifest:
    numbers = {name: _number(found[name], name) for name in ("generation", "width", "bits", "next_id")}
    if found["dtype"] not in DTYPES or numbers["width"] < 1:
        raise ValueError(f"dtype {found['dtype']!r}, width {numbers['width']}")
    model, quantizer = found["model"], _entry(found["quantizer"])
    if model is not None and not isinstance(model, dict):
        raise ValueError(f"model is a {type(model).__name__}")
    shards = []
    for shard in found["shards"]:
        count = _number(shard["count"], "count")
        shards.append(ShardEntry(count, *(_entry(shard[name]) for name in SHARD_FILES)))
        if count < 1 or shards[-1].rows is None or shards[-1].items is None:
            raise ValueError(f"shard {len(shards)} is incomplete")
    if (quantizer is None) != (numbers["bits"] == 0) or any((s.codes is None) != (quantizer is None) for s in shards):
        raise ValueError("it has codes and no quantiser, or a quantiser and no codes")
    return Manifest(dtype=found["dtype"], model=model, quantizer=quantizer, shards=tuple(shards), **numbers)


def _entry(found: Any) -> Entry | None:
    if found is None:
        return None
    if not isinstance(found["file"], str) or not NAME.fullmatch(found["file"]):
        raise ValueError(f"{found['file']!r} is not the name of a file of an index")
    return Entry(found["file"], _number(found["bytes"], "bytes"), str(found["sha256"]))


def _number(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ValueError(f"{name} is {value!r}")
    return value


def check_present(folder: Path, entry: Entry) -> None:
    """Raise InputError unless the file is there in its length."""
    path = folder / entry.file
    try:
        length = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{str(folder)!r} is damaged: {entry.file} is missing; restore it, or build the index anew") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if length != entry.bytes:
        raise InputError(
            f"{str(folder)!r} is damaged: {entry.file} has {length} bytes, not {entry.bytes}; restore it, or build the index anew"
        )


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_file(folder: Path, name: str, write: Callable[[Path], None]) -> Entry:
    """Let `write` make the file of that name, whole or not at all, and say what it is."""
    path = folder / name
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        entry = Entry(name, temporary.stat().st_size, sha256_of(temporary))
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return entry


def commit(folder: Path, manifest: Manifest) -> None:
    """Make `manifest`, whose files are all written, the state of the index, and delete what it does not name."""
    for place in (folder, folder / SHARDS):  # their names, too, are on the disk before the manifest is
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    write_atomic(folder / MANIFEST, manifest.to_bytes())
    sweep(folder, manifest)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Delete the files of earlier states and of writers that did not finish. Only while writing is locked."""
    named = {entry.file for entry in manifest.files}
    for place, prefix in ((folder, ""), (folder / SHARDS, f"{SHARDS}/")):
        for entry in list(os.scandir(place)):
            if OURS.fullmatch(entry.name) and f"{prefix}{entry.name}" not in named and entry.is_file(follow_symlinks=False):
                with suppress(OSError):  # a file too many harms nobody
                    Path(entry.path).unlink()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """One writer at a time, whatever its process.

    Raises:
        InputError: another one is writing, or the folder cannot be written.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"index {str(folder)!r} cannot be written: {error.strerror}; it stays as it was") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f"index {str(folder)!r} is being written by another process; try again when it is done") from None
    except OSError as error:
        raise InputError(f"index {str(folder)!r} cannot be written: {error.strerror or error}; it stays as it was") from error
    finally:
        os.close(handle)
