"""From a published checkpoint to a model folder: weights, configuration, and a card that says what it is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch

import zsml
from zsml.data.load import BY_LISTS
from zsml.errors import InputError
from zsml.files import write_atomic
from zsml.models import EmbeddingModel, load_released, save_model
from zsml.models.io import CONFIG, WEIGHTS, read_card
from zsml.models.released import LAYOUTS
from zsml.retrieval.protocol import make_protocol

README = "README.md"
IMAGES = {"imagenet": "ImageNet-normalised", "none": "in [0, 1], not normalised"}  # by Layout.normalize


def import_released(path: Path | str, system: str, out: Path | str) -> dict[str, Any]:
    """Read a checkpoint published by a system (`load_released`) and write it to the folder `out` as a model of ours.

    The folder gets model.safetensors, config.json and README.md. What holds the same checkpoint already is written anew.

    Returns:
        What `zsml import --json` prints: system, source, protocol, widths, and the files written.

    Raises:
        InputError: the checkpoint cannot be read, holds numbers that are not finite, or the folder holds another model or
            files of these names.
    """
    path, out = Path(path), Path(out)
    model = load_released(path, system)
    _check_finite(model, path)
    _check_free(out, model.card)
    save_model(model, out)
    try:
        write_atomic(out / README, model_card(model, out).encode())
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from error
    return {**model.card, **_widths(model), "out": str(out), "files": [str(out / name) for name in (WEIGHTS, CONFIG, README)]}


def model_card(model: EmbeddingModel, folder: Path | str) -> str:
    """The README.md of a model that `load_released` read: Markdown for people who find the folder.

    Raises:
        InputError: the model has no card, so that nothing is known of where it came from.
    """
    if model.card is None:
        raise InputError("model must be one that load_released read: it has no card")
    layout, source, widths = LAYOUTS[model.card["system"]], model.card["source"], _widths(model)
    protocol = make_protocol(model.card["protocol"])
    modality = ", which depend on its modality" if model.conditional else ""
    rows = {
        "system": f"{layout.title}, {layout.paper}",
        "source file": f"`{_in_table(source['file'])}`, {source['bytes']:,} bytes",
        "sha256 of it": f"`{source['sha256']}`",
        "network": f"{widths['arch']}, {widths['parameters']:,} parameters",
        "embedding": f"{widths['embedding_dim']} numbers per image{modality}",
        "classes of the training": _classes_text(widths["num_classes"]),
        "ImageNet classifier": "kept" if widths["imagenet_classifier"] else "none in the file",
        "converted by": f"zsml {zsml.__version__}",
    }
    compared = "L2-normalised before comparing" if protocol.normalize else "compared as they are"
    mirrored = "" if protocol.mirror == "none" else "; each image is embedded as it is and mirrored"
    dataset = _dataset_of(widths["num_classes"]) or "NAME"
    return "\n".join(
        [
            f"# A model of {layout.title}",
            "",
            f"Converted from a checkpoint in the form that {layout.title} publishes. Only the form is new: the numbers, and the",
            "rights in them, are those of the file.",
            "",
            *("| | |", "|---|---|"),
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            "## Evaluation",
            "",
            f"    zsml evaluate {shlex.quote(str(folder))} --data {dataset} --root ROOT",
            "",
            f"{protocol.sentence()} Embeddings are {compared}{mirrored}.",
            "",
            "## Use",
            "",
            "```python",
            "from zsml.models import load_model",
            "",
            f"# images: float [B, 3, 224, 224], {IMAGES[layout.normalize]}; modality: int64 [B], 0 sketch, 1 photo",
            f"model = load_model({str(folder)!r})",
            "embedding = model(images, modality).embedding  # [B, D]",
            "```",
            "",
        ]
    )


def _in_table(name: str) -> str:
    """A file name as it may stand between backticks in a table: one line, no bars, no backticks."""
    return "".join(c if c.isprintable() and c not in "`|" else "?" for c in name)


def _widths(model: EmbeddingModel) -> dict[str, Any]:
    return {
        "arch": model.arch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embedding_dim": model.embedding_dim,
        "num_classes": model.num_classes,
        "imagenet_classifier": model.imagenet_classifier is not None,
    }


def _classes_text(classes: int) -> str:
    if classes == 0:
        return "no classifier in the file"
    dataset = _dataset_of(classes)
    return f"{classes}{f', as many as {dataset} has seen classes' if dataset else ''}; their names are not in the file"


def _dataset_of(classes: int) -> str | None:
    """The published split with so many seen classes."""
    return next((name for name, split in BY_LISTS.items() if split.seen == classes), None)


def _check_finite(model: EmbeddingModel, path: Path) -> None:
    broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(f"{path} holds numbers that are not finite, in {len(broken)} of our tensors: {', '.join(broken)}")


def _check_free(out: Path, card: dict[str, Any]) -> None:
    """Refuse to write over anything but the same model, or what an interrupted import of it left."""
    there = [name for name in (WEIGHTS, CONFIG, README) if (out / name).exists()]
    if there and not ((out / WEIGHTS).is_file() and read_card(out) == card):
        raise InputError(
            f"--out {str(out)!r} already holds {', '.join(there)}, not of this checkpoint; choose another folder, or delete "
            "what is there"
        )
