"""What changes an index: each function writes the files of the next state, and returns its manifest for `commit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.retrieval.checks import check_embeddings
from zsml.retrieval.index_files import (
    DTYPES,
    LOCK,
    MANIFEST,
    MODEL,
    OURS,
    SHARDS,
    Entry,
    Manifest,
    ShardEntry,
    check_present,
    commit,
    read_manifest,
    write_file,
    writing,
)  # fmt: skip
from zsml.retrieval.index_shard import ROWS, Item, Shard, write_codes, write_shard
from zsml.retrieval.quantize import ITQ

TRIES = 5  # at opening an index that others change at the same time


def read(folder: Path) -> tuple[Manifest, list[Shard], ITQ | None]:
    """The index's state, its shards mapped."""
    for _ in range(TRIES):
        manifest = read_manifest(folder)
        try:
            return manifest, _open_shards(folder, manifest), _read_quantizer(folder, manifest)
        except InputError:
            if read_manifest(folder) == manifest:
                raise  # otherwise a writer has put a new state in its place meanwhile
    raise InputError(f"index {str(folder)!r} is changed too often to be opened; try again")


def _open_shards(folder: Path, manifest: Manifest) -> list[Shard]:
    shards = [Shard(folder, manifest, entry) for entry in manifest.shards]
    ends = [-1, *(number for shard in shards for number in (shard.first, shard.last)), manifest.next_id]
    if any(ends[n] >= ends[n + 1] for n in range(0, len(ends), 2)):
        raise InputError(f"{str(folder)!r} is damaged: the ids of its shards do not ascend; build the index anew")
    return shards


def _read_quantizer(folder: Path, manifest: Manifest) -> ITQ | None:
    if manifest.quantizer is None:
        return None
    check_present(folder, manifest.quantizer)
    quantizer = ITQ.load(folder / manifest.quantizer.file)
    if quantizer.bits != manifest.bits or len(quantizer.mean) != manifest.width:
        raise InputError(f"{str(folder)!r} is damaged: {manifest.quantizer.file} is not the quantiser of this index")
    return quantizer


def create(folder: Path, width: int, dtype: str, model: dict[str, Any] | None, quantizer: ITQ | None) -> None:
    """Make the folder an empty index."""
    if isinstance(width, bool) or not isinstance(width, int):
        raise TypeError(f"width must be an int, got {type(width).__name__}")
    if width < 1:
        raise InputError(f"width must be 1 or more, got {width}")
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    check_quantizer(quantizer, width)
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"index {str(folder)!r} cannot be made: {error.strerror}") from error
    with writing(folder):
        if (folder / MANIFEST).exists():
            raise InputError(f"{str(folder)!r} holds an index already; open it with Index.open, or choose another folder")
        known = {SHARDS, MODEL, LOCK}  # also what a call that was killed has left
        strange = sorted(path.name for path in folder.iterdir() if path.name not in known and not _left_over(path.name))
        if strange:
            raise InputError(f"{str(folder)!r} holds other files ({', '.join(strange[:3])}); choose an empty folder")
        if model is not None:
            from zsml.retrieval.encoder import take_in

            model = take_in(model, folder / MODEL, width)
        bits, entry = _write_quantizer(folder, 0, quantizer)
        commit(folder, Manifest(0, width, dtype, bits, 0, model, entry, ()))


def _left_over(name: str) -> bool:
    return name.startswith(".") or OURS.fullmatch(name) is not None


def storable(embeddings: Tensor, manifest: Manifest) -> Tensor:
    """The embeddings as they are stored, [n, D] in the index's dtype."""
    embeddings = check_embeddings("embeddings", embeddings)
    if embeddings.shape[1] != manifest.width:
        raise InputError(f"embeddings must have the {manifest.width} columns of this index, got {embeddings.shape[1]}")
    stored = embeddings.to("cpu", getattr(torch, manifest.dtype))
    if not stored.isfinite().all():
        raise InputError(
            f"embeddings has values up to {float(embeddings.abs().max()):.3g}, more than {manifest.dtype} holds; normalise them, "
            "or create the index with dtype='float32'"
        )
    return stored


