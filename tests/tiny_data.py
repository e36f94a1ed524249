"""A small folder of drawn images that a small network can learn, for tests that need files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from zsml.engine.config import TrainConfig

CLASSES = ("ant", "bee", "cow", "dog", "elk", "fox")
PER_CLASS = 14  # images of each class and modality


def write_tiny_folder(root: Path, classes: tuple[str, ...] = CLASSES, per_class: int = PER_CLASS) -> Path:
    """root/{sketch,photo}/<class>/<n>.png, 24 x 24 pixels: each class is a random pattern, grey in sketches."""
    for label, name in enumerate(classes):
        pattern = np.random.RandomState(label).rand(4, 4, 3)
        for modality in ("sketch", "photo"):
            folder = root / modality / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                noise = np.random.RandomState(1000 * label + 10 * number + len(modality)).randn(4, 4, 3)
                values = np.clip(pattern + 0.15 * noise, 0, 1)
                if modality == "sketch":
                    values = values.mean(axis=2, keepdims=True).repeat(3, axis=2)
                pixels = (255 * values).astype("uint8").repeat(6, axis=0).repeat(6, axis=1)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


def tiny_config(root: Path, out: Path, **changes: object) -> TrainConfig:
    """A run of seconds: timm's smallest ResNet at 32 px, all of it trained from the first of two epochs on."""
    settings = {
        "data": "folder", "root": root, "out": out, "unseen": ("elk", "fox"), "image_size": 32, "transform": "mathm",
        "arch": "test_resnet", "embedding_dim": 16, "epochs": 2, "batches_per_epoch": 4, "classes_per_batch": 3,
        "samples_per_modality": 2, "lr": 1e-3, "backbone_lr_factor": 0.5, "frozen_epochs": 0, "warmup_epochs": 0,
        "workers": 0, "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def tiny_flags(root: Path, out: Path | None, *more: str) -> list[str]:
    """The same as command-line flags."""
    flags = [
        "--data", "folder", "--root", str(root), "--unseen", "elk", "fox", "--image-size", "32", "--arch", "test_resnet",
        "--embedding-dim", "16", "--epochs", "2", "--batches-per-epoch", "4", "--classes-per-batch", "3",
        "--samples-per-modality", "2", "--lr", "1e-3", "--backbone-lr-factor", "0.5", "--frozen-epochs", "0",
        "--warmup-epochs", "0", "--workers", "0", "--device", "cpu",
    ]  # fmt: skip
    return [*flags, *(["--out", str(out)] if out else []), *more]
