"""One shard of an index: its embeddings and codes, mapped from the disk, and the table of its items."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zsml.errors import DamagedIndex, InputError
from zsml.retrieval.index_files import SHARDS, Entry, Manifest, ShardEntry, check_present, write_file

ROWS = 1 << 18  # of a shard at most; what deleting one item writes anew
ASKED = 500  # ids looked up in one statement
Item = tuple[int, str, str, str]  # id, path, label, whatever else is known as JSON


class Shard:
    """A shard opened for reading.

    Attributes:
        embedding: [n, D], mapped; id: int64 [n], mapped, ascending; code: uint8 [n, W], mapped, or None.
    """

    def __init__(self, folder: Path, manifest: Manifest, entry: ShardEntry):
        self.folder, self.entry = folder, entry
        for file in entry.files:
            check_present(folder, file)
        n, dtype = entry.count, getattr(torch, manifest.dtype)
        rows = _tensors(folder, entry.rows, {"embedding": (dtype, [n, manifest.width]), "id": (torch.int64, [n])})
        self.embedding, self.id = rows["embedding"], rows["id"]
        codes = None
        if entry.codes is not None:
            codes = _tensors(folder, entry.codes, {"code": (torch.uint8, [n, (manifest.bits + 7) // 8])})
        self.code: Tensor | None = None if codes is None else codes["code"]
        self.first, self.last = int(self.id[0]), int(self.id[-1])
        self._squares: Tensor | None = None
        self._lock = threading.Lock()
        # Opened at once: the file may lose its name to a later state of the index while this one is still read.
        path = quote(str((folder / entry.items.file).resolve()))
        try:
            self._table = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False)
            self._table.execute("PRAGMA trusted_schema = OFF")
        except sqlite3.Error as error:
            raise InputError(f"{str(folder)!r} is damaged: {entry.items.file} cannot be opened ({error})") from error

    def __len__(self) -> int:
        return self.entry.count

    @property
    def squares(self) -> Tensor:
        """||g||^2 of every row, float32 [n]; worked out once.

        Raises:
            DamagedIndex: NaN or infinite embeddings, which only damage makes.
        """
        if self._squares is None:
            squares = torch.cat([block.double().square().sum(dim=1) for block in self.embedding.split(1 << 13)])
            if not squares.isfinite().all():
                raise self.damaged()
            self._squares = squares.float()
        return self._squares

    def damaged(self) -> DamagedIndex:
        """What to raise where embeddings are NaN or infinite."""
        return DamagedIndex(
            f"{str(self.folder)!r} is damaged: {self.entry.rows.file} has NaN or infinite embeddings; `zsml index verify` lists "
            "what is wrong; restore it, or build the index anew"
        )

    def rows_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Which of `ids` int64 [M] are here: positions in ids, and rows, both int64 [m]."""
        place = torch.searchsorted(self.id, ids).clamp(max=len(self) - 1)
        here = (self.id[place] == ids).nonzero().flatten()
        return here, place[here]

    def items(self, ids: Sequence[int] | None = None) -> list[Item]:
        """The table's rows in ascending order of ids, all or those of `ids`."""
        select = "SELECT id, path, label, more FROM items"
        try:
            with self._lock:
                if ids is None:
                    return self._table.execute(f"{select} ORDER BY id").fetchall()
                found: list[Item] = []
                for start in range(0, len(ids), ASKED):
                    part = list(ids[start : start + ASKED])
                    found += self._table.execute(f"{select} WHERE id IN ({', '.join('?' * len(part))})", part)
                return sorted(found)
        except sqlite3.Error as error:
            raise InputError(f"{str(self.folder)!r} is damaged: {self.entry.items.file} ({error})") from error


