"""`zsml demo`: train on generated images and retrieve classes never seen, small enough for two CPU cores."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zsml.engine.config import TrainConfig
from zsml.engine.device import resolve_device
from zsml.engine.embed import load_part, open_run
from zsml.engine.evaluate import evaluate
from zsml.engine.indexing import add_images, find_images, make_codes, open_or_create
from zsml.engine.log import say
from zsml.engine.report import write_run_report
from zsml.engine.train import train
from zsml.systems import find_system

DIRECTION = "sketch->photo"
BITS = 64  # of the codes of the gallery's index

# Small images and batches, and a backbone that learns from random weights, for want of a download: all of it at one rate, and
# with a light hand on the triplets, whose hardest pairs are noise until the first features have formed.
SETTINGS = TrainConfig(
    system="mathm",
    data="synthetic",
    samples_per_class=50,
    image_size=64,
    transform="none",
    arch="cse_resnet50",
    embedding_dim=128,
    epochs=8,
    batches_per_epoch=30,
    classes_per_batch=16,
    samples_per_modality=2,
    lr=1e-3,
    backbone_lr_factor=1.0,
    weight_decay=0.0,
    frozen_epochs=0,
    warmup_epochs=1,
    triplet_weight=0.1,
)


def demo(out: Path | None = None, device: str = "auto") -> dict[str, Any]:
    """Evaluate the network untrained, train it, evaluate it again, write the report, and make an index of the photos.

    Returns:
        chance_map, untrained_map and trained_map (sketch->photo among the unseen classes, whole gallery) with their protocol,
        how many classes, queries and gallery images there were, and the paths of run, report and index.

    Raises:
        InputError: `out` holds a run already, or there is no such device.
    """
    config = replace(SETTINGS, out=out or _free_folder(Path("runs") / "demo"), device=device)
    result = before_and_after(config, resolve_device(device))
    return {**result, "index": str(index_gallery(Path(result["run"]), resolve_device(device)))}


def index_gallery(run: Path, device: torch.device) -> Path:
    """The photos of a run's unseen classes as files, `run/gallery/<class>/*.png`, in an index with codes, `run/gallery.index`."""
    config = open_run(run, device).config
    photos = load_part(config, "test", "photo")
    for number, label in enumerate(photos.labels.tolist()):
        folder = run / "gallery" / photos.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        photos.load(number).save(folder / f"{number:05d}.png")
    index = open_or_create(run / "gallery.index", run)
    add_images(index, find_images([run / "gallery"]), modality="photo", device=device)
    make_codes(index, min(BITS, index.width))
    return index.folder


def before_and_after(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Evaluate a system's network untrained, train it, evaluate it again; returns what `demo` returns, and training_seconds.

    Raises:
        InputError: a setting, or the data, is at fault.
    """
    config.validate()
    system = find_system(config.system)
    say(f"1/3 the untrained network, on {device.type}")
    seen = load_part(config, "train", "photo").classes
    torch.manual_seed(config.seed)  # as training begins
    untrained = system.build_model(config, len(seen)).to(device, memory_format=torch.channels_last)
    how = {"device": device, "preset": system.protocol, "distance": system.distance_for(config)}
    before = evaluate(untrained, config, **how).results[DIRECTION]
    say(f"2/3 training {config.arch} with {system.name} on {len(seen)} classes")
    started = time.perf_counter()
    trained = train(config, system)
    training_seconds = time.perf_counter() - started
    say("3/3 the trained network")
    run = open_run(trained["run"], device)
    evaluation = evaluate(run.model, run.config, **how)
    after = evaluation.results[DIRECTION]
    page = write_run_report(Path(trained["run"]) / "report", run, evaluation)
    return {
        "chance_map": after.chance_map,
        "untrained_map": before.headline["mAP"],
        "trained_map": after.headline["mAP"],
        "protocol": after.protocol.sentence(),
        "seen_classes": len(seen),
        "unseen_classes": len(after.per_class),
        "queries": after.num_queries,
        "gallery": after.gallery_size,
        "training_seconds": training_seconds,
        "run": trained["run"],
        "report": str(page),
    }


def _free_folder(path: Path) -> Path:
    names = [path.name, *(f"{path.name}-{number}" for number in range(2, 1000))]
    return next(folder for name in names if not (folder := path.with_name(name)).exists())
