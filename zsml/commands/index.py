"""`zsml index`, and what else can be done to an index: `zsml index delete | codes | export | verify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsml.commands._common import Json
from zsml.errors import InputError

Folder = Annotated[Positional[Path], arg(metavar="DIR")]


@dataclass
class Index:
    """Embed images into an index that can be searched, or add images to it; see also zsml index delete, codes, export, verify.

    Images that the index has already are left alone, so the same line goes on after an interruption.

    Example: zsml index runs/x photos/ --out photos.index --bits 64
    """

    folder: Annotated[Positional[Path], arg(metavar="RUN_OR_MODEL")]
    """Folder that `zsml train --out` or `zsml import` wrote; its model is copied into the index."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGES")]
    """Folders of images (the folder an image is in is its class), images, or text files that name an image per line."""
    out: Path
    """Folder of the index, made if missing."""
    bits: int | None = None
    """Also make binary codes of this length (ITQ fitted on the index)."""
    modality: Literal["photo", "sketch"] = "photo"
    """What kind the images are."""
    dtype: Literal["float16", "float32"] = "float16"
    """What a new index stores embeddings in."""
    weights: Literal["auto", "best", "last"] = "auto"
    """Which model of a run: the one its --selection chose, or the last; auto: the chosen one if there is any."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "off"
    """Mixed precision."""
    workers: int | None = None
    """Image-loading processes; default: one per core, on a CPU one per 4 cores, at most 8."""
    batch_size: int = 64
    """Images embedded at once."""
    strict_images: FlagCreatePairsOff[bool] = False
    """Stop at an image that cannot be decoded instead of skipping and counting it."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from dataclasses import replace

        from zsml.engine.config import TrainConfig
        from zsml.engine.device import resolve_amp, resolve_device
        from zsml.engine.indexing import add_images, check_bits, find_images, make_codes, open_or_create

        for name, value, least in (("--batch-size", self.batch_size, 1), ("--workers", self.workers or 0, 0)):
            if value < least:
                raise InputError(f"{name} must be {least} or more, got {value}")
        device = resolve_device(self.device)
        amp = resolve_amp(self.amp, device)
        images = find_images(self.images)
        workers = replace(TrainConfig(), workers=self.workers, device=str(device)).num_workers
        index = open_or_create(self.out, self.folder, dtype=self.dtype, weights=self.weights)
        check_bits(self.bits, index.width)
        options = {"batch_size": self.batch_size, "workers": workers, "amp": amp, "strict": self.strict_images}
        done = add_images(index, images, modality=self.modality, device=device, **options)
        if len(index) == 0:
            raise InputError(f"none of the {len(images)} images can be decoded; the index {str(self.out)!r} is empty")
        if self.bits is not None and self.bits != index.bits:
            make_codes(index, self.bits)
        return {"index": str(self.out), "items": len(index), "width": index.width, "bits": index.bits, **done}

    def text(self, result: dict[str, Any]) -> str:
        skipped = f", {len(result['skipped_images'])} skipped" if result["skipped_images"] else ""
        already = f", {result['already']} were there already" if result["already"] else ""
        rate = f" ({result['added'] / result['seconds']:.0f} images/s)" if result["added"] else ""
        return (
            f"{result['added']} images added{rate}{already}{skipped}\n{_size(result)}\n"
            f"now: zsml search QUERY... --index {result['index']}"
        )


@dataclass
class IndexDelete:
    """Remove images from an index, with their embeddings and codes.

    Example: zsml index delete photos.index photos/cat/001.jpg photos/dog
    """

    folder: Folder
    """Folder of the index."""
    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="PATH")]
    """Images, by their files' names, or folders: all images below them."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        import os

        from zsml.retrieval.index import Index as Opened

        index, ids = Opened.open(self.folder), []
        everything = [item for shard in index.shards for item in shard.items()]
        for path in self.paths:
            named = {str(path), os.path.abspath(path)}  # noqa: PTH100 (as `zsml index` names them)
            below = tuple(f"{name}{os.sep}" for name in named)
            found = [item[0] for item in everything if item[1] in named or item[1].startswith(below)]
            if not found:
                raise InputError(f"the index {str(self.folder)!r} has no image {str(path)!r}; nothing was deleted")
            ids += found
        return {"index": str(self.folder), "deleted": index.delete(ids), "items": len(index)}

    def text(self, result: dict[str, Any]) -> str:
        return f"{result['deleted']} images deleted, {result['items']} left"


@dataclass
class IndexCodes:
    """Make the binary codes of an index anew, fitted on what it holds now, or drop them.

    Example: zsml index codes photos.index --bits 64
    """

    folder: Folder
    """Folder of the index."""
    bits: int
    """Length of the codes; 0 drops them."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.indexing import check_bits, make_codes
        from zsml.retrieval.index import Index as Opened

        index = Opened.open(self.folder)
        if self.bits == 0:
            index.rebuild_codes(None)
        else:
            check_bits(self.bits, index.width)
            make_codes(index, self.bits)
        return {"index": str(self.folder), "items": len(index), "width": index.width, "bits": index.bits}

    def text(self, result: dict[str, Any]) -> str:
        return _size(result)


@dataclass
class IndexVerify:
    """Read all of an index and say what is wrong with it; exit status 1 if anything is.

    Example: zsml index verify photos.index
    """

    folder: Folder
    """Folder of the index."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.retrieval.index_verify import problems

        return {"index": str(self.folder), "problems": problems(self.folder)}

    def status(self, result: dict[str, Any]) -> int:
        return 1 if result["problems"] else 0

    def text(self, result: dict[str, Any]) -> str:
        return "\n".join(result["problems"]) or "the index is as it was written"


def _size(result: dict[str, Any]) -> str:
    codes = f", codes of {result['bits']} bits" if result["bits"] else ""
    return f"{result['index']}: {result['items']} images, embeddings of width {result['width']}{codes}"


@dataclass
class IndexExport:
    """Write an index in the form that another engine searches.

    Example: zsml index export photos.index --to faiss --out photos.faiss
    """

    folder: Folder
    """Folder of the index."""
    to: Literal["faiss", "lancedb"]
    """faiss: index.faiss and the table items.csv; lancedb: a database with the table items."""
    out: Path
    """Folder to write; it must not be there yet."""
    kind: Literal["flat", "binary", "ivf"] | None = None
    """Which Faiss index: flat (default) compares all embeddings, binary all codes, ivf embeddings of some cells."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.retrieval.index import Index as Opened
        from zsml.retrieval.index_export import export_faiss, export_lancedb

        if self.to == "lancedb" and self.kind is not None:
            raise InputError("--kind is of Faiss; the table that LanceDB gets has embeddings and codes; leave it out")
        index = Opened.open(self.folder)
        return export_lancedb(index, self.out) if self.to == "lancedb" else export_faiss(index, self.out, self.kind or "flat")

    def text(self, result: dict[str, Any]) -> str:
        return f"{result['out']}: {result['items']} items for {result['to']} ({result['kind']})"
