"""MEMS is evaluated as its code does: by squared distances or angles over mirror images, and by codes from its centres."""

from __future__ import annotations

import json

from tiny_data import CLASSES, write_tiny_folder

from zsml.cli import main

TINY = [
    "--data", "folder", "--unseen", *CLASSES[3:], "--image-size", "32", "--arch", "test_resnet", "--embedding-dim", "8",
    "--epochs", "1", "--batches-per-epoch", "1", "--sketches-per-batch", "4", "--photos-per-batch", "4", "--workers", "0",
]  # fmt: skip


def evaluated(folder, capsys, *flags: str, softmax: str = "mems") -> dict:
    root, run = write_tiny_folder(folder / "images", per_class=4), folder / "run"
    assert main(["train", "mems", "--root", str(root), *TINY, "--softmax", softmax, "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), *flags, "--examples", "1", "--workers", "0", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["results"]


def test_by_the_distance_its_loss_was_trained_for(tmp_path, capsys):
    squared = evaluated(tmp_path / "mems", capsys)["sketch->photo"]["protocol"]["sentence"]
    assert "Squared Euclidean distance, the least over image and mirror image" in squared
    angle = evaluated(tmp_path / "cosface", capsys, softmax="cosface")["sketch->photo"]["protocol"]["sentence"]
    assert "Angle, the least over image and mirror image" in angle


def test_by_codes_from_its_centres(tmp_path, capsys):
    """16 bits are more than the embedding has dimensions, and no rotation of it could make them."""
    assert "sketch->photo, 16 bits" in evaluated(tmp_path, capsys, "--bits", "16")