def not_there(
    shards: Sequence[Shard], stored: Tensor, items: Sequence[dict[str, Any]]
) -> tuple[Tensor, Sequence[dict[str, Any]]]:
    """The rows and items whose path no shard has."""
    there = {item[1] for shard in shards for item in shard.items()}
    new = [n for n, item in enumerate(items) if item["path"] not in there]
    return stored[new], [items[n] for n in new]


def added(
    folder: Path, manifest: Manifest, shards: Sequence[Shard], quantizer: ITQ | None, stored: Tensor, items: list[Item]
) -> Manifest:
    """With rows appended: the last shards that are no larger than what comes are written anew together with it, so that of
    many small additions few shards remain, and no row is written more than log N times."""
    shards = list(shards)
    codes = None if quantizer is None else encode(quantizer, stored)
    ids = manifest.next_id + torch.arange(len(stored))
    while shards and len(shards[-1]) <= len(ids) <= ROWS - len(shards[-1]):
        last = shards.pop()
        ids, stored, items = torch.cat([last.id, ids]), torch.cat([last.embedding, stored]), last.items() + items
        codes = None if codes is None else torch.cat([last.code, codes])
    entries = [shard.entry for shard in shards]
    for number, start in enumerate(range(0, len(ids), ROWS)):
        part = slice(start, start + ROWS)
        some = None if codes is None else codes[part]
        entries.append(write_shard(folder, _name(manifest, number), ids[part], stored[part], some, items[part]))
    return replace(manifest, generation=manifest.generation + 1, next_id=int(ids[-1]) + 1, shards=tuple(entries))


def without(folder: Path, manifest: Manifest, shards: Sequence[Shard], ids: Tensor) -> Manifest:
    """With the items `ids` removed: the shards that have any of them are written anew."""
    entries: list[ShardEntry] = []
    for number, shard in enumerate(shards):
        _, rows = shard.rows_of(ids)
        kept = torch.ones(len(shard), dtype=torch.bool)
        kept[rows] = False
        if len(rows) == 0:
            entries.append(shard.entry)
        elif kept.any():
            gone = set(shard.id[rows].tolist())
            items = [item for item in shard.items() if item[0] not in gone]
            codes = None if shard.code is None else shard.code[kept]
            entries.append(write_shard(folder, _name(manifest, number), shard.id[kept], shard.embedding[kept], codes, items))
    return replace(manifest, generation=manifest.generation + 1, shards=tuple(entries))


def recoded(folder: Path, manifest: Manifest, shards: Sequence[Shard], quantizer: ITQ | None) -> Manifest:
    """With the codes of another quantiser, or of none."""
    entries = []
    for number, shard in enumerate(shards):
        codes = None
        if quantizer is not None:
            codes = write_codes(folder, _name(manifest, number), encode(quantizer, shard.embedding))
        entries.append(replace(shard.entry, codes=codes))
    generation = manifest.generation + 1
    bits, entry = _write_quantizer(folder, generation, quantizer)
    return replace(manifest, generation=generation, bits=bits, quantizer=entry, shards=tuple(entries))


def encode(quantizer: ITQ, stored: Tensor) -> Tensor:
    """Codes uint8 [n, W] of embeddings as they are stored."""
    return quantizer.transform(stored)


def check_quantizer(quantizer: Any, width: int) -> None:
    """Raise unless it is None or an ITQ fitted on embeddings of that width."""
    if quantizer is None:
        return
    if not isinstance(quantizer, ITQ):
        raise TypeError(f"quantizer must be a zsml.quantize.ITQ or None, got {type(quantizer).__name__}")
    if quantizer.mean is None:
        raise InputError("quantizer must be a fitted ITQ: call fit(X) first, or ITQ.load(path)")
    if len(quantizer.mean) != width:
        raise InputError(f"quantizer was fitted on embeddings of width {len(quantizer.mean)}, this index has width {width}")


def _write_quantizer(folder: Path, generation: int, quantizer: ITQ | None) -> tuple[int, Entry | None]:
    if quantizer is None:
        return 0, None
    return quantizer.bits, write_file(folder, f"{generation:08d}.quantizer.safetensors", quantizer.save)


def _name(manifest: Manifest, number: int) -> str:
    """Of shard `number` of the next state."""
    return f"{manifest.generation + 1:08d}-{number}"
