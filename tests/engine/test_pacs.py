"""A short training on real photographs and sketches."""

from __future__ import annotations

import json

import torch

from zsml.cli import main
from zsml.engine.checkpoint import find_checkpoint, read_state
from zsml.engine.evaluate import unseen_map
from zsml.systems import SYSTEMS

SHORT = [
    "--unseen", "horse", "house", "--image-size", "64", "--transform", "train", "--arch", "resnet10t", "--embedding-dim", "64",
    "--epochs", "6", "--batches-per-epoch", "30", "--classes-per-batch", "5", "--samples-per-modality", "3", "--lr", "1e-3",
    "--backbone-lr-factor", "1", "--frozen-epochs", "0", "--warmup-epochs", "0", "--triplet-weight", "0.3", "--device", "cpu",
]  # fmt: skip


def test_training_on_pacs_finds_unseen_photos_better_than_the_untrained_network(shared_data, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "mathm", "--data", "folder", "--root", str(shared_data / "pacs"), *SHORT, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out), "--bits", "32", "--device", "cpu", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    trained = results["sketch->photo"]
    assert (trained["num_valid_queries"], trained["gallery_size"]) == (896, 479)

    _, config, seen, _ = read_state(find_checkpoint(out))
    torch.manual_seed(config.seed)
    untrained = SYSTEMS["mathm"].build_model(config, len(seen))
    before = unseen_map(untrained, config, torch.device("cpu"), "mathm")
    assert abs(before - trained["chance_map"]) < 0.06  # an untrained network is near chance, 0.44 for these two classes
    assert trained["map"] > before + 0.05  # three seeds gave +0.13 to +0.16
    assert results["sketch->photo, 32 bits"]["map"] > before + 0.05
