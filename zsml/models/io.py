"""Models on disk: one safetensors file, its configuration inside, replaced as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from zsml.errors import InputError
from zsml.files import write_atomic
from zsml.models.create import create_model
from zsml.models.model import EmbeddingModel
from zsml.models.preprocessing import Preprocessing
from zsml.models.weightfile import is_safetensors

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = "zsml-model-1"


def save_model(model: EmbeddingModel, folder: str | os.PathLike[str]) -> None:
    """Write a model to folder/model.safetensors, and its configuration for people to read to folder/config.json.

    The configuration that `load_model` uses is in the header of the weight file, so that no crash can separate the two. So
    are the model's card, if it has one (see `read_card`), and its preprocessing, which config.json shows too. Each file is
    written beside its place, flushed to the disk and renamed: a save that fails (disk full, power cut) leaves the previous
    model intact. The folder is made if missing.

    Raises TypeError for anything but an `EmbeddingModel` (unwrap DistributedDataParallel or torch.compile first) and for
    a card that JSON cannot hold, InputError where the folder cannot be written.

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
    metadata = {"format": FORMAT, "config": json.dumps(model.config)}
    if model.card is not None:
        metadata["card"] = _card_text(model.card)
    shown = dict(model.config)
    if model.preprocessing is not None:
        if not isinstance(model.preprocessing, Preprocessing):
            raise TypeError(f"model.preprocessing must be a Preprocessing or None, got {type(model.preprocessing).__name__}")
        shown["preprocessing"] = model.preprocessing.to_dict()
        metadata["preprocessing"] = json.dumps(shown["preprocessing"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / WEIGHTS, save(tensors, metadata=metadata))
        write_atomic(folder / CONFIG, (json.dumps(shown, indent=2) + "\n").encode())
    except OSError as error:
        raise InputError(
            f"folder {folder} cannot be written ({error}); make room or choose another one. A model saved there before is intact"
        ) from error


def load_model(folder: str | os.PathLike[str]) -> EmbeddingModel:
    """Read the model that `save_model` wrote to folder, in eval mode on the CPU, weights in float32, with its card
    and its preprocessing.

    Raises InputError where the folder holds no such model, the file is of another kind, or its weights do not fit its
    configuration (all missing keys, unexpected keys and wrong shapes in one message).
    """
    path = Path(folder) / WEIGHTS
    metadata = _read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    try:
        with torch.random.fork_rng(devices=[]):  # reading a file is no reason to move the caller's random numbers
            config = {**json.loads(metadata["config"]), "pretrained": False}
            _check_size(config, sum(value.numel() for value in weights.values()))
            model = create_model(**config)
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has a configuration that cannot be used: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{path} does not fit its configuration: {error}") from error
    model.card, model.preprocessing = _card(metadata, path), _preprocessing(metadata, path)
    return model.eval()


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Where the model in folder came from, without reading its weights; None where nobody said.

    It is `model.card`, which `save_model` writes. Training notes system, protocol, paper and commit; `save_pretrained` adds
    the evaluation; a model that `load_released` read has

        {"system": "sake",              # whose checkpoint it is, a name of `zsml systems`
         "protocol": "sake",            # preset of zsml.metrics that its authors' evaluation follows
         "source": {"file": "model_best.pth.tar", "bytes": 105000000, "sha256": "9f86d08..."}}

    Raises InputError where the folder holds no model, or a card that cannot be read.

    >>> import tempfile
    >>> model = create_model("resnet18", num_classes=0, embedding_dim=8)
    >>> model.card = {"system": "sake", "protocol": "sake"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, folder)
    ...     read_card(folder)
    {'system': 'sake', 'protocol': 'sake'}
    """
    path = Path(folder) / WEIGHTS
    return _card(_read_header(path), path)


def read_preprocessing(folder: str | os.PathLike[str]) -> Preprocessing | None:
    """What is done to images before the model in folder sees them, without reading its weights; None where it was not saved.

    Raises InputError where the folder holds no model, or a preprocessing that cannot be used.
    """
    path = Path(folder) / WEIGHTS
    return _preprocessing(_read_header(path), path)


def weights_sha256(model: EmbeddingModel) -> str:
    """SHA-256 of a model's numbers, by name: the same wherever and in whatever file they are.

    >>> model = create_model("resnet18", num_classes=0, embedding_dim=8)
    >>> weights_sha256(model) == weights_sha256(model.to(memory_format=torch.channels_last))
    True
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_size(config: dict[str, Any], held: int) -> None:
    """Refuse a configuration of far more numbers than the file holds, before memory is taken for them."""
    try:
        with torch.device("meta"):  # names and shapes alone
            wanted = sum(value.numel() for value in create_model(**config).state_dict().values())
    except Exception:  # what cannot be built in this way is built, or refused, in the usual one
        return
    if wanted > 2 * held + 1_000_000:
        raise InputError(f"its model has {wanted:,} numbers, and the file holds {held:,}")


def _read_header(path: Path) -> dict[str, str]:
    """The metadata of a weight file that `save_model` wrote."""
    if not path.is_file():
        raise InputError(f"folder {path.parent} holds no {WEIGHTS}; give the folder that zsml.models.save_model wrote")
    if not is_safetensors(path):
        raise InputError(f"{path} is no safetensors file; a published checkpoint is read by zsml.models.load_released")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} was not written by zsml.models.save_model (format {metadata.get('format')!r}, not {FORMAT!r}); "
            "ImageNet weights go to create_model(..., pretrained=PATH)"
        )
    return metadata


def _card(metadata: dict[str, str], path: Path) -> dict[str, Any] | None:
    if "card" not in metadata:
        return None
    try:
        card = json.loads(metadata["card"])
    except ValueError as error:
        raise InputError(f"{path} has a card that cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise InputError(f"{path} has a card that cannot be read: {type(card).__name__}, expected a dict")
    return card


def _preprocessing(metadata: dict[str, str], path: Path) -> Preprocessing | None:
    if "preprocessing" not in metadata:
        return None
    try:
        return Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
    except ValueError as error:
        raise InputError(f"{path} cannot be used: {error}") from error


def _card_text(card: Any) -> str:
    if not isinstance(card, dict):
        raise TypeError(f"model.card must be a dict or None, got {type(card).__name__}")
    try:
        return json.dumps(card)
    except (TypeError, ValueError) as error:
        raise TypeError(f"model.card must hold plain values only (number, text, list, dict): {error}") from None
