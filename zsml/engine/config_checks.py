"""What is wrong with the settings of a training, before any work is done."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from zsml.engine.config import TrainConfig, flag
from zsml.errors import InputError, not_known


def problems_of(config: TrainConfig, starting: bool) -> list[str]:
    """Everything that is wrong, a line per flag; `starting`: also what a new training lacks."""
    problems = [*_wrong_numbers(config), *_wrong_names(config), *_wrong_combinations(config)]
    return [*problems, *_missing_weights(config)] if starting else problems


def _wrong_numbers(config: TrainConfig) -> list[str]:
    at_least = {
        "epochs": 1, "batches_per_epoch": 0 if config.batch == "random" else 1, "classes_per_batch": 2,
        "samples_per_modality": 1, "sketches_per_batch": 1, "photos_per_batch": 1, "accumulate": 1, "image_size": 32,
        "embedding_dim": 1, "weight_decay": 0, "frozen_epochs": 0, "warmup_epochs": 0, "triplet_weight": 0, "margin": 0,
        "beta": 0, "affinity_bonus": 0, "distillation_weight": 0, "contrastive_weight": 0, "memory_weight": 0,
        "memory_size": 1, "alignment_weight": 0, "teacher_warmup_epochs": 0, "annealing_steps": 0, "workers": 0,
        "evaluate_every": 0, "backbone_lr_factor": 0, "seed": 0, "split_seed": 0, "samples_per_class": 2,
    }  # fmt: skip
    problems = []
    for name, least in at_least.items():
        value = getattr(config, name)
        if value is not None and not least <= value < float("inf"):  # nan fails both
            problems.append(f"{flag(name)} must be {least} or more, got {value}")
    for name in ("lr", "teacher_lr", "distillation_temperature", "contrastive_temperature", "scale"):
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            problems.append(f"{flag(name)} must be above 0, got {value}")
    return problems


def _wrong_names(config: TrainConfig) -> list[str]:
    from zsml.data.load import READERS
    from zsml.data.transforms import TRANSFORMS

    choices = {"data": READERS, "transform": TRANSFORMS, "test_transform": TRANSFORMS}
    hints = get_type_hints(TrainConfig)
    choices |= {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
    return [
        f"{flag(name)} {not_known(value, known)}"
        for name, known in choices.items()
        if (value := getattr(config, name)) not in known
    ]


def _missing_weights(config: TrainConfig) -> list[str]:
    problems = []
    if config.pretrained not in ("no", "imagenet") and not Path(config.pretrained).is_file():
        problems.append(f"--pretrained {config.pretrained!r} is neither no, imagenet nor a file")
    if config.teacher not in ("", "imagenet", "random") and not Path(config.teacher).is_file():
        problems.append(f"--teacher {config.teacher!r} is neither imagenet, random nor a file")
    if config.affinity is not None and not config.affinity.is_file():
        problems.append(f"--affinity {str(config.affinity)!r} is not a file; zsml data affinity makes one")
    return problems


def _wrong_combinations(config: TrainConfig) -> list[str]:
    from zsml.data.load import READERS
    from zsml.engine.device import resolve_amp, resolve_device

    problems = []
    if config.data not in READERS:
        return problems  # nothing can be said of what goes with it
    if config.data != "synthetic" and config.root is None:
        problems.append(f"--root is missing: --data {config.data} needs the folder that holds the images")
    if config.data not in ("folder", "synthetic") and config.unseen:
        problems.append(f"--unseen has no meaning for --data {config.data}, whose lists fix the split; leave it out")
    if config.data in ("folder", "synthetic") and config.lists is not None:
        problems.append(f"--lists has no meaning for --data {config.data}; leave it out")
    if config.data != "synthetic" and config.samples_per_class is not None:
        problems.append(f"--samples-per-class has no meaning for --data {config.data}; leave it out")
    for name in ("root", "lists"):
        path = getattr(config, name)
        if path is not None and not path.is_dir():
            problems.append(f"{flag(name)} {str(path)!r} is not a folder")
    if config.batches_per_epoch >= 1 and config.accumulate >= 1 and config.batches_per_epoch % config.accumulate:
        problems.append(
            f"--batches-per-epoch ({config.batches_per_epoch}) must be a multiple of --accumulate ({config.accumulate})"
        )
    if config.epochs >= 1 and config.frozen_epochs > config.epochs:
        problems.append(f"--frozen-epochs ({config.frozen_epochs}) must not exceed --epochs ({config.epochs})")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        problems.append("--tensorboard needs a package that is not installed: pip install tensorboard")
    try:
        resolve_amp(config.amp, resolve_device(config.device))
    except InputError as error:
        problems.append(str(error))
    return problems
