"""Retrieval among the unseen classes: every direction, by embeddings, binary codes and clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from zsml.engine.binary import BinaryOptions, Coder
from zsml.engine.clusters import CHOSEN_ON_TEST, ClusterOptions
from zsml.engine.config import TrainConfig
from zsml.engine.device import resolve_amp
from zsml.engine.embed import Embeddings, embed, load_part
from zsml.engine.generalised import seen_photos, with_seen
from zsml.engine.log import progress, say
from zsml.metrics import Protocol, RetrievalResult, evaluate_distances, evaluate_retrieval
from zsml.retrieval.mirror import MirrorDistances
from zsml.retrieval.protocol import make_protocol

QUERIES_PER_CLASS = 10  # of photo->photo and sketch->sketch, where queries are taken out of the gallery
MAIN = "sketch->photo"
MIRRORED = 1 << 20  # distances over image and mirror image computed at a time; each is the least of four


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
    """All results on the unseen classes, by direction, and what they were measured on.

    protocol: as which embeddings were made and compared. sweep: results by M and K of the clusters, chosen on test.
    """

    results: dict[str, RetrievalResult]
    directions: list[Direction]
    protocol: Protocol
    skipped: list[str] = field(default_factory=list)
    sweep: dict[str, RetrievalResult] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        found = {"results": {name: result.to_dict() for name, result in self.results.items()}, "skipped_images": self.skipped}
        if self.sweep:
            found["sweep"] = {name: {"note": CHOSEN_ON_TEST, **result.to_dict()} for name, result in self.sweep.items()}
        return found


def evaluate(
    model: nn.Module,
    config: TrainConfig,
    *,
    device: torch.device,
    preset: str,
    distance: str | None = None,
    binary: BinaryOptions | None = None,
    cluster: ClusterOptions | None = None,
    generalised: bool = False,
    centers: torch.Tensor | None = None,
    all_directions: bool = True,
    batch_size: int = 64,
) -> Evaluation:
    """Embed the unseen classes and measure every direction the field reports, or sketch->photo alone.

    sketch->photo: every sketch against every photo. photo->photo and sketch->sketch: the first 10 rows of each class
    against the rest. Embeddings are normalised, or doubled by those of mirror images, as the protocol says.

    Args:
        preset: definitions of the metrics, by the system whose published code they follow.
        distance: of embeddings, "euclidean" or "cosine" (over mirror images: the angle); None: the preset's.
        binary: also by Hamming distance of codes; of mirror images, of the mean of the two embeddings.
        cluster: also, sketch->photo, by one-to-many matching (that mean likewise).
        generalised: also sketch->photo with the photos of the seen classes, training included, in the gallery.
        centers: class centres [C, D] that the objective learned, for codes made from them.

    Raises:
        InputError: the data cannot be read, or codes or clusters cannot be made.
        CorruptImage: at a corrupt image if config.strict_images; otherwise such images are skipped and counted.

    Source: the protocols of SAKE (ICCV 2019), MATHM (arXiv 2112.07966), MEMS (arXiv 1812.04275) and SBKA (arXiv 2312.10320).
    """
    protocol = make_protocol(preset, **({} if distance is None else {"distance": distance}))
    if cluster is not None:
        cluster.check(config.embedding_dim)
    options = {"device": device, "batch_size": batch_size, "workers": config.num_workers, "amp": resolve_amp(config.amp, device)}

    def embedded(dataset: Any) -> Embeddings:
        return embed(model, dataset, **options, normalize=protocol.normalize, mirror=protocol.mirror)

    unseen_photos = load_part(config, "test", "photo")
    seen = seen_photos(config, unseen_photos) if generalised else None  # before the work, if it cannot be done
    sketches, photos = embedded(load_part(config, "test", "sketch")), embedded(unseen_photos)
    directions = directions_of(sketches, photos) if all_directions else [_all_rows(MAIN, sketches, photos)]
    gallery = photos if seen is None else with_seen(photos, embedded(seen))
    if seen is not None:
        directions.append(_all_rows(f"{MAIN}, generalised", sketches, gallery))
    found = Evaluation({}, directions, protocol, [*sketches.skipped, *gallery.skipped])
    coder = None
    if binary is not None:
        train = _single(embedded(load_part(config, "train", "photo")).embedding, protocol) if binary.fit == "train" else None
        coder = Coder(binary, train=train, centers=centers, cosine=protocol.distance == "cosine")
    for direction in directions:
        _measure(found, direction, device, preset, binary, coder, cluster)
    return found


def _measure(
    found: Evaluation,
    direction: Direction,
    device: torch.device,
    preset: str,
    binary: BinaryOptions | None,
    coder: Coder | None,
    cluster: ClusterOptions | None,
) -> None:
    """One direction, in every way asked for."""
    query, query_labels = direction.query.embedding[direction.query_rows].to(device), direction.query.labels[direction.query_rows]
    gallery = direction.gallery.embedding[direction.gallery_rows].to(device)  # [N, D] or [N, 2, D]
    labels = (query_labels, direction.gallery.labels[direction.gallery_rows])
    name, protocol = direction.name, found.protocol
    with _queries(name, len(query)) as done:
        found.results[name] = _by_embeddings(query, gallery, *labels, protocol, preset=preset, progress=done)
    query, gallery = _single(query, protocol), _single(gallery, protocol)
    if coder is not None:
        codes = coder(query, gallery)
        with _queries(named := f"{name}, {binary.bits} bits", len(query)) as done:
            options = {"distance": "hamming", "preset": preset, "progress": done}
            found.results[named] = evaluate_retrieval(codes[0], labels[0], codes[1], labels[1], **options)
    if cluster is not None and name.startswith(MAIN):
        with _queries(named := f"{name}, clusters", len(query)) as done:
            found.results[named] = cluster.measure(query, gallery, *labels, preset=preset, progress=done)
        for cell, result in cluster.measure_sweep(query, gallery, *labels, preset=preset):
            found.sweep[f"{name}, {cell}"] = result


def _by_embeddings(query, gallery, query_labels, gallery_labels, protocol: Protocol, **options: Any) -> RetrievalResult:
    if protocol.mirror != "min":
        return evaluate_retrieval(query, query_labels, gallery, gallery_labels, distance=protocol.distance, **options)
    distances = MirrorDistances(gallery, protocol.distance)
    return evaluate_distances(
        lambda start, stop: distances(query[start:stop]),
        query_labels,
        gallery_labels,
        described=distances.describe(),
        block=MIRRORED,
        **options,
    )


def _single(embedding: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """One embedding per image [N, D]: of image and mirror image the mean, normalised where directions are compared."""
    if embedding.dim() == 2:
        return embedding
    mean = embedding.mean(dim=1)
    return F.normalize(mean) if protocol.normalize or protocol.distance == "cosine" else mean


@contextmanager
def _queries(name: str, count: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, as a function of the queries done."""
    with progress(total=count, desc=name, unit="query") as bar:
        yield lambda done: bar.update(done - bar.n)


def unseen_map(model: nn.Module, config: TrainConfig, device: torch.device, preset: str, distance: str | None = None) -> float:
    """mAP over the whole gallery of sketch->photo on the unseen classes, averaged as the preset does: one number, for the log."""
    found = evaluate(model, config, device=device, preset=preset, distance=distance, all_directions=False)
    return found.results[MAIN].headline["mAP"]


def directions_of(sketches: Embeddings, photos: Embeddings) -> list[Direction]:
    """The three retrieval tasks; one whose gallery would be empty is left out and said so."""
    directions = [_all_rows(MAIN, sketches, photos)]
    for name, part in (("photo->photo", photos), ("sketch->sketch", sketches)):
        first = first_rows(part.labels, QUERIES_PER_CLASS)  # [N]
        if first.all():
            say(f"{name} left out: no class has more than the {QUERIES_PER_CLASS} images that serve as queries")
            continue
        directions.append(Direction(name, part, first.nonzero().flatten(), part, (~first).nonzero().flatten()))
    return directions


def _all_rows(name: str, query: Embeddings, gallery: Embeddings) -> Direction:
    return Direction(name, query, torch.arange(len(query.labels)), gallery, torch.arange(len(gallery.labels)))


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
