"""Which epoch's model to keep: by accuracy or by retrieval on images of the seen classes that were held out of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from zsml.data.keys import torch_stream
from zsml.engine.checkpoint import BEST, Place, write_model
from zsml.engine.config import TrainConfig
from zsml.engine.device import resolve_amp
from zsml.engine.embed import embed, load_part
from zsml.engine.loader import Batches, on_device
from zsml.engine.log import progress
from zsml.errors import InputError
from zsml.metrics import evaluate_retrieval
from zsml.models.io import read_card
from zsml.quantize import ITQ
from zsml.retrieval.quantize import SEEDS

if TYPE_CHECKING:
    from zsml.systems import System

PAIRS = 14_400  # most photos of the seen classes that --selection val_map searches, as many as DSN's code draws


def keep_if_best(run: Path, place: Place, model: nn.Module, config: TrainConfig, device: torch.device, system: System) -> None:
    """Measure the model of the epoch just finished; if none before was better, save it and note that in `place`.

    It comes before the checkpoint that knows of it, so that a run killed between the two does the epoch again.

    Raises:
        InputError: there is nothing to measure on.
        OSError: the disk is full or not writable.
    """
    if config.selection == "val_accuracy":
        place.validation = val_accuracy(model, config, device)
    else:
        itq_update = system.binary_for(config.variant)["update"]
        place.validation = val_map(model, config, device, system.protocol, itq_update=itq_update)
    if place.best is not None and place.validation <= place.best and _kept_epoch(run) == place.best_epoch:
        return
    place.best, place.best_epoch = place.validation, place.epoch
    note = {"epoch": place.epoch, "step": place.step, "by": config.selection, "value": place.best}
    card = model.card
    model.card = {**(card or {"system": system.name, "protocol": system.protocol}), "selection": note}
    try:
        write_model(model, run / BEST)
    finally:
        model.card = card  # what the last model is kept with


def _kept_epoch(run: Path) -> int | None:
    """The epoch of the model kept; after a kill between a model and its checkpoint it is not that of the checkpoint."""
    try:
        return (read_card(run / BEST) or {})["selection"]["epoch"]
    except (InputError, KeyError, TypeError):
        return None


@torch.no_grad()
def val_accuracy(model: nn.Module, config: TrainConfig, device: torch.device) -> float:
    """Share of the held-out sketches whose class the classifier names: SAKE's rule (Liu et al., ICCV 2019), and SBKA's.

    Raises:
        InputError: the data set holds no sketches out, or none can be decoded.
    """
    sketches = load_part(config, "val", "sketch")
    amp = resolve_amp(config.amp, device)
    was_training = model.training
    model.eval()
    right = total = 0
    with progress(total=len(sketches), desc="validate", unit="image") as bar:
        for images, labels, modality, _ in Batches(sketches, batch_size=64, workers=config.num_workers, device=device):
            if not len(images):
                continue
            images, labels, modality = on_device(images, labels, modality, device)
            with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                logits = model(images, modality).logits
            right += int((logits.argmax(dim=1) == labels).sum())
            total += len(labels)
            bar.update(len(labels))
    model.train(was_training)
    if not total:
        raise InputError(f"--selection val_accuracy: none of the held-out sketches of {config.data} can be decoded")
    return right / total


def val_map(model: nn.Module, config: TrainConfig, device: torch.device, preset: str, *, itq_update: str = "procrustes") -> float:
    """mAP by class of finding photos of seen classes by binary codes of held-out sketches: DSN's rule (Wang et al., IJCAI 2021).

    Up to 14,400 training photos, drawn once per run, each with a held-out sketch of its class as the query; codes as long as the
    embedding is wide by ITQ fitted on the sketches, the own mean subtracted from each side.

    Raises:
        InputError: the data set holds no sketches out, or none can be decoded.
    """
    options = {"device": device, "workers": config.num_workers, "amp": resolve_amp(config.amp, device)}
    sketches, photos = load_part(config, "val", "sketch"), load_part(config, "train", "photo")
    draw = torch_stream("val_map", config.seed)
    chosen = torch.randperm(len(photos), generator=draw)[:PAIRS].sort().values
    queries = embed(model, sketches, **options)
    gallery = embed(model, photos, items=chosen, **options)
    of_class = {label: (queries.labels == label).nonzero().flatten() for label in queries.labels.unique().tolist()}
    rows = [_one_of(of_class.get(label), draw) for label in gallery.labels.tolist()]
    rows = torch.tensor([row for row in rows if row is not None])  # [P] of queries
    if not len(rows):
        raise InputError("--selection val_map: no class has both a held-out sketch and a photo")
    query = queries.embedding[rows]
    quantizer = ITQ(bits=query.shape[1], seed=SEEDS[itq_update], update=itq_update).fit(query)
    codes = [quantizer.transform(x, center="own") for x in (query, gallery.embedding)]
    result = evaluate_retrieval(
        codes[0], queries.labels[rows], codes[1], gallery.labels, preset=preset, distance="hamming", map_at=(), precision_at=()
    )
    return result.map_macro


def _one_of(rows: torch.Tensor | None, draw: torch.Generator) -> int | None:
    return None if rows is None else int(rows[torch.randint(len(rows), (), generator=draw)])
