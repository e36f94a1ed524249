from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny_data import tiny_flags

from zsml.cli import main
from zsml.engine.checkpoint import Place, Trainee, find_checkpoint, newest_checkpoint, read_state, restore, save_checkpoint
from zsml.engine.config import TrainConfig
from zsml.errors import InputError
from zsml.models import create_model

CPU = torch.device("cpu")
CONFIG = TrainConfig(data="synthetic")


def make_trainee(classes: int = 3) -> Trainee:
    model = create_model("test_resnet", num_classes=classes, embedding_dim=8).to(memory_format=torch.channels_last)
    objective = torch.nn.Linear(2, 1)  # stands for a loss with parameters of its own
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.1)
    return Trainee(model, objective, optimizer, torch.amp.GradScaler("cpu", enabled=True, growth_interval=2))


def step(trainee: Trainee) -> None:
    loss = trainee.model(torch.randn(4, 3, 32, 32)).logits.square().sum() + trainee.objective(torch.randn(4, 2)).sum()
    trainee.scaler.scale(loss).backward()
    trainee.scaler.step(trainee.optimizer)
    trainee.scaler.update()
    trainee.optimizer.zero_grad()


def everything(trainee: Trainee) -> list[torch.Tensor]:
    state = trainee.optimizer.state
    parameters = trainee.optimizer.param_groups[0]["params"]
    slots = [state[parameter][name] for parameter in parameters for name in ("step", "exp_avg", "exp_avg_sq")]
    return [*trainee.model.state_dict().values(), *trainee.objective.state_dict().values(), *slots]


def test_all_that_training_changes_comes_back(tmp_path):
    torch.manual_seed(0)
    one, other = make_trainee(), make_trainee()
    for _ in range(3):
        step(one)
    assert one.scaler.get_scale() > 65536  # grew once
    place = Place(epoch=1, batch=2, step=3)
    saved = save_checkpoint(tmp_path, place, one, CONFIG, ["a", "b", "c"])
    step(one)
    after = everything(one)

    restore(saved, other, CPU)
    assert read_state(saved)[:3] == (place, CONFIG, ["a", "b", "c"])
    assert other.scaler.state_dict() == {**one.scaler.state_dict(), **json.loads((saved / "state.json").read_text())["scaler"]}
    step(other)  # with the random numbers that came after the save
    assert all(torch.equal(a, b) for a, b in zip(everything(other), after, strict=True))
    assert all(a.stride() == b.stride() for a, b in zip(everything(other), after, strict=True))


def test_the_newest_is_found_and_the_others_are_gone(tmp_path):
    trainee = make_trainee()
    for number in (9, 10, 100_000_000):
        save_checkpoint(tmp_path, Place(step=number), trainee, CONFIG, [])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-100000000"]
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "checkpoints" / "step-100000000")


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    trainee = make_trainee()
    saved = save_checkpoint(tmp_path, Place(step=1), trainee, CONFIG, [])
    left = tmp_path / "checkpoints" / ".partial-12345"  # of a process that was killed while saving
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert find_checkpoint(tmp_path) == saved
    save_checkpoint(tmp_path, Place(step=2), trainee, CONFIG, [])
    assert not left.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "run '.*thing' does not exist; give the folder that `zsml train --out` wrote"),
        (lambda path: path.mkdir(), "run '.*thing' holds no checkpoint"),
        (lambda path: path.write_bytes(b"x"), "is a file, not the folder of a run.*load_released"),
    ],
)
def test_what_is_no_run_is_said_to_be_none(tmp_path, make, message):
    make(tmp_path / "thing")
    with pytest.raises(InputError, match=message):
        find_checkpoint(tmp_path / "thing")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "state.json cannot be read"),
        ("[]", "is of the wrong kind: None, expected 'zsml training checkpoint'"),
        ('{"kind": "index"}', "is of the wrong kind: 'index'"),
        ('{"kind": "zsml training checkpoint", "config": {"epoch": 1}}', "unknown key 'epoch'"),
        ('{"kind": "zsml training checkpoint"}', "state.json lacks 'config'"),
    ],
)
def test_the_wrong_kind_of_checkpoint_is_refused(tmp_path, state, message):
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(InputError, match=message):
        read_state(find_checkpoint(tmp_path))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    saved = save_checkpoint(tmp_path, Place(), make_trainee(3), CONFIG, [])
    with pytest.raises(InputError, match=r"is of another model: .*'num_classes': 3"):
        restore(saved, make_trainee(4), CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    saved = save_checkpoint(tmp_path, Place(), make_trainee(), CONFIG, [])
    with (saved / name).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=re.escape(str(saved))):
        restore(saved, make_trainee(), CPU)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit of the operating system itself on how far a file can be written, bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint_and_says_what_to_do(tiny_folder, tmp_path, capsys):
    out = tmp_path / "run"
    start = ["train", "mathm", *tiny_flags(tiny_folder, out)]
    go_on = ["train", "--resume", str(out), "--epochs", "3"]
    with files_of_at_most(1 << 20):  # the model alone takes 1.5 MB
        assert main(start) == 2
    said = capsys.readouterr().err
    assert re.search(r"--out '.*run': the disk is full \(File too large\); no checkpoint was saved yet: make room", said)
    assert newest_checkpoint(out) is None and "Traceback" not in said

    assert main(start) == 0
    old = {path.name: path.read_bytes() for path in newest_checkpoint(out).iterdir()}
    for limit in (1 << 20, 2 << 20):  # within the model; within the optimiser's state
        with files_of_at_most(limit):
            assert main(go_on) == 2
        assert f"step-00000008 is intact: make room, then run zsml train --resume {out}" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in newest_checkpoint(out).iterdir()} == old
        assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000008"]
    assert main(go_on) == 0


@pytest.mark.parametrize("limit", [100, 1000])
def test_a_disk_that_is_full_before_any_checkpoint_is_noticed_too(tiny_folder, tmp_path, limit, capsys):
    with files_of_at_most(limit):  # in config.toml; in log.jsonl
        assert main(["train", "mathm", *tiny_flags(tiny_folder, tmp_path)]) == 2
    assert "the disk is full" in capsys.readouterr().err
