from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from tiny_data import CLASSES, tiny_config, write_tiny_folder
from torch import nn

from zsml.data.affinity import Affinity
from zsml.engine.config import TrainConfig
from zsml.engine.stopping import Interrupted
from zsml.engine.train import train
from zsml.errors import InputError
from zsml.systems import SYSTEMS
from zsml.systems.mathm import MATHM


class PowerCut(Exception):
    pass


class Ending(MATHM):
    """MATHM, but at one batch, counted from the start of the process, something happens."""

    def __init__(self, at: int, how: object):
        self.at, self.how = at, how

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        objective, calls = super().build_objective(config, classes), []

        def count(*_: object) -> None:
            calls.append(1)
            if len(calls) == self.at:
                self.how()

        objective.register_forward_pre_hook(count)
        return objective


def power_cut() -> None:
    raise PowerCut


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def state_of(out: Path) -> dict[str, object]:
    (checkpoint,) = (out / "checkpoints").iterdir()
    state = json.loads((checkpoint / "state.json").read_text())
    assert state.pop("config")
    tensors = {**load_file(checkpoint / "model.safetensors"), **load_file(checkpoint / "training.safetensors")}
    return {"state": state, "tensors": tensors, "folder": checkpoint.name}


def assert_same_state(one: dict[str, object], other: dict[str, object]) -> None:
    assert (one["state"], one["folder"]) == (other["state"], other["folder"])
    assert one["tensors"].keys() == other["tensors"].keys()
    different = [name for name, tensor in one["tensors"].items() if not torch.equal(tensor, other["tensors"][name])]
    assert different == []


def logged(out: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("straight")
    train(tiny_config(tiny_folder, out, epochs=3), SYSTEMS["mathm"])
    torch.set_num_threads(threads)
    return out


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [5, 7])  # the first and the third of the second epoch
def test_after_a_power_cut_the_last_epoch_is_where_it_goes_on(tiny_folder, tmp_path, straight, workers, batch):
    config = tiny_config(tiny_folder, tmp_path, epochs=3, workers=workers)
    with pytest.raises(PowerCut):
        train(config, Ending(batch, power_cut))
    assert state_of(tmp_path)["state"]["place"].items() >= {"epoch": 1, "batch": 0, "step": 4}.items()
    torch.manual_seed(99)  # whatever state a new process is in
    train(config, SYSTEMS["mathm"], resume=True)
    assert_same_state(state_of(tmp_path), state_of(straight))
    assert logged(tmp_path) == logged(straight)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("signal_", [press_ctrl_c, terminate])
def test_a_signal_saves_in_mid_epoch_and_nothing_is_lost(tiny_folder, tmp_path, straight, workers, signal_):
    config = tiny_config(tiny_folder, tmp_path, epochs=3, workers=workers)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=f"stopped at step 6, everything is saved; go on with: zsml train --resume {tmp_path}"):
        train(config, Ending(6, signal_))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert state_of(tmp_path)["state"]["place"].items() >= {"epoch": 1, "batch": 2, "step": 6}.items()
    train(config, SYSTEMS["mathm"], resume=True)
    assert_same_state(state_of(tmp_path), state_of(straight))
    steps = [row for row in logged(tmp_path) if row["kind"] == "step"]
    assert steps == [row for row in logged(straight) if row["kind"] == "step"]


def test_a_signal_in_the_last_step_of_an_epoch_ends_the_epoch(tiny_folder, tmp_path, straight):
    config = tiny_config(tiny_folder, tmp_path, epochs=3)
    with pytest.raises(Interrupted):
        train(config, Ending(8, press_ctrl_c))
    assert state_of(tmp_path)["state"]["place"].items() >= {"epoch": 2, "batch": 0, "step": 8}.items()
    train(config, SYSTEMS["mathm"], resume=True)
    assert_same_state(state_of(tmp_path), state_of(straight))
    assert logged(tmp_path) == logged(straight)


def test_with_accumulation_a_signal_waits_for_the_step_to_be_done(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, tmp_path / "a", accumulate=2)
    with pytest.raises(Interrupted):
        train(config, Ending(5, press_ctrl_c))
    assert state_of(tmp_path / "a")["state"]["place"].items() >= {"epoch": 1, "batch": 2, "step": 3}.items()
    train(config, SYSTEMS["mathm"], resume=True)
    train(tiny_config(tiny_folder, tmp_path / "b", accumulate=2), SYSTEMS["mathm"])
    assert_same_state(state_of(tmp_path / "a"), state_of(tmp_path / "b"))


