"""From image files to an index: what is there already is left alone, and what is done survives an interruption."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zsml.data.decode import EXTENSIONS, FileDataset
from zsml.engine.embed import BEST, open_run
from zsml.engine.loader import Batches
from zsml.engine.log import printable, progress, say
from zsml.errors import InputError
from zsml.models import load_model
from zsml.models.io import WEIGHTS
from zsml.quantize import ITQ
from zsml.retrieval.encoder import Encoder, describe
from zsml.retrieval.index import Index
from zsml.retrieval.index_files import MANIFEST
from zsml.retrieval.protocol import make_protocol
from zsml.systems import find_system

SAVED = 2048  # images after which the index is written: what an interruption costs at most
FITTED = 50_000  # embeddings that a quantiser is fitted on, evenly spread over the index


def find_images(sources: Sequence[Path]) -> dict[str, str]:
    """Image files by their absolute paths, in order, and the label of each.

    A folder gives all images below it, the label of each being the name of the folder it is in ("" directly in the folder
    given). A text file (.txt) names one image per line, relative to its own folder, then perhaps a tab and the label.

    Raises:
        InputError: no such file or folder, another kind of file, or no image in any.
    """
    found: dict[str, str] = {}
    for source in map(Path, sources):
        top = Path(os.path.abspath(source))  # noqa: PTH100 (links are kept as they are named)
        if top.is_dir():
            for folder, below, files in os.walk(top):
                below[:] = sorted(name for name in below if not name.startswith("."))
                label = "" if Path(folder) == top else Path(folder).name
                images = (name for name in sorted(files) if not name.startswith("."))
                found |= {str(Path(folder, name)): label for name in images if Path(name).suffix.lower() in EXTENSIONS}
        elif not top.is_file():
            raise InputError(f"images {str(source)!r}: there is no such file or folder")
        elif top.suffix.lower() == ".txt":
            found |= _listed(top)
        elif top.suffix.lower() in EXTENSIONS:
            found[str(top)] = ""
        else:
            raise InputError(
                f"images {str(source)!r} is neither a folder, nor an image ({_kinds()}), nor a list of images (.txt)"
            )
    if not found:
        raise InputError(f"there is no image ({_kinds()}) in {', '.join(map(str, sources)) or 'nothing'}")
    return found


def _listed(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"images {str(path)!r} cannot be read as a list: {error}") from error
    rows = (line.partition("\t") for line in lines if line.strip())
    return {os.path.abspath(path.parent / name.strip()): label.strip() for name, _, label in rows}  # noqa: PTH100


def _kinds() -> str:
    return ", ".join(sorted(EXTENSIONS))


def describe_source(folder: Path, weights: str = "auto") -> tuple[dict[str, Any], int]:
    """The model of a run's or a model's folder in the form `Index.create` takes, and the width of its embeddings.

    Raises:
        InputError: there is no model, or it does not say how its images are prepared.
    """
    if (folder / WEIGHTS).is_file() and not (folder / "state.json").is_file():
        model, place, config = load_model(folder), folder, None
    else:
        run = open_run(folder, torch.device("cpu"), weights)
        model, place, config = run.model, run.checkpoint or folder / BEST, run.config
    card = model.card or ({"system": config.system, "protocol": find_system(config.system).protocol} if config else {})
    l2 = True
    if "protocol" in card:
        protocol = make_protocol(card["protocol"])
        distance = None if config is None else find_system(config.system).distance_for(config)
        l2 = protocol.normalize or (distance or protocol.distance) == "cosine"  # the order by angles is that of unit vectors
    return describe(place, preprocessing=model.preprocessing, l2=l2), model.embedding_dim


def open_or_create(out: Path, source: Path, *, dtype: str = "float16", weights: str = "auto") -> Index:
    """The index in `out`, of this very model; an empty one if there is none.

    Raises:
        InputError: the index there was built by another model, or the model cannot be used.
    """
    model, width = describe_source(source, weights)
    if not (out / MANIFEST).is_file():
        return Index.create(out, width=width, dtype=dtype, model=model)
    index = Index.open(out)
    if index.model is None or index.model.get("sha256") != model["sha256"]:
        raise InputError(
            f"--out {str(out)!r} holds an index built by another model than {str(source)!r}, whose embeddings cannot be compared "
            "with those of this one; choose another folder"
        )
    return index


def add_images(
    index: Index,
    images: dict[str, str],
    *,
    modality: str,
    device: torch.device,
    batch_size: int = 64,
    workers: int = 0,
    amp: torch.dtype | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Embed the images that the index does not have yet, and add them; corrupt ones are skipped and named,
    and so are those whose name is not UTF-8.

    Args:
        images: path -> label.
        modality: "photo" or "sketch", of all of them.

    Returns:
        added, already (there before), skipped_images, seconds.

    Raises:
        InputError: an image cannot be opened, or with strict=True decoded or named in UTF-8; what was done until then is kept.
    """
    there = {item[1] for shard in index.shards for item in shard.items()}
    unnamed = [path for path in images if not _storable(path)]
    if unnamed and strict:
        raise InputError(f"image '{printable(unnamed[0])}' cannot be indexed: its name is not UTF-8; rename it")
    paths = [path for path in images if path not in there and _storable(path)]
    encoder, added, start = index.encoder(device), 0, time.perf_counter()
    pending: list[tuple[torch.Tensor, list[int]]] = []

    def write() -> None:
        nonlocal added
        if pending:
            items = [{"path": paths[n], "label": images[paths[n]], "modality": modality} for _, rows in pending for n in rows]
            added += len(index.add(torch.cat([embedding for embedding, _ in pending]), items, once=True))
            pending.clear()

    seen: set[int] = set()
    try:
        with progress(total=len(paths), desc="index", unit="image") as bar:
            for first, rows, embedding in _embeddings(encoder, paths, modality, batch_size, workers, amp, strict):
                bar.update(min(batch_size, len(paths) - first))
                seen.update(rows)
                if rows:
                    pending.append((embedding, rows))
                if sum(len(rows) for _, rows in pending) >= SAVED:
                    write()
    finally:
        write()
    skipped = [paths[n] for n in range(len(paths)) if n not in seen]
    for path in skipped:
        say(f"skipped corrupt image {printable(path)}")
    for path in map(printable, unnamed):
        say(f"skipped image {path}: its name is not UTF-8; rename it")
        skipped.append(path)
    seconds = time.perf_counter() - start
    already = len(images) - len(skipped) - added  # also what another process has added meanwhile
    return {"added": added, "already": already, "skipped_images": skipped, "seconds": seconds}


