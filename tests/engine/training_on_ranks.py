"""What test_distributed_training runs on two processes: several trainings, one after the other, and how each ended.

torchrun --nproc-per-node=2 training_on_ranks.py IMAGES OUT
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_data import tiny_config
from torch import nn

from zsml.engine.config import TrainConfig
from zsml.engine.train import train
from zsml.systems import System
from zsml.systems.mathm import MATHM
from zsml.systems.mems import MEMS

RANK = int(os.environ.get("RANK", 0))
SHARED = {"arch": "test_convnext", "classes_per_batch": 4}  # has no BatchNorm: the same on one process
# Its loss has parameters and a count of steps.
# What has no meaning for it is as it would be on the command line, left out.
LEFT_OUT = {name: getattr(TrainConfig, name) for name in ("warmup_epochs", "classes_per_batch", "samples_per_modality")}
CENTRES = {**LEFT_OUT, "system": "mems", "arch": "test_convnext", "batch": "random", "sketches_per_batch": 6,
           "photos_per_batch": 6, "margin": 2.0, "annealing_steps": 5}  # fmt: skip


class OnRankOne(MATHM):
    """MATHM, but something happens at one batch on the second rank."""

    def __init__(self, at: int, what: Callable[[], None]):
        self.at, self.what = at, what

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        objective, calls = super().build_objective(config, classes), []

        def count(*_: object) -> None:
            calls.append(1)
            if RANK == 1 and len(calls) == self.at:
                self.what()

        objective.register_forward_pre_hook(count)
        return objective


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def fail() -> None:
    raise RuntimeError("out of luck")


def ended(config: TrainConfig, system: System | None = None, **options: bool) -> str:
    """How a training ended on this rank."""
    try:
        train(config, system or MATHM(), **options)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def main(images: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")  # one for all of them
    found = {}
    stopped = tiny_config(images, out / "stopped", **SHARED)
    found["stopped"] = ended(stopped, OnRankOne(3, terminate))
    found["resumed"] = ended(stopped, resume=True)
    found["uneven"] = ended(tiny_config(out / "damaged", out / "uneven", epochs=1, **SHARED))
    found["centres"] = ended(tiny_config(images, out / "centres", **CENTRES), MEMS())
    found["strict"] = ended(tiny_config(out / "damaged", out / "strict", epochs=1, strict_images=True, **SHARED))
    found["odd"] = ended(tiny_config(images, out / "odd", classes_per_batch=3))
    found["batchnorm"] = ended(tiny_config(images, out / "odd", classes_per_batch=4, sync_batchnorm=True))
    found["twice"] = ended(stopped)
    found["not finite"] = ended(tiny_config(images, out / "infinite", **(SHARED | {"lr": 1e30, "epochs": 4})))
    found["surprise"] = ended(tiny_config(images, out / "surprise", **SHARED), OnRankOne(2, fail))
    dist.destroy_process_group()  # lets go of the other rank, as the end of the process does
    (out / f"rank{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
