"""The training loop: one function, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zsml.commit import commit
from zsml.engine.checkpoint import (
    BEST,
    Place,
    Trainee,
    find_checkpoint,
    full_disk_is_named,
    newest_checkpoint,
    read_state,
    restore,
    save_checkpoint,
)
from zsml.engine.config import TrainConfig, flag
from zsml.engine.config_file import to_toml
from zsml.engine.device import resolve_amp
from zsml.engine.distributed import Team, join
from zsml.engine.embed import load_part
from zsml.engine.evaluate import unseen_map
from zsml.engine.loader import on_device, training_batches
from zsml.engine.log import NoLog, RunLog, progress, say
from zsml.engine.selection import keep_if_best
from zsml.engine.stopping import Interrupted, TrainingFailed, stop_on_signal
from zsml.errors import InputError

if TYPE_CHECKING:
    from zsml.systems import System

# What may change when a run is resumed; anything else would make it another run.
MAY_CHANGE = {"root", "lists", "epochs", "device", "workers", "evaluate_every", "tensorboard", "strict_images", "out"}


def train(config: TrainConfig, system: System, *, resume: bool = False) -> dict[str, Any]:
    """Train a system and keep its last state in `config.run_dir`.

    With `resume` the run in that folder goes on from its newest checkpoint; on a CPU the result is bit for bit that of a run
    never interrupted, whatever the number of loading processes. A longer `epochs` stretches the rest of the schedule.

    Started by torchrun, the processes share every batch (zsml.engine.distributed); the first one writes the run's folder, which
    all must be able to read to resume.

    Returns:
        run (the folder), checkpoint, epochs, steps, and of the last epoch loss (mean) and images_per_second, skipped_images;
        with a selection also best (the folder of that model), best_epoch and its value.

    Raises:
        InputError: a setting, the data or the checkpoint is at fault, or the disk is full; names the flag.
        TrainingFailed: the loss became infinite or not a number.
        Interrupted: Ctrl-C or SIGTERM; everything was saved before.
    """
    config.validate(starting=not resume)
    system.check(config)
    with join(config.device) as team:
        return _train(_with_absolute_paths(config), system, resume, team)


def _train(config: TrainConfig, system: System, resume: bool, team: Team) -> dict[str, Any]:
    run, device = config.run_dir, team.device
    amp = resolve_amp(config.amp, device)
    with team.together():
        team.check(config)
        checkpoint = _checkpoint_to_resume(config) if resume else _prepare_new_run(config, system)
        torch.manual_seed(config.seed)
        batches, order, classes = training_batches(config, device, rank=team.rank, world_size=team.size)
        if config.selection != "last":
            load_part(config, "val", "sketch")  # there are held-out sketches, or it is said now
        # A checkpoint holds all weights, a teacher's too: going on from it needs none of the files they came from.
        start = config
        if checkpoint is not None:
            start = replace(config, pretrained="no", teacher=config.teacher_source and "random", affinity=None)
        objective = system.build_objective(start, classes).to(device)
        model = system.build_model(start, len(classes))
    model.card = {"system": system.name, "protocol": system.protocol, "paper": system.source, "commit": commit()}
    model.preprocessing = config.preprocessing
    model = team.prepare(model, config).to(device, memory_format=torch.channels_last)
    model.trainable(config.trainable)
    optimizer = torch.optim.Adam(system.parameter_groups(config, model, objective), lr=config.lr)
    scaler = torch.amp.GradScaler(device.type, enabled=amp is torch.float16)
    trainee = Trainee(model, objective, optimizer, scaler)
    place = Place()
    if checkpoint is not None:
        with team.together():
            place, _, classes_then, _ = read_state(checkpoint)
            if classes_then != classes:
                raise InputError(f"--resume {run}: the seen classes are no longer those of the run; check --root {config.root}")
            restore(checkpoint, trainee, device)

    row: dict[str, Any] = {}
    network, trained = None, None
    in_epoch = order.batches_per_epoch
    if not in_epoch:
        raise InputError(f"--accumulate {config.accumulate} is more than the batches of a pass through the data; lower it")
    with full_disk_is_named(run), _open_log(config, place, team) as log, stop_on_signal() as stop:
        for epoch in range(place.epoch, config.epochs):
            model.freeze_backbone(epoch < config.frozen_epochs)
            if hasattr(objective, "set_epoch"):
                objective.set_epoch(epoch)
            if trained != (trained := [p.requires_grad for p in (*model.parameters(), *objective.parameters())]):
                network = team.parallel(objective, model)
            model.train()
            objective.train()
            order.start_at(epoch, place.batch)
            sums: dict[str, float] = defaultdict(float)
            images_done, batches_done, skipped, started = 0, 0, 0, time.perf_counter()
            bar = progress(total=in_epoch, initial=place.batch, desc=f"epoch {epoch + 1}/{config.epochs}")

            for (images, labels, modality, _), kept in team.batches(batches, f"--root {config.root}"):
                images, labels, modality = on_device(images, labels, modality, device)
                factor = system.lr_factor(config, epoch, place.batch / in_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * group["share"] * factor
                team.seed(config, epoch, place.batch)
                step_follows = (place.batch + 1) % config.accumulate == 0
                with team.accumulating(network, more=not step_follows):
                    with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                        loss, parts = network(images, labels, modality)
                    values = {"loss": loss.item(), **{name: part.item() for name, part in parts.items()}}
                    if not math.isfinite(values["loss"]):
                        raise TrainingFailed(_not_finite(run, place, values))
                    # The loss is that of all ranks, and gradients are averaged over them, not summed.
                    scaler.scale(loss * team.size / config.accumulate).backward()

                skipped += order.batch_size(place.batch) - kept
                place.batch += 1
                batches_done += 1
                images_done += kept
                for name, value in values.items():
                    sums[name] += value
                bar.update()
                speed = images_done / (time.perf_counter() - started)
                bar.set_postfix(loss=f"{values['loss']:.3f}", images_per_s=f"{speed:.0f}")
                if not step_follows:
                    continue

                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                place.step += 1
                log.step({"epoch": epoch + 1, "step": place.step, **values})
                if team.any(stop.requested):
                    break

            bar.close()
            finished = place.batch == in_epoch
            if finished:
                place.epoch, place.batch = epoch + 1, 0
            with team.together():
                if finished and config.selection != "last" and system.may_keep(config, epoch) and team.first:
                    keep_if_best(run, place, model, config, device, system)
                if team.first:
                    save_checkpoint(run, place, trainee, config, classes)
            if finished:
                row = {"epoch": place.epoch, "step": place.step, "lr_factor": factor}
                row |= {name: total / batches_done for name, total in sums.items()}
                row |= {"images_per_second": speed, "skipped_images": skipped}
                if place.validation is not None:
                    row[config.selection] = place.validation
                if config.evaluate_every and place.epoch % config.evaluate_every == 0:
                    with team.together():
                        if team.first:
                            row["unseen_map"] = unseen_map(model, config, device, system.protocol, system.distance_for(config))
                log.epoch(row)
                say(_summary(row, config.epochs))
            if team.any(stop.requested) and place.epoch < config.epochs:
                raise Interrupted(f"stopped at step {place.step}, everything is saved; go on with: zsml train --resume {run}")

    return {
        "run": str(run),
        "checkpoint": str(find_checkpoint(run)),
        "epochs": place.epoch,
        "steps": place.step,
        **({"best": str(run / BEST), "best_epoch": place.best_epoch, config.selection: place.best} if place.best_epoch else {}),
        **{name: row[name] for name in ("loss", "images_per_second", "skipped_images") if name in row},
    }


def _open_log(config: TrainConfig, place: Place, team: Team) -> RunLog | NoLog:
    with team.together():
        if not team.first:
            return NoLog()
        (config.run_dir / "config.toml").write_text(to_toml(config), encoding="utf-8")
        return RunLog(config.run_dir, resume_step=place.step, tensorboard=config.tensorboard)


def _prepare_new_run(config: TrainConfig, system: System) -> None:
    run = config.run_dir
    if newest_checkpoint(run) is not None:
        raise InputError(f"--out {str(run)!r} already holds a run; go on with it by --resume {run}, or choose another folder")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(run)!r} cannot be made a folder: {error.strerror}") from error
    for note in system.notes(config):
        say(f"note: {note}")


def _checkpoint_to_resume(config: TrainConfig) -> Path:
    checkpoint = find_checkpoint(config.run_dir)
    _, then, _, _ = read_state(checkpoint)
    changed = [
        f"{flag(name)} {getattr(config, name)!r} differs from {getattr(then, name)!r}, the setting of the run that "
        "--resume continues; leave it out, or start another run"
        for name in (field.name for field in fields(config))
        if name not in MAY_CHANGE and getattr(config, name) != getattr(then, name)
    ]
    if changed:
        raise InputError("\n".join(changed))
    return checkpoint


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """So that the run's settings mean the same from any folder."""
    absolute: dict[str, Any] = {
        name: path.absolute() for name in ("root", "lists", "affinity") if (path := getattr(config, name)) is not None
    }
    for name, words in (("pretrained", ("no", "imagenet")), ("teacher", ("", "imagenet", "random"))):
        if getattr(config, name) not in words:
            absolute[name] = str(Path(getattr(config, name)).absolute())
    return replace(config, **absolute)


def _not_finite(run: Path, place: Place, values: dict[str, float]) -> str:
    parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
    kept = newest_checkpoint(run)
    saved = f"the last good checkpoint is {kept}" if kept else "nothing was saved yet"
    return (
        f"the loss is not finite in epoch {place.epoch + 1}, batch {place.batch + 1} ({parts}); {saved}. "
        "Try a lower --lr, a longer --warmup-epochs, or --amp off"
    )


def _summary(row: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}", f"{row['images_per_second']:.0f} images/s"]
    if row["skipped_images"]:
        parts.append(f"{row['skipped_images']} corrupt images skipped")
    parts += [f"{name} {row[name]:.4f}" for name in ("val_accuracy", "val_map") if name in row]
    if "unseen_map" in row:
        parts.append(f"unseen mAP {row['unseen_map']:.4f}")
    return "  ".join(parts)
