"""From images to embeddings, for evaluation and for use elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

from zsml.data import load_dataset
from zsml.data.dataset import MODALITIES
from zsml.engine.checkpoint import BEST, find_checkpoint, read_state
from zsml.engine.config import TrainConfig
from zsml.engine.loader import Batches, check_labels
from zsml.engine.log import progress, say
from zsml.errors import InputError
from zsml.models import load_model
from zsml.models.io import WEIGHTS, read_card


@dataclass
class Run:
    """A finished or unfinished training, or a model by itself, opened to be used.

    what: which of its models this is, in words for people. checkpoint: of the last model, the folder that also holds what
    was trained beside it. classes: names of those it was trained on, where that is known.
    """

    folder: Path
    config: TrainConfig
    model: nn.Module
    step: int
    what: str
    checkpoint: Path | None = None
    classes: tuple[str, ...] = ()

    def tested(self, classes: Sequence[str]) -> str:
        """Which classes a test is of, in words: zero-shot is only what was not trained on."""
        known = len(set(classes) & set(self.classes))
        if known == len(classes) or self.config.data == "annotations":
            return "classes trained on"
        return f"classes, {known} of {len(classes)} trained on" if known else "unseen classes"


@dataclass
class Embeddings:
    """The embeddings of a data set, on the CPU.

    Row n is item `items[n]` of `dataset`; items whose image cannot be decoded have no row and are named in `skipped`.
    """

    dataset: Any
    embedding: torch.Tensor  # float32 [N, D], or [N, 2, D]: of image and mirror image
    labels: torch.Tensor  # int64 [N]
    items: torch.Tensor  # int64 [N]
    skipped: list[str]


def open_run(run: Path | str, device: torch.device, weights: Literal["auto", "best", "last"] = "auto") -> Run:
    """Load a model of a run's folder, in eval mode: the one --selection chose, if it chose any, or the newest.

    Raises:
        InputError: there is no run in the folder, it is damaged, or it has no chosen model and weights="best".
    """
    checkpoint = find_checkpoint(run)
    place, config, classes, _ = read_state(checkpoint)
    classes = tuple(classes)
    chosen = Path(run) / BEST
    if weights == "best" or (weights == "auto" and config.selection != "last" and (chosen / WEIGHTS).is_file()):
        if not (chosen / WEIGHTS).is_file():
            raise InputError(f"--weights best: {str(run)!r} has none; a run keeps its best model with --selection")
        try:
            note = (read_card(chosen) or {})["selection"]
            step, what = note["step"], f"epoch {note['epoch']}, best by {note['by']} ({note['value']:.4f})"
        except (KeyError, TypeError) as error:
            raise InputError(f"{str(chosen)!r} was not kept by --selection: its model says no epoch") from error
        return Run(Path(run), config, _ready(chosen, device, config), step, what, classes=classes)
    last = f"step {place.step}, the last"
    return Run(Path(run), config, _ready(checkpoint, device, config), place.step, last, checkpoint, classes)


def open_model(folder: Path | str, config: TrainConfig, device: torch.device) -> Run:
    """Load a model that `save_model` or `zsml import` wrote, to be used as `config` says.

    Raises:
        InputError: there is no model in the folder, or it is damaged.
    """
    return Run(Path(folder), config, _ready(Path(folder), device), 0, "imported")


def _ready(folder: Path, device: torch.device, config: TrainConfig | None = None) -> nn.Module:
    model = load_model(folder)
    if model.preprocessing is None and config is not None:  # a run's, from before models kept it themselves
        model.preprocessing = config.preprocessing
    return model.to(device, memory_format=torch.channels_last).eval()


@torch.no_grad()
def embed(
    model: nn.Module,
    dataset: Any,
    *,
    device: torch.device,
    batch_size: int = 64,
    workers: int = 0,
    amp: torch.dtype | None = None,
    items: torch.Tensor | None = None,
    normalize: bool = True,
    mirror: Literal["none", "min", "mean"] = "none",
) -> Embeddings:
    """Embed every image of a data set, or those numbered `items` (int64 [N]): h / ||h||, rows in their order.

    A corrupt image is left out, named and counted, unless the data set was made with strict=True.

    Args:
        normalize: False leaves h as the network gives it.
        mirror: "min" embeds each image and its mirror image (left to right), "mean" takes the mean of the two, before
            normalisation; "none" does neither.

    Raises:
        CorruptImage: at the first corrupt image of a strict data set.
        InputError: a label is out of range, or no image could be read.
    """
    check_labels(dataset.labels, len(dataset.classes), f"{dataset.name} {dataset.part}")
    was_training = model.training
    model.eval()
    wanted = torch.arange(len(dataset)) if items is None else items
    rows, embedded = [], []
    batches = Batches(dataset, sampler=wanted.tolist(), batch_size=batch_size, workers=workers, device=device)
    with progress(total=len(wanted), desc=f"embed {_kind(dataset)}", unit="image") as bar:
        for number, (images, _, modality, kept) in enumerate(batches):
            bar.update(min(batch_size, len(wanted) - number * batch_size))
            if len(kept) == 0:
                continue
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)  # [B, 3, S, S]
            with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                embedding = _views(model, images, modality.to(device, non_blocking=True), mirror)
            rows.append((F.normalize(embedding, dim=-1) if normalize else embedding).cpu())  # [B, D] or [B, 2, D]
            embedded.append(wanted[number * batch_size + kept])  # [B]
    model.train(was_training)
    if not rows:
        raise InputError(f"none of the {len(wanted)} images of {_kind(dataset)} can be decoded; check root")
    kept_items = torch.cat(embedded)
    missing = set(wanted.tolist()) - set(kept_items.tolist())
    skipped = [str(dataset.paths[item]) for item in sorted(missing)]
    for path in skipped:
        say(f"skipped corrupt image {path}")
    return Embeddings(dataset, torch.cat(rows), dataset.labels[kept_items], kept_items, skipped)


def _views(model: nn.Module, images: torch.Tensor, modality: torch.Tensor, mirror: str) -> torch.Tensor:
    """float32 [B, D], or of image and mirror image [B, 2, D]."""
    embedding = model(images, modality).embedding.float()
    if mirror == "none":
        return embedding
    pair = torch.stack([embedding, model(images.flip(3), modality).embedding.float()], dim=1)
    return pair.mean(dim=1) if mirror == "mean" else pair


def load_part(config: TrainConfig, part: str, modality: str, **options: Any) -> Any:
    """A part of a run's data as it is evaluated: no augmentation. Options of the data set win over the run's."""
    options = {"transform": config.test_transform, **config.dataset_options(), **options}
    return load_dataset(config.data, config.root, part, modality, **options)


def write_embeddings(out: Path, parts: list[Embeddings]) -> dict[str, Any]:
    """Write `embeddings.safetensors` (embedding float32 [N, D], label and modality int64 [N]) and the table of its rows.

    The table, `items.csv` and the same as `items.json`, has a line per row: row, id (path or name), class, label, modality.

    Returns:
        The paths written, the number of rows, their width and the images skipped.
    """
    table = [
        {"id": str(part.dataset.paths[item]), "class": part.dataset.classes[label], "label": label, "modality": kind}
        for part in parts
        for kind in [_modality(part.dataset)]
        for item, label in zip(part.items.tolist(), part.labels.tolist(), strict=True)
    ]
    table = [{"row": row, **entry} for row, entry in enumerate(table)]
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        "embedding": torch.cat([part.embedding for part in parts]),
        "label": torch.cat([part.labels for part in parts]),
        "modality": torch.cat([torch.full_like(part.labels, part.dataset.modality) for part in parts]),
    }
    (out / "embeddings.safetensors").write_bytes(save(tensors))
    (out / "items.json").write_text(json.dumps(table, indent=0, ensure_ascii=False), encoding="utf-8")
    with (out / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return {
        "embeddings": str(out / "embeddings.safetensors"),
        "items": str(out / "items.csv"),
        "rows": len(table),
        "width": tensors["embedding"].shape[1],
        "skipped_images": [path for part in parts for path in part.skipped],
    }


def _modality(dataset: Any) -> str:
    return MODALITIES[dataset.modality]


def _kind(dataset: Any) -> str:
    return f"{dataset.name} {dataset.part} {('sketches', 'photos')[dataset.modality]}"
