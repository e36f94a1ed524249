"""Retrieval among the unseen classes: every direction, real-valued and binary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from zsml.engine.config import TrainConfig
from zsml.engine.device import resolve_amp
from zsml.engine.embed import Embeddings, embed, load_part
from zsml.engine.log import progress, say
from zsml.errors import InputError
from zsml.metrics import RetrievalResult, evaluate_retrieval
from zsml.quantize import ITQ

QUERIES_PER_CLASS = 10  # of photo->photo and sketch->sketch, where queries are taken out of the gallery


@dataclass
class BinaryOptions:
    """How embeddings become codes.

    fit: the embeddings the rotation is fitted on: the gallery's (as MATHM's code does), the queries' (as DSN's) or those of the
        training photos, the only choice that has seen nothing of the test. center: "own" subtracts from queries and gallery
        their own mean each (as the published codes do), "fit" the mean of the fitted embeddings.
    update: "procrustes", or "released" for the update rule of the published code.
    """

    bits: int
    fit: Literal["gallery", "query", "train"] = "gallery"
    center: Literal["own", "fit"] = "fit"
    update: Literal["procrustes", "released"] = "procrustes"

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise InputError(f"--bits must be 1 or more, got {self.bits}")


@dataclass
class Direction:
    """One retrieval task: which embeddings ask, which are searched."""

    name: str
    query: Embeddings
    query_rows: torch.Tensor  # int64 [Q], rows of query
    gallery: Embeddings
    gallery_rows: torch.Tensor  # int64 [N], rows of gallery


@dataclass
class Evaluation:
    """All results on the unseen classes, by direction, and what they were measured on."""

    results: dict[str, RetrievalResult]
    directions: list[Direction]
    skipped: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "results": {name: result.to_dict() for name, result in self.results.items()},
            "skipped_images": self.skipped,
        }


def evaluate(
    model: nn.Module,
    config: TrainConfig,
    *,
    device: torch.device,
    preset: str,
    binary: BinaryOptions | None = None,
    batch_size: int = 64,
) -> Evaluation:
    """Embed the unseen classes and measure every direction the field reports.

    sketch->photo: every sketch against every photo. photo->photo and sketch->sketch: the first 10 rows of each class
    against the rest. Distances are those of L2-normalised embeddings; with `binary`, also Hamming distances of codes.

    Args:
        preset: definitions of the metrics, by the system whose published code they follow.

    Raises:
        InputError: the data cannot be read, or the codes cannot be made.
        CorruptImage: at a corrupt image if config.strict_images; otherwise such images are skipped and counted.

    Source: the protocols of SAKE (ICCV 2019) and MATHM (arXiv 2112.07966).
    """
    embed_options = {
        "device": device,
        "batch_size": batch_size,
        "workers": config.num_workers,
        "amp": resolve_amp(config.amp, device),
    }
    sketches = embed(model, load_part(config, "test", "sketch"), **embed_options)
    photos = embed(model, load_part(config, "test", "photo"), **embed_options)
    fit_on = None
    if binary is not None and binary.fit == "train":
        fit_on = embed(model, load_part(config, "train", "photo"), **embed_options).embedding
    directions = directions_of(sketches, photos)
    results = {}
    for direction in directions:
        query = direction.query.embedding[direction.query_rows].to(device)  # [Q, D]
        gallery = direction.gallery.embedding[direction.gallery_rows].to(device)  # [N, D]
        results[direction.name] = _measure(direction, query, gallery, preset=preset)
        if binary is not None:
            codes = _codes(query, gallery, fit_on, binary)
            name = f"{direction.name}, {binary.bits} bits"
            results[name] = _measure(direction, *codes, preset=preset, distance="hamming")
    return Evaluation(results, directions, [*sketches.skipped, *photos.skipped])


def unseen_map(model: nn.Module, config: TrainConfig, device: torch.device, preset: str) -> float:
    """mAP over the whole gallery of sketch->photo on the unseen classes: one number, for the log."""
    return evaluate(model, config, device=device, preset=preset).results["sketch->photo"].map


def directions_of(sketches: Embeddings, photos: Embeddings) -> list[Direction]:
    """The three retrieval tasks; one whose gallery would be empty is left out and said so."""
    directions = [
        Direction("sketch->photo", sketches, torch.arange(len(sketches.labels)), photos, torch.arange(len(photos.labels)))
    ]
    for name, part in (("photo->photo", photos), ("sketch->sketch", sketches)):
        first = first_rows(part.labels, QUERIES_PER_CLASS)  # [N]
        if first.all():
            say(f"{name} left out: no class has more than the {QUERIES_PER_CLASS} images that serve as queries")
            continue
        directions.append(Direction(name, part, first.nonzero().flatten(), part, (~first).nonzero().flatten()))
    return directions


def first_rows(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Which rows are among the first `count` of their class: bool [N] for labels int64 [N].

    >>> first_rows(torch.tensor([0, 0, 1, 0, 1]), 1).tolist()
    [True, False, True, False, False]
    """
    order = labels.argsort(stable=True)
    by_class = labels[order]
    place = torch.arange(len(labels)) - torch.searchsorted(by_class, by_class)  # place within the class
    first = torch.empty_like(labels, dtype=torch.bool)
    first[order] = place < count
    return first


def _measure(direction: Direction, query: torch.Tensor, gallery: torch.Tensor, **options: Any) -> RetrievalResult:
    with progress(total=len(query), desc=direction.name, unit="query") as bar:
        return evaluate_retrieval(
            query,
            direction.query.labels[direction.query_rows],
            gallery,
            direction.gallery.labels[direction.gallery_rows],
            progress=lambda done: bar.update(done - bar.n),
            **options,
        )


def _codes(
    query: torch.Tensor, gallery: torch.Tensor, fit_on: torch.Tensor | None, binary: BinaryOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed codes uint8 [Q, W] and [N, W]."""
    basis = fit_on if fit_on is not None else query if binary.fit == "query" else gallery
    quantizer = ITQ(bits=binary.bits, update=binary.update).fit(basis.cpu())
    return tuple(quantizer.transform(x.cpu(), center=binary.center).to(query.device) for x in (query, gallery))