def _tensors(folder: Path, entry: Entry, expected: dict[str, tuple[torch.dtype, list[int]]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which stay on the disk until they are used."""
    try:
        with safe_open(folder / entry.file, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(folder)!r} is damaged: {entry.file} ({error})") from error
    held = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in found.items()}
    if held != expected:
        raise InputError(f"{str(folder)!r} is damaged: {entry.file} holds {held}, not {expected}")
    return found


def write_shard(
    folder: Path, name: str, ids: Tensor, embedding: Tensor, codes: Tensor | None, items: Iterable[Item]
) -> ShardEntry:
    """Write n rows, of ascending ids, as the shard of that name."""
    stem = f"{SHARDS}/{name}"
    rows = {"embedding": embedding.contiguous(), "id": ids.contiguous()}
    return ShardEntry(
        len(ids),
        write_file(folder, f"{stem}.rows.safetensors", lambda path: _write_tensors(path, rows)),
        write_file(folder, f"{stem}.items.sqlite", lambda path: _write_items(path, items)),
        None if codes is None else write_codes(folder, name, codes),
    )


def write_codes(folder: Path, name: str, codes: Tensor) -> Entry:
    """Write codes uint8 [n, W] of the shard of that name."""
    tensors = {"code": codes.contiguous()}
    return write_file(folder, f"{SHARDS}/{name}.codes.safetensors", lambda path: _write_tensors(path, tensors))


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


def _write_items(path: Path, items: Iterable[Item]) -> None:
    table = sqlite3.connect(path)
    try:
        table.execute("PRAGMA journal_mode = OFF")  # the file counts only once it is whole
        table.execute("PRAGMA synchronous = OFF")
        table.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, path TEXT NOT NULL, label TEXT NOT NULL, more TEXT NOT NULL)")
        table.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", items)
        table.commit()
    except sqlite3.Error as error:
        raise OSError(f"{path.name}: {error}") from error
    finally:
        table.close()


def check_items(items: Any, count: int, first: int) -> list[Item]:
    """The dicts of a caller as rows of the table, from id `first` on.

    Raises:
        TypeError, InputError: not one dict with a text `path` per embedding, or values that JSON cannot hold.
    """
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise TypeError(f"items must be a list of dicts with a path and a label, got {type(items).__name__}")
    if len(items) != count:
        raise InputError(f"items has {len(items)} entries but embeddings has {count} rows; one dict per row")
    rows = []
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("path"), str) or not isinstance(item.get("label", ""), str):
            raise TypeError(f"items[{number}] must be a dict with texts path and label, got {item!r}")
        more = {name: value for name, value in item.items() if name not in ("path", "label")}
        if {"id", "distance"} & more.keys():
            raise InputError(f"items[{number}] names id or distance, which the index gives itself")
        try:
            text = json.dumps(more) if more else ""
            (item["path"] + item.get("label", "")).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"items[{number}] cannot be stored: {error}") from error
        rows.append((first + number, item["path"], item.get("label", ""), text))
    return rows


def as_dict(item: Item) -> dict[str, Any]:
    """A row of the table as callers see it.

    >>> as_dict((3, "a.jpg", "cat", '{"size": 7}'))
    {'id': 3, 'path': 'a.jpg', 'label': 'cat', 'size': 7}
    """
    number, path, label, more = item
    return {"id": number, "path": path, "label": label, **(json.loads(more) if more else {})}


def check_ids(ids: Any) -> Tensor:
    """Ids as int64 [n], of a tensor, a list or any iterable of whole numbers."""
    if not isinstance(ids, Tensor):
        ids = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, (str, bytes)) else [ids]
        if any(isinstance(number, bool) or not hasattr(number, "__index__") for number in ids):
            raise TypeError(f"ids must be whole numbers, got {ids[:3]!r}")
        return torch.tensor([int(number) for number in ids], dtype=torch.int64)
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool or ids.dim() != 1:
        raise TypeError(f"ids must be integers [n], got {ids.dtype} of shape {list(ids.shape)}")
    return ids.to("cpu", torch.int64).contiguous()
