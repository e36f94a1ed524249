"""An index for other search engines: a Faiss index with the table of its items, or a LanceDB table."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zsml.errors import InputError
from zsml.retrieval.index_files import sha256_of
from zsml.retrieval.index_shard import as_dict

if TYPE_CHECKING:
    from zsml.retrieval.index import Index

KINDS = ("flat", "binary", "ivf")
TABLE = "items"  # of the LanceDB database
ROWS = 1 << 14  # handed over together
POINTS = 64  # per cell, that the cells of an IVF index are fitted on


def export_faiss(index: Index, out: Path, kind: str = "flat") -> dict[str, Any]:
    """Write `out/index.faiss`, whose ids are the index's, and `out/items.csv` (id, path, label).

    kind: "flat" IndexFlatL2 over the embeddings (squared Euclidean distance, all of them compared); "binary" IndexBinaryFlat
    over the codes; "ivf" IndexIVFFlat, with about 4 sqrt(N) cells, for searches that look at `nprobe` of them only. Faiss
    holds float32 and all of it in memory, here too.

    Raises:
        InputError: Faiss is not installed, the index is empty or has no codes, or `out` is there already or cannot be written.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    try:
        import faiss
    except ImportError as error:
        raise InputError("exporting to Faiss needs it: pip install 'zsml[faiss]'") from error
    _check(index, codes=kind == "binary")
    made = _faiss_index(faiss, index, kind)
    for shard in index.shards:
        for start in range(0, len(shard), ROWS):
            part = slice(start, start + ROWS)
            rows = shard.code[part] if kind == "binary" else shard.embedding[part].float()
            made.add_with_ids(rows.contiguous().numpy(), shard.id[part].numpy())
    with _new_folder(out) as folder:
        write = faiss.write_index_binary if kind == "binary" else faiss.write_index
        write(made, str(folder / "index.faiss"))
        _write_table(index, folder / "items.csv")
    return {"out": str(out), "to": "faiss", "kind": kind, "items": len(index), "sha256": sha256_of(out / "index.faiss")}


def _faiss_index(faiss: Any, index: Index, kind: str) -> Any:
    if kind == "binary":
        return faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(8 * ((index.bits + 7) // 8)))
    if kind == "flat":
        return faiss.IndexIDMap2(faiss.IndexFlatL2(index.width))
    cells = max(1, min(int(4 * len(index) ** 0.5), len(index) // 39))  # Faiss wants 39 points per cell
    ids = index.ids
    chosen = torch.linspace(0, len(ids) - 1, min(len(ids), POINTS * cells), dtype=torch.float64).round().long()
    made = faiss.IndexIVFFlat(faiss.IndexFlatL2(index.width), index.width, cells)
    made.train(index.embeddings(ids[chosen]).numpy())
    return made


def export_lancedb(index: Index, out: Path) -> dict[str, Any]:
    """Write a LanceDB database whose table `items` has id, path, label, vector (float32 or float16 [D]) and code (uint8 [W]).

    Search `vector` by "l2", `code` by "hamming". Nothing is indexed there: searches compare all, until you ask LanceDB for more.

    Raises:
        InputError: LanceDB is not installed, the index is empty, or `out` is there already or cannot be written.
    """
    try:
        import lancedb
        import pyarrow as pa
    except ImportError as error:
        raise InputError("exporting to LanceDB needs it: pip install 'zsml[lancedb]'") from error
    _check(index, codes=False)
    value = pa.float16() if index.manifest.dtype == "float16" else pa.float32()
    fields = [("id", pa.int64()), ("path", pa.string()), ("label", pa.string()), ("vector", pa.list_(value, index.width))]
    if index.bits:
        fields.append(("code", pa.list_(pa.uint8(), (index.bits + 7) // 8)))
    schema = pa.schema(fields)
    with _new_folder(out) as folder:
        lancedb.connect(folder).create_table(TABLE, data=_batches(pa, index, schema), schema=schema)
    return {"out": str(out), "to": "lancedb", "kind": TABLE, "items": len(index)}


def _batches(pa: Any, index: Index, schema: Any) -> Iterator[Any]:
    """The shards as record batches of Arrow."""
    for shard in index.shards:
        items = shard.items()
        for start in range(0, len(shard), ROWS):
            part = slice(start, start + ROWS)
            columns = {"vector": shard.embedding[part]} | ({} if shard.code is None else {"code": shard.code[part]})
            lists = [
                pa.FixedSizeListArray.from_arrays(pa.array(rows.contiguous().numpy().reshape(-1)), rows.shape[1])
                for rows in columns.values()
            ]
            texts = [pa.array([item[n] for item in items[part]]) for n in (1, 2)]
            yield pa.record_batch([pa.array(shard.id[part].numpy()), *texts, *lists], schema=schema)


class _new_folder:
    """A folder to write into beside `out`, which it becomes once all is written."""

    def __init__(self, out: Path):
        self.out, self.folder = out, out.with_name(f".{out.name}.tmp")

    def __enter__(self) -> Path:
        if self.out.exists():
            raise InputError(f"--out {str(self.out)!r} is there already; choose another folder, or delete it")
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"--out {str(self.out)!r} cannot be written: {error.strerror}") from error
        return self.folder

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if error is None:
            self.folder.rename(self.out)
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, (OSError, RuntimeError)):  # Faiss and LanceDB say so of a full disk
            raise InputError(f"--out {str(self.out)!r} cannot be written: {error}") from error


def _write_table(index: Index, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "path", "label"], extrasaction="ignore")
        writer.writeheader()
        for shard in index.shards:
            writer.writerows(as_dict(item) for item in shard.items())


def _check(index: Index, *, codes: bool) -> None:
    if len(index) == 0:
        raise InputError(f"index {str(index.folder)!r} is empty: there is nothing to export")
    if codes and not index.bits:
        raise InputError(f"index {str(index.folder)!r} has no binary codes; make them with `zsml index codes`")
