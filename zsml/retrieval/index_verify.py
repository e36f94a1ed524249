"""Whether an index is what it was when it was written."""

from __future__ import annotations

from pathlib import Path

import torch

from zsml.errors import InputError
from zsml.models.io import WEIGHTS
from zsml.retrieval.index_changes import encode, read
from zsml.retrieval.index_files import MODEL, Manifest, check_present, read_manifest, sha256_of
from zsml.retrieval.index_shard import Shard
from zsml.retrieval.quantize import ITQ

ROWS = 1 << 14  # looked at together


def problems(folder: Path) -> list[str]:
    """Every problem in a sentence that names the file."""
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        return [str(error)]
    found = _files(folder, manifest)
    if not found:
        try:
            manifest, shards, quantizer = read(folder)
        except InputError as error:
            return [str(error)]
        for shard in shards:
            found += _rows(shard, quantizer)
    return found + _model(folder, manifest)


def _files(folder: Path, manifest: Manifest) -> list[str]:
    found = []
    for entry in manifest.files:
        try:
            check_present(folder, entry)
            if sha256_of(folder / entry.file) != entry.sha256:
                found.append(f"{entry.file} has changed: its SHA-256 is not the one it was written with")
        except (InputError, OSError) as error:
            found.append(str(error))
    return found


def _rows(shard: Shard, quantizer: ITQ | None) -> list[str]:
    found, rows = [], shard.entry.rows.file
    if not (shard.id[1:] > shard.id[:-1]).all():
        found.append(f"{rows}: its ids do not ascend")
    if not all(block.isfinite().all() for block in shard.embedding.split(ROWS)):
        found.append(f"{rows} has NaN or infinite embeddings")
    try:
        listed = torch.tensor([item[0] for item in shard.items()], dtype=torch.int64)
        if not torch.equal(listed, shard.id):
            found.append(f"{shard.entry.items.file} does not list the items of {rows}")
    except InputError as error:
        found.append(str(error))
    if quantizer is not None and shard.code is not None and not found:
        pairs = zip(shard.embedding.split(ROWS), shard.code.split(ROWS), strict=True)
        if not all(torch.equal(encode(quantizer, block), code) for block, code in pairs):
            found.append(f"{shard.entry.codes.file} are not the codes of {rows}; `zsml index codes` makes them anew")
    return found


def _model(folder: Path, manifest: Manifest) -> list[str]:
    if manifest.model is None:
        return []
    path = folder / MODEL / WEIGHTS
    if not path.is_file():
        return [f"{MODEL}/{WEIGHTS} is missing"]
    if sha256_of(path) != manifest.model.get("sha256"):
        return [f"{MODEL}/{WEIGHTS} is not the model that made the embeddings: its SHA-256 is another"]
    return []
