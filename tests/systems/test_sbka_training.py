"""SBKA, a training of a few steps across its warm-up, whole and in two parts."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zsml.engine.config import TrainConfig
from zsml.engine.stopping import Interrupted
from zsml.engine.train import train
from zsml.models import load_model
from zsml.models.io import read_card
from zsml.systems import find_system

SBKA = find_system("sbka")
# Of 6 classes: 6 batches of 4 sketches and 5 photos, the teacher learns in the second half.
TINY = TrainConfig(system="sbka", **{
    **SBKA.settings_for("synthetic"), "data": "synthetic", "arch": "test_resnet", "embedding_dim": 96, "image_size": 32,
    "teacher": "random", "samples_per_class": 6, "unseen": ("94",), "epochs": 2, "batches_per_epoch": 3, "sketches_per_batch": 4,
    "photos_per_batch": 5, "teacher_warmup_epochs": 1, "lr": 1e-3, "workers": 0, "device": "cpu", "transform": "test",
})  # fmt: skip


def state_after(config: TrainConfig, **options) -> dict[str, torch.Tensor]:
    checkpoint = Path(train(config, SBKA, **options)["checkpoint"])
    return {**load_file(checkpoint / "model.safetensors"), **load_file(checkpoint / "training.safetensors")}


class Stopped(type(SBKA)):
    """Someone presses Ctrl-C in a batch, counted from the start."""

    def __init__(self, at: int):
        self.at = at

    def build_objective(self, config, classes):
        objective, calls = super().build_objective(config, classes), []

        def count(*_) -> None:
            calls.append(1)
            if len(calls) == self.at:
                signal.raise_signal(signal.SIGINT)

        objective.register_forward_pre_hook(count)
        return objective


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    out = tmp_path_factory.mktemp("sbka") / "run"
    return out, state_after(replace(TINY, out=out))


def test_the_teachers_head_learns_after_the_warm_up_and_only_it(straight, tmp_path):
    torch.manual_seed(TINY.seed)
    start = {
        f"objective.{name}": tensor
        for name, tensor in SBKA.build_objective(TINY, ["a", "b", "c", "d", "e", "f"]).state_dict().items()
    }
    warm = state_after(replace(TINY, epochs=1, selection="last", out=tmp_path / "warm"))
    for state, learned in ((warm, set()), (straight[1], {"objective.teacher.net.fc.weight", "objective.teacher.net.fc.bias"})):
        assert {name for name, tensor in start.items() if not torch.equal(state[name], tensor)} == learned


@pytest.mark.parametrize("batch_number", [2, 5])  # in the warm-up, and after it
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(straight, tmp_path, batch_number):
    config = replace(TINY, out=tmp_path)
    with pytest.raises(Interrupted):
        train(config, Stopped(batch_number))
    resumed = state_after(config, resume=True)
    assert resumed.keys() == straight[1].keys()
    assert [name for name, tensor in straight[1].items() if not torch.equal(tensor, resumed[name])] == []


def test_the_model_kept_is_of_the_second_phase(straight):
    out, _ = straight
    assert read_card(out / "best")["selection"]["epoch"] == 2
    assert load_model(out / "best").config["bottleneck"] is False
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert ["teacher" in row for row in steps] == [False] * 3 + [True] * 3
