"""The report of an evaluation: what was measured, how, and what the nearest images look like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from zsml.commit import commit
from zsml.engine.binary import BinaryOptions
from zsml.engine.clusters import CHOSEN_ON_TEST
from zsml.engine.config_file import to_table
from zsml.engine.embed import Run
from zsml.engine.evaluate import Direction, Evaluation
from zsml.metrics import Protocol
from zsml.models.io import weights_sha256
from zsml.retrieval.mirror import MirrorDistances
from zsml.retrieval.report import QueryExample, write_report

SHOWN = 10  # gallery images shown per example query


def write_run_report(
    out: Path, run: Run, evaluation: Evaluation, binary: BinaryOptions | None = None, *, examples: int = 12, seed: int = 0
) -> Path:
    """Write the report's folder (report.html, metrics.json) and return the path of `report.html`.

    `examples` queries of sketch->photo, drawn with `seed` and spread over the classes, are shown with the 10 nearest gallery
    images by the distance of the embeddings.
    """
    direction = evaluation.directions[0]
    config = run.config
    tested = run.tested(direction.query.dataset.classes)
    protocol = {
        "system": config.system,
        "model": f"{config.arch}, {config.embedding_dim}-d embedding, {config.image_size} px, {run.what}",
        "data": f"{config.data}, {len(direction.gallery.dataset.classes)} {tested}",
        "sketch->photo": f"every sketch against every photo of the {tested}",
        "photo->photo, sketch->sketch": f"the first 10 images of each of the {tested} against the rest",
    }
    protocol["embeddings"] = _embeddings(evaluation.protocol)
    if any(direction.name.endswith("generalised") for direction in evaluation.directions):
        protocol["generalised"] = "the same sketches against the photos of all classes, also of those trained on"
    if binary is not None:
        protocol["codes"] = binary.describe()
    if evaluation.sweep:
        cells = [f"{name}: mAP {result.headline['mAP']:.4f}" for name, result in evaluation.sweep.items()]
        protocol[f"clusters by M and K, {CHOSEN_ON_TEST}"] = "; ".join(cells)
    return write_report(
        out,
        title=f"{config.system}: {config.data}, {tested}",
        results=evaluation.results,
        protocol=protocol,
        classes=direction.gallery.dataset.classes,
        examples=query_examples(direction, examples, seed, evaluation.protocol.distance),
        facts={"step": run.step, "commit": commit(), "weights_sha256": weights_sha256(run.model), **to_table(config)},
        skipped=evaluation.skipped,
    )


def _embeddings(protocol: Protocol) -> str:
    length = "L2-normalised" if protocol.normalize else "as the network gives them"
    return (
        length + {"none": "", "min": ", of image and mirror image", "mean": ", mean of image and mirror image"}[protocol.mirror]
    )


def query_examples(direction: Direction, count: int, seed: int, distance: str = "euclidean") -> list[QueryExample]:
    """Draw `count` queries, from as many classes as possible, each with its nearest gallery images."""
    query, gallery = direction.query, direction.gallery
    distances = _distances(gallery.embedding[direction.gallery_rows], distance)
    examples = []
    for row in direction.query_rows[_spread(query.labels[direction.query_rows], count, seed)].tolist():
        label = int(query.labels[row])
        away = distances(query.embedding[row : row + 1].double())[0]  # [N]
        results = []
        for place in away.argsort(stable=True)[:SHOWN].tolist():
            hit = int(direction.gallery_rows[place])
            hit_label = int(gallery.labels[hit])
            image = gallery.dataset.load(int(gallery.items[hit]))
            results.append((image, gallery.dataset.classes[hit_label], hit_label == label, float(away[place])))
        image = query.dataset.load(int(query.items[row]))
        examples.append(QueryExample(direction.name, image, query.dataset.classes[label], results))
    return examples


def _distances(gallery: torch.Tensor, distance: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """From queries [q, D] or [q, 2, D] to their distances [q, N]."""
    if gallery.dim() == 3:
        return MirrorDistances(gallery, distance)
    vectors = gallery.double()
    if distance == "cosine":
        vectors = F.normalize(vectors)
        return lambda query: 1 - F.normalize(query) @ vectors.T
    return lambda query: torch.linalg.vector_norm(vectors - query[:, None], dim=2)


def _spread(labels: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """`count` random places of labels [Q], one of every class before a second of any."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    seen: dict[int, int] = {}
    turns = []
    for label in labels[shuffled].tolist():
        turns.append(seen.setdefault(label, 0))
        seen[label] += 1
    return shuffled[torch.tensor(turns).argsort(stable=True)[:count]]
