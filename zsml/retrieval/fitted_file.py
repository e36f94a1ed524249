"""The file of a fitted hasher: its float64 tensors and its settings, as safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from zsml.errors import InputError
from zsml.files import write_atomic


def write_fitted(path: Path, kind: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write the file whole or not at all; ``kind`` marks it."""
    data = to_safetensors({k: t.cpu() for k, t in tensors.items()}, {"kind": kind, "settings": json.dumps(settings)})
    write_atomic(path, data)


def read_fitted(path: Path, kind: str, hasher: str) -> tuple[dict[str, Tensor], str]:
    """The tensors, on the CPU, and the settings as JSON text; InputError if class ``hasher`` did not write the file."""
    if not path.is_file():
        raise InputError(f"no {hasher} file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file as {hasher}.save writes it ({error})") from error
    if about.get("kind") != kind:
        raise InputError(f"{path} is of kind {about.get('kind')!r}, not {kind!r}; write one with {hasher}.save")
    return tensors, about.get("settings", "")


def check_fitted(path: Path, tensors: dict[str, Tensor], shapes: dict[str, list[Any]]) -> None:
    """Raise InputError unless the file held exactly these shapes, in finite float64."""
    found = {name: list(t.shape) for name, t in tensors.items()}
    if found != shapes:
        raise InputError(f"{path} must hold exactly the tensors {shapes}, got {found}")
    for name, t in tensors.items():
        if t.dtype != torch.float64 or not torch.isfinite(t).all():
            raise InputError(f"{path}: {name} must be finite float64, got {t.dtype}")
