"""Every system from the command line: a few steps on generated images, and the evaluation of what came of it."""

from __future__ import annotations

import json

import pytest
import torch

from zsml.cli import main
from zsml.metrics import PRESETS
from zsml.systems import SYSTEMS

FEW = [
    "--data", "synthetic", "--samples-per-class", "4", "--unseen", "4", "--image-size", "32", "--epochs", "2",
    "--batches-per-epoch", "2", "--workers", "0",
]  # fmt: skip
CLASSES = ["--arch", "test_resnet", "--embedding-dim", "16", "--classes-per-batch", "3", "--samples-per-modality", "2"]
RANDOM = ["--sketches-per-batch", "6", "--photos-per-batch", "6"]

# Small networks, and what a system cannot do without where there are no ImageNet weights.
SMALL = {
    "mathm": CLASSES,
    "baseline": CLASSES,
    "sake": [*RANDOM, "--arch", "test_resnet", "--embedding-dim", "16", "--teacher", "random"],
    "dsn": [*RANDOM, "--arch", "test_resnet", "--embedding-dim", "16", "--teacher", "random"],
    "mems": [*RANDOM, "--arch", "dase_resnet18", "--embedding-dim", "16", "--annealing-steps", "4"],
    "sbka": [*RANDOM, "--arch", "test_convnext", "--embedding-dim", "64", "--teacher", "random", "--teacher-warmup-epochs", "1"],
}
# On a GPU in every precision; nothing is scaled on a CPU.
WHERE = [("cpu", "off"), *(("cuda", amp) for amp in ("bf16", "fp16", "off") if torch.cuda.is_available())]


@pytest.mark.parametrize(("device", "amp"), WHERE)
@pytest.mark.parametrize("name", SYSTEMS)
def test_it_trains_and_is_evaluated_as_published(name, device, amp, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*FEW, *SMALL[name], "--device", device, "--amp", amp, "--selection", "last"]
    assert main(["train", name, *flags, "--out", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4
    assert main(["evaluate", str(run), "--device", device, "--workers", "0", "--examples", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"]["sketch->photo"]
    assert (result["num_queries"], result["gallery_size"]) == (16, 16) and 0 < result["map"] <= 1
    assert result["protocol"]["name"] == SYSTEMS[name].protocol and SYSTEMS[name].protocol in PRESETS