def test_a_second_ctrl_c_stops_at_once(tiny_folder, tmp_path):
    def twice() -> None:
        press_ctrl_c()
        press_ctrl_c()

    with pytest.raises(KeyboardInterrupt) as caught:
        train(tiny_config(tiny_folder, tmp_path), Ending(2, twice))
    assert not isinstance(caught.value, Interrupted)
    assert not (tmp_path / "checkpoints").exists()


def test_frozen_epochs_resume_exactly_as_well(tiny_folder, tmp_path):
    one, other = (tiny_config(tiny_folder, tmp_path / name, epochs=3, frozen_epochs=1) for name in "ab")
    train(one, SYSTEMS["mathm"])
    with pytest.raises(PowerCut):
        train(other, Ending(6, power_cut))
    train(other, SYSTEMS["mathm"], resume=True)
    assert_same_state(state_of(tmp_path / "a"), state_of(tmp_path / "b"))


def test_a_finished_run_has_nothing_left_to_do(straight, tiny_folder):
    before = state_of(straight)
    result = train(tiny_config(tiny_folder, straight, epochs=3), SYSTEMS["mathm"], resume=True)
    assert (result["epochs"], result["steps"]) == (3, 12)
    assert_same_state(state_of(straight), before)


def test_a_run_can_be_made_longer(straight, tiny_folder, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    result = train(tiny_config(tiny_folder, tmp_path / "run", epochs=4), SYSTEMS["mathm"], resume=True)
    assert (result["epochs"], result["steps"]) == (4, 16)
    assert [row["epoch"] for row in logged(tmp_path / "run") if row["kind"] == "epoch"] == [1, 2, 3, 4]


def test_settings_that_make_another_run_are_refused(straight, tiny_folder):
    config = tiny_config(tiny_folder, straight, epochs=3, lr=0.5, arch="resnet18")
    with pytest.raises(InputError, match=r"--arch 'resnet18' differs from 'test_resnet'.*\n--lr 0.5 differs from 0.001"):
        train(config, SYSTEMS["mathm"], resume=True)


def test_other_classes_are_refused(straight, tmp_path):
    root = write_tiny_folder(tmp_path, classes=("cat", *CLASSES[1:]))
    with pytest.raises(InputError, match="the seen classes are no longer those of the run; check --root"):
        train(tiny_config(root, straight, epochs=3), SYSTEMS["mathm"], resume=True)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_a_checkpoint_is_refused(tiny_folder, tmp_path, there):
    out = tmp_path / "run"
    if there:
        out.mkdir()
    with pytest.raises(InputError, match="holds no checkpoint" if there else "does not exist"):
        train(tiny_config(tiny_folder, out), SYSTEMS["mathm"], resume=True)


def test_a_run_goes_on_without_the_files_its_weights_came_from(tiny_folder, tmp_path):
    torch.manual_seed(5)
    weights, table = tmp_path / "imagenet.pth", tmp_path / "affinity.npz"
    Affinity(list(CLASSES[:4]), torch.rand(4, 1000)).save(table)
    torch.save(timm.create_model("test_resnet", num_classes=1000).state_dict(), weights)
    sake = {"system": "sake", "transform": "sake", "pretrained": str(weights), "affinity": table,
            "selection": "val_accuracy"}  # fmt: skip

    def setting(out, epochs):
        return tiny_config(tiny_folder, tmp_path / out, **sake, epochs=epochs, warmup_epochs=TrainConfig.warmup_epochs)

    straight = train(setting("straight", 2), SYSTEMS["sake"])
    train(setting("parts", 1), SYSTEMS["sake"])
    weights.unlink()
    table.unlink()
    resumed = train(setting("parts", 2), SYSTEMS["sake"], resume=True)
    for name in ("model", "training"):
        a, b = (load_file(Path(run["checkpoint"]) / f"{name}.safetensors") for run in (straight, resumed))
        assert [key for key in a if not torch.equal(a[key], b[key])] == []
