"""Checkpoints that several tests of this room read; made once, they take a second each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from published_cse_resnet50 import random_checkpoint
from torch import Tensor


@pytest.fixture(autouse=True)
def _tidy(tmp_path: Path) -> Iterator[None]:
    """pytest keeps the folders of three runs, and a checkpoint has a hundred megabytes."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="session")
def mathm_state() -> dict[str, Tensor]:
    return random_checkpoint("mathm", classes=7, dim=16)


@pytest.fixture(scope="session")
def tiny_state(mathm_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names and shapes, one number each: torch.save writes a broadcast tensor as that number alone."""
    numbers = {name: torch.tensor((i + 1) / 16) for i, name in enumerate(mathm_state)}
    return {
        name: numbers[name].expand(value.shape) if value.is_floating_point() else value for name, value in mathm_state.items()
    }


@pytest.fixture(scope="session")
def mathm_file(mathm_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As MATHM's training script writes it."""
    path = tmp_path_factory.mktemp("mathm") / "checkpoint.pth.tar"
    torch.save(
        {
            "epoch": 40,
            "arch": "cse_resnet50",
            "state_dict": {f"module.{name}": value for name, value in mathm_state.items()},
            "best_acc1": torch.tensor([61.5]),
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0, 1]}]},
        },
        path,
    )
    yield path
    path.unlink()
