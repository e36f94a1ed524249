"""Training on two processes is training on one, and what ends one of them ends both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_data import tiny_config, tiny_flags
from training_on_ranks import CENTRES, SHARED

from zsml.engine.checkpoint import find_checkpoint, read_state
from zsml.engine.embed import open_run
from zsml.engine.loader import training_batches
from zsml.engine.train import train
from zsml.systems import SYSTEMS

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": paths})


def rows(run: Path, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    leave_out = ("kind", "images_per_second")
    return [{name: row[name] for name in row if name not in leave_out} for row in rows if row["kind"] == kind]


def assert_same_run(one: Path, other: Path) -> None:
    """Up to rounding: same weights, same steps."""
    ours, theirs = (open_run(run, CPU).model.state_dict() for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    for row, expected in zip(rows(one, "step"), rows(other, "step"), strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    assert read_state(find_checkpoint(one))[0] == read_state(find_checkpoint(other))[0]


def alone(images: Path, out: Path, **changes: object) -> Path:
    train(tiny_config(images, out, **(SHARED | changes)), SYSTEMS["mathm"])
    return out


def test_the_command_under_torchrun_is_the_command(tiny_folder, tmp_path):
    settings = {"accumulate": 2, "frozen_epochs": 1, "evaluate_every": 2}  # the backbone joins in the second epoch
    flags = tiny_flags(tiny_folder, tmp_path / "two", "--arch", "test_convnext", "--classes-per-batch", "4", "--accumulate", "2")
    done = torchrun("-m", "zsml", "train", "mathm", *flags, "--frozen-epochs", "1", "--evaluate-every", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # printed once
    assert (result["epochs"], result["steps"], result["skipped_images"]) == (2, 4, 0)
    assert done.stderr.count("epoch 1/2") == 1
    assert_same_run(tmp_path / "two", alone(tiny_folder, tmp_path / "one", **settings))
    for epoch, expected in zip(rows(tmp_path / "two", "epoch"), rows(tmp_path / "one", "epoch"), strict=True):
        assert epoch == pytest.approx(expected, rel=1e-4)  # mAP included


@pytest.fixture(scope="module")
def trainings(tiny_folder, tmp_path_factory) -> tuple[Path, list[dict[str, str]], float]:
    """The folder of several trainings on two processes, how each ended on each rank, and the seconds they took together."""
    out = tmp_path_factory.mktemp("trainings")
    shutil.copytree(tiny_folder, out / "damaged")
    for path in sorted((out / "damaged" / "sketch" / "ant").iterdir())[1:]:
        path.write_bytes(b"no image")
    started = time.perf_counter()
    done = torchrun(HERE / "training_on_ranks.py", tiny_folder, out)
    assert done.returncode == 0, done.stderr
    return out, [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)], time.perf_counter() - started


def test_a_signal_to_one_stops_both_and_they_go_on_where_they_were(trainings, tiny_folder, tmp_path):
    out, ends, _ = trainings
    assert all(end["stopped"].startswith("Interrupted: stopped at step 3, everything is saved") for end in ends)
    assert all(end["resumed"] == "done" for end in ends)
    assert_same_run(out / "stopped", alone(tiny_folder, tmp_path))


def test_parts_of_unequal_size_weigh_as_in_one_batch(trainings, tmp_path):
    out, ends, _ = trainings
    assert all(end["uneven"] == "done" for end in ends)
    assert rows(out / "uneven", "epoch")[-1]["skipped_images"] > 0
    assert_same_run(out / "uneven", alone(out / "damaged", tmp_path, epochs=1))


def test_class_centres_and_the_step_of_their_margin_are_those_of_one(trainings, tiny_folder, tmp_path):
    out, ends, _ = trainings
    assert all(end["centres"] == "done" for end in ends)
    train(tiny_config(tiny_folder, tmp_path, **CENTRES), SYSTEMS["mems"])
    assert_same_run(out / "centres", tmp_path)
    ours, theirs = (load_file(find_checkpoint(run) / "training.safetensors") for run in (out / "centres", tmp_path))
    assert ours["objective.loss.step"].item() == theirs["objective.loss.step"].item() == 8
    torch.testing.assert_close(ours["objective.loss.centers"], theirs["objective.loss.centers"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "speaks", "kind", "message"),
    [
        ("strict", None, "CorruptImage", "ant"),
        ("odd", 0, "InputError", "--classes-per-batch (3) must be a multiple of the number of processes (2)"),
        ("batchnorm", 0, "InputError", "--sync-batchnorm needs GPUs"),
        ("twice", 0, "InputError", "already holds a run"),
        ("surprise", 1, "RuntimeError", "out of luck"),
    ],
)
def test_what_ends_one_ends_both(trainings, name, speaks, kind, message):
    _, ends, seconds = trainings
    kinds = [end[name].partition(":")[0] for end in ends]
    if speaks is None:  # who draws the bad image first
        speaks = kinds.index(kind)
    assert kinds[speaks] == kind and message in ends[speaks][name]
    assert ends[1 - speaks][name] != "done"
    if name != "surprise":
        assert ends[1 - speaks][name].startswith(f"EndedElsewhere: rank {speaks}: ") and message in ends[1 - speaks][name]
    assert seconds < 200  # nobody waited for a timeout


def test_a_loss_that_is_not_finite_ends_both(trainings):
    assert all(end["not finite"].startswith("TrainingFailed: the loss is not finite") for end in trainings[1])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch_of_one(tiny_folder, tmp_path, world):
    config = tiny_config(tiny_folder, tmp_path, classes_per_batch=4)
    whole, *parts = (
        list(training_batches(config, CPU, rank=r, world_size=n)[0]) for r, n in [(0, 1), *((r, world) for r in range(world))]
    )
    for together, *shares in zip(whole, *parts, strict=True):
        for column, pieces in zip(together[:3], zip(*(share[:3] for share in shares), strict=True), strict=True):
            assert torch.equal(column, torch.cat(pieces))
