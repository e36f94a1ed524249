"""Every published system trained for a while on images sorted into folders: mAP among unseen classes before and after.

    python bench/bench_systems.py --root IMAGES --unseen horse house --out bench/results/systems.cpu.jsonl
        [--systems sake dsn] [--arch resnet10t]

A check that each of them learns from random weights, at a small size and in minutes on a CPU, with the published objective, way
of drawing batches and schedule; not a comparison of the systems: none has the ImageNet weights it was published with, and
teachers are random networks. Each has its own architecture, or all have the one --arch names. A row is written after each
system and replaces the one there was.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
import tyro

from zsml.bench.measure import describe_machine
from zsml.demo import before_and_after
from zsml.engine.config import TrainConfig
from zsml.engine.config_file import merged, to_table
from zsml.files import write_atomic
from zsml.systems import SYSTEMS, find_system

# What differs from the published setting, for small images and random weights.
SMALL: dict[str, Any] = {
    "image_size": 64, "epochs": 5, "batches_per_epoch": 60, "lr": 1e-3, "backbone_lr_factor": 1.0, "frozen_epochs": 0,
    "weight_decay": 0.0, "selection": "last",
}  # fmt: skip
BATCHES = {
    "classes": {"classes_per_batch": 5, "samples_per_modality": 4},
    "random": {"sketches_per_batch": 20, "photos_per_batch": 20},
}


@dataclass
class Arguments:
    root: Path
    """Folder with sketch/<class>/* and photo/<class>/*."""
    unseen: tuple[str, ...]
    """Classes kept out of training."""
    out: Path
    """File of the rows, one JSON object per line."""
    systems: tuple[str, ...] = tuple(SYSTEMS)
    """Which systems."""
    batches: int = 300
    """Training batches of each."""
    arch: str = ""
    """Backbone of all of them; default: each its own."""


def setting(name: str, arguments: Arguments, run: Path) -> TrainConfig:
    """The published setting of a system, made small."""
    system = find_system(name)
    base = merged(system.settings_for("folder"))
    changes: dict[str, Any] = {**SMALL, **BATCHES[base.batch], "batches_per_epoch": arguments.batches // SMALL["epochs"]}
    if arguments.arch:
        changes |= {"arch": arguments.arch, "embedding_dim": timm.create_model(arguments.arch, num_classes=0).num_features}
    changes |= {"system": name, "data": "folder", "root": arguments.root, "unseen": arguments.unseen, "out": run}
    own = {"teacher": "random", "warmup_epochs": 0, "triplet_weight": 0.3, "teacher_warmup_epochs": 2}
    own["annealing_steps"] = arguments.batches // 2
    changes |= {name: value for name, value in own.items() if name in system.settings}
    return replace(base, **changes)


def main() -> None:
    arguments = tyro.cli(Arguments)
    for name in arguments.systems:
        with tempfile.TemporaryDirectory() as folder:
            config = setting(name, arguments, Path(folder) / "run")
            started = time.perf_counter()
            found = before_and_after(config, device=torch.device("cpu"))
            seconds = time.perf_counter() - started
        settings = {key: value for key, value in to_table(config).items() if key not in ("root", "out")}
        row = {
            "system": name,
            "arch": config.arch,
            "data": f"{arguments.root.name}: {found['seen_classes']} seen, unseen {' '.join(arguments.unseen)}",
            "untrained_map": found["untrained_map"],
            "trained_map": found["trained_map"],
            "chance_map": found["chance_map"],
            "queries": found["queries"],
            "gallery": found["gallery"],
            "protocol": found["protocol"],
            "training_seconds": found["training_seconds"],
            "seconds": seconds,
            **describe_machine("cpu"),
            "threads": torch.get_num_threads(),
            "settings": settings,
        }
        lines = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
        others = [other for other in map(json.loads, lines) if (other["system"], other["arch"]) != (name, config.arch)]
        write_atomic(arguments.out, "".join(json.dumps(row) + "\n" for row in (*others, row)).encode())
        before, after, chance = (row[f"{which}_map"] for which in ("untrained", "trained", "chance"))
        print(f"{name}: mAP {before:.3f} -> {after:.3f} (chance {chance:.3f}), {seconds:.0f} s")


if __name__ == "__main__":
    main()
