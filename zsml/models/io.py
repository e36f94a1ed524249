"""Models on disk: one safetensors file, its configuration inside, replaced as a whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from zsml.errors import InputError
from zsml.files import write_atomic
from zsml.models.create import create_model
from zsml.models.model import EmbeddingModel
from zsml.models.weightfile import is_safetensors

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = "zsml-model-1"


def save_model(model: EmbeddingModel, folder: str | os.PathLike[str]) -> None:
    """Write a model to folder/model.safetensors, and its configuration for people to read to folder/config.json.

    The configuration that `load_model` uses is in the header of the weight file, so that no crash can separate the two.
    Each file is written beside its place, flushed to the disk and renamed: a save that fails (disk full, power cut)
    leaves the previous model intact. The folder is made if missing.

    Raises TypeError for anything but an `EmbeddingModel` (unwrap DistributedDataParallel or torch.compile first), and
    InputError where the folder cannot be written.

    >>> import tempfile
    >>> model = create_model("resnet18", num_classes=3, embedding_dim=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, folder)
    ...     load_model(folder).config == model.config
    True
    """
    if not isinstance(model, EmbeddingModel):
        raise TypeError(
            f"model must be what zsml.models.create_model returns, got {type(model).__name__}; of a wrapped model pass "
            "the one inside (.module, ._orig_mod)"
        )
    folder = Path(folder)
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    config = json.dumps(model.config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": FORMAT, "config": config}))
        write_atomic(folder / CONFIG, (json.dumps(model.config, indent=2) + "\n").encode())
    except OSError as error:
        raise InputError(
            f"folder {folder} cannot be written ({error}); make room or choose another one. A model saved there before is intact"
        ) from error


def load_model(folder: str | os.PathLike[str]) -> EmbeddingModel:
    """Read the model that `save_model` wrote to folder, in eval mode on the CPU, weights in float32.

    Raises InputError where the folder holds no such model, the file is of another kind, or its weights do not fit its
    configuration (all missing keys, unexpected keys and wrong shapes in one message).
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise InputError(f"folder {folder} holds no {WEIGHTS}; give the folder that zsml.models.save_model wrote")
    if not is_safetensors(path):
        raise InputError(f"{path} is no safetensors file; a published checkpoint is read by zsml.models.load_released")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} was not written by zsml.models.save_model (format {metadata.get('format')!r}, not {FORMAT!r}); "
            "ImageNet weights go to create_model(..., pretrained=PATH)"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # reading a file is no reason to move the caller's random numbers
            model = create_model(**{**json.loads(metadata["config"]), "pretrained": False})
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has a configuration that cannot be used: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{path} does not fit its configuration: {error}") from error
    return model.eval()
