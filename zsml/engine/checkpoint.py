"""Checkpoints: everything a run needs to go on exactly where it was, as safetensors and JSON, written all or nothing.

A checkpoint is a folder `<run>/checkpoints/step-<n>` with

    model.safetensors, config.json      the model, as zsml.models.save_model writes it
    training.safetensors                optimizer.<i>.<name>, objective.<name>, rng.cpu, rng.cuda
    state.json                          kind, place in the training, settings, class names, gradient scaler

It is written under another name, flushed to the disk and then renamed, so a folder with this name is complete. The one
before is deleted after that.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from zsml.engine.config import TrainConfig
from zsml.engine.config_file import checked_settings, merged, to_table
from zsml.errors import InputError
from zsml.models import load_model, save_model

KIND = "zsml training checkpoint"
BEST = "best"  # folder of the model that --selection chose, beside the checkpoints
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Place:
    """Where a training is: the next batch to do, how many optimiser steps were done, and which epoch's model was the best.

    validation: --selection's value of the last finished epoch that may be chosen; best, best_epoch: the highest so far, and
    the number of epochs then finished.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    validation: float | None = None
    best: float | None = None
    best_epoch: int = 0


@dataclass
class Trainee:
    """What training changes, and so what a checkpoint holds."""

    model: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save_checkpoint(run: Path, place: Place, trainee: Trainee, config: TrainConfig, classes: list[str]) -> Path:
    """Write a checkpoint of the run and return its folder; the one before is intact until this one is complete.

    Raises:
        OSError: the disk is full or not writable.
    """
    folder = run / "checkpoints"
    final, partial = folder / f"step-{place.step:08d}", folder / f".partial-{os.getpid()}"
    if final.exists():
        return final
    state = {
        "kind": KIND,
        "place": vars(place),
        "config": to_table(config),
        "classes": classes,
        "scaler": trainee.scaler.state_dict(),
    }
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process with the same number
        partial.mkdir(parents=True)
        write_model(trainee.model, partial)
        (partial / "training.safetensors").write_bytes(save(_training_tensors(trainee)))
        (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _flush(path)
        partial.rename(final)
        _flush(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for other in folder.iterdir():
        if other != final and (other.name.startswith(".partial-") or _step_of(other) is not None):
            shutil.rmtree(other, ignore_errors=True)
    return final


def find_checkpoint(run: Path | str) -> Path:
    """The checkpoint to use of a run's folder: its newest; `run` may also be a checkpoint itself.

    Raises:
        InputError: there is none.
    """
    run = Path(run)
    if (run / "state.json").is_file():
        return run
    found = newest_checkpoint(run)
    if found is not None:
        return found
    if run.is_file():
        raise InputError(
            f"run {str(run)!r} is a file, not the folder of a run; give the folder that `zsml train --out` wrote "
            "(a checkpoint published by another system is read by zsml.models.load_released)"
        )
    what = "holds no checkpoint" if run.is_dir() else "does not exist"
    raise InputError(f"run {str(run)!r} {what}; give the folder that `zsml train --out` wrote")


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of a run with the most steps, or None."""
    folder = run / "checkpoints"
    complete = [path for path in folder.iterdir() if _step_of(path) is not None] if folder.is_dir() else []
    return max(complete, key=_step_of, default=None)


def read_state(checkpoint: Path) -> tuple[Place, TrainConfig, list[str], dict[str, Any]]:
    """The place, the settings, the class names and the gradient scaler's state of a checkpoint.

    Raises:
        InputError: the folder is no checkpoint of this program.
    """
    path = checkpoint / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {str(checkpoint)!r}: state.json cannot be read ({error})") from error
    if not isinstance(state, dict) or state.get("kind") != KIND:
        kind = state.get("kind") if isinstance(state, dict) else None
        raise InputError(f"checkpoint {str(checkpoint)!r} is of the wrong kind: {kind!r}, expected {KIND!r}")
    try:
        settings = checked_settings(state["config"], source=f"checkpoint {str(checkpoint)!r}")
        return Place(**state["place"]), merged(settings), state["classes"], state["scaler"]
    except KeyError as error:
        raise InputError(f"checkpoint {str(checkpoint)!r}: state.json lacks {error}") from error


def restore(checkpoint: Path, trainee: Trainee, device: torch.device) -> None:
    """Put everything a checkpoint holds back into what is being trained, and into torch's random generators.

    Raises:
        InputError: the checkpoint is of another model or optimiser, or damaged.
    """
    *_, scaler = read_state(checkpoint)
    saved = load_model(checkpoint)
    if saved.config != trainee.model.config:
        raise InputError(f"checkpoint {str(checkpoint)!r} is of another model: {saved.config}, expected {trainee.model.config}")
    try:
        tensors = load_file(checkpoint / "training.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint {str(checkpoint)!r} cannot be read: {error}") from error
    parts: dict[str, dict[str, torch.Tensor]] = {"optimizer": {}, "objective": {}, "rng": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    trainee.model.load_state_dict(saved.state_dict())
    trainee.objective.load_state_dict(parts["objective"])
    _restore_optimizer(trainee.optimizer, parts["optimizer"])
    trainee.scaler.load_state_dict(scaler)
    torch.set_rng_state(parts["rng"]["cpu"])
    if device.type == "cuda" and "cuda" in parts["rng"]:
        torch.cuda.set_rng_state(parts["rng"]["cuda"], device)


@contextmanager
def full_disk_is_named(run: Path) -> Iterator[None]:
    """Turn "disk full" into an InputError that names --out and the checkpoint that is still there."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        kept = newest_checkpoint(run)
        how = f"the checkpoint {kept.name} is intact: " if kept else "no checkpoint was saved yet: "
        again = f"zsml train --resume {run}" if kept else "the same command"
        raise InputError(f"--out {str(run)!r}: the disk is full ({error.strerror}); {how}make room, then run {again}") from error


def _training_tensors(trainee: Trainee) -> dict[str, torch.Tensor]:
    tensors = {f"objective.{name}": tensor for name, tensor in trainee.objective.state_dict().items()}
    for index, state in trainee.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors["rng.cpu"] = torch.get_rng_state()
    device = next(trainee.model.parameters()).device
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    # the groups hold settings, which come from the configuration, not from the file
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, slots in optimizer.state.items():
        for name, tensor in slots.items():
            if tensor.shape == parameter.shape:  # same strides as before, or sums may round differently
                slots[name] = torch.empty_like(parameter).copy_(tensor)


def write_model(model: nn.Module, folder: Path) -> None:
    """`save_model`, raising OSError where the disk is full or not writable."""
    try:
        save_model(model, folder)
    except InputError as error:  # it names a folder that the user never chose; what matters is why
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(r"step-(\d+)", path.name)
    return int(match.group(1)) if match else None
