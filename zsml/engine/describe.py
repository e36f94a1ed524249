"""What a data set holds: classes, counts, split, and a sheet of examples."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from zsml.data import load_dataset
from zsml.data.dataset import MODALITIES
from zsml.data.load import available_parts
from zsml.engine.config import TrainConfig
from zsml.errors import CorruptImage, InputError

THUMBNAIL, LABEL_WIDTH, LETTER = 96, 150, 7  # pixels
PER_MODALITY, MOST_CLASSES = 6, 40  # images in a row, rows of the sheet

COLUMNS = ("sketches", "photos", "held_out_sketches", "held_out_photos")


def describe(config: TrainConfig, sheet: Path | None = None) -> dict[str, Any]:
    """Count the images of every class, and with `sheet` draw examples of each into a PNG file.

    Returns:
        data, root, sheet, and classes: a list of {class, split ("seen" or "unseen"), sketches, photos, held_out_sketches,
        held_out_photos}, where held-out images are those of seen classes kept out of training. Annotations, whose classes are all
        seen, have two rows for each, with split "train" and "test".

    Raises:
        InputError: the data cannot be read, or the sheet cannot be written.
    """
    parts = {
        (part, modality): _load(config, part, modality)
        for modality in MODALITIES
        for part in available_parts(config.data, modality)
    }
    splits = {"train": "seen", "test": "unseen"} if config.data != "annotations" else {"train": "train", "test": "test"}
    rows = []
    for part, split in splits.items():
        columns = {"sketches": (part, "sketch"), "photos": (part, "photo")}
        if part == "train":
            columns |= {"held_out_sketches": ("val", "sketch"), "held_out_photos": ("val", "photo")}
        counts = {name: _counts(parts[key]) for name, key in columns.items() if key in parts}
        for name in parts[part, "photo"].classes:
            row = {column: counts[column].get(name, 0) if column in counts else 0 for column in COLUMNS}
            rows.append({"class": name, "split": split, **row})
    if sheet is not None:
        _draw_sheet(sheet, parts, splits["test"])
    return {
        "data": config.data,
        "root": None if config.root is None else str(config.root),
        "classes": rows,
        "sheet": None if sheet is None else str(sheet),
    }


def _load(config: TrainConfig, part: str, modality: str) -> Any:
    return load_dataset(config.data, config.root, part, modality, transform=None, **config.dataset_options())


def _counts(dataset: Any) -> dict[str, int]:
    counts = torch.bincount(dataset.labels, minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


def _draw_sheet(path: Path, parts: dict[tuple[str, str], Any], test: str) -> None:
    rows = [(part, label) for part in ("test", "train") for label in range(len(parts[part, "photo"].classes))][:MOST_CLASSES]
    width = LABEL_WIDTH + 2 * PER_MODALITY * THUMBNAIL
    canvas = Image.new("RGB", (width, THUMBNAIL * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for row, (part, label) in enumerate(rows):
        name = parts[part, "photo"].classes[label] + (f" ({test})" if part == "test" else "")
        lines = textwrap.wrap(name, LABEL_WIDTH // LETTER)
        draw.text((8, row * THUMBNAIL + 8), "\n".join(lines), fill="black")
        for column, modality in enumerate(MODALITIES):
            dataset = parts[part, modality]
            own = (dataset.labels == label).nonzero().flatten()
            chosen = own[torch.linspace(0, len(own) - 1, min(PER_MODALITY, len(own))).long()] if len(own) else own
            for place, item in enumerate(chosen.tolist()):
                left = LABEL_WIDTH + (column * PER_MODALITY + place) * THUMBNAIL
                canvas.paste(_thumbnail(dataset, item), (left, row * THUMBNAIL))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(path, format="PNG")
    except OSError as error:
        raise InputError(f"--sheet {str(path)!r} cannot be written: {error.strerror}") from error


def _thumbnail(dataset: Any, item: int) -> Image.Image:
    try:
        return dataset.load(item).resize((THUMBNAIL - 4, THUMBNAIL - 4))
    except CorruptImage:
        return Image.new("RGB", (THUMBNAIL - 4, THUMBNAIL - 4), "red")