def _storable(path: str) -> bool:
    """Whether the path is text; the bytes of a name that is not UTF-8 come as lone surrogates, which no table takes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _embeddings(encoder: Encoder, paths: list[str], modality: str, batch_size: int, workers: int, amp: Any, strict: bool):
    """(place of the batch, places of its images that could be decoded, their embeddings float32 [B, D]), batch by batch."""
    if not paths:
        return
    transform = encoder.preprocessing.transform_for(modality)
    number = ("sketch", "photo").index(modality)
    dataset = FileDataset("images", "test", number, [0] * len(paths), ["image"], paths, transform=transform, strict=strict)
    batches = Batches(dataset, sampler=range(len(paths)), batch_size=batch_size, workers=workers, device=encoder.device)
    for n, (images, _, kinds, kept) in enumerate(batches):
        first = n * batch_size
        if len(kept) == 0:
            yield first, [], None
            continue
        with torch.autocast(encoder.device.type, dtype=amp, enabled=amp is not None):
            yield first, (first + kept).tolist(), encoder.embed(images, kinds)


def make_codes(index: Index, bits: int) -> None:
    """Fit ITQ on the index's own embeddings, and give every item its code.

    Raises:
        InputError: more bits than the embeddings have columns, fewer than 2 items, or all of them alike.
    """
    if len(index) < 2:
        raise InputError(f"--bits {bits} needs at least 2 images to fit codes on, the index has {len(index)}")
    ids = index.ids
    chosen = torch.linspace(0, len(ids) - 1, min(len(ids), FITTED), dtype=torch.float64).round().long()
    index.rebuild_codes(ITQ(bits).fit(index.embeddings(ids[chosen])))


def check_bits(bits: int | None, width: int) -> None:
    """Raise InputError unless embeddings of that width give codes of that length."""
    if bits is not None and not 1 <= bits <= width:
        raise InputError(f"--bits must be 1 to {width}, the width of this model's embeddings; got {bits}")
