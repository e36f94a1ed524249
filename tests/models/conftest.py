"""Checkpoints that several tests of this room read; made once, they take a second each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import published_convnextv2
import published_dase_resnext101
import pytest
import torch
from published_cse_resnet50 import random_checkpoint
from published_layers import flat
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
    return flat(mathm_state)


@pytest.fixture(scope="session")
def tiny_states(tiny_state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A small file's worth of tensors in the layout of every system."""
    sake = flat(random_checkpoint("sake"))
    return {
        "mathm": tiny_state,
        "sake": sake,
        "dsn": sake,
        "mems": flat(published_dase_resnext101.random_checkpoint()),
        "sbka": flat(published_convnextv2.random_checkpoint()),
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
