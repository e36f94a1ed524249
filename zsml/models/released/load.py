"""`load_released`: from a published checkpoint to a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsml.errors import InputError, not_known
from zsml.models.create import create_model
from zsml.models.model import EmbeddingModel
from zsml.models.preprocessing import Preprocessing
from zsml.models.pretrained import pixel_statistics
from zsml.models.released.kind import kind_of
from zsml.models.released.layouts import LAYOUTS, Layout, Place, places
from zsml.models.weightfile import printable, read_torch_file, tensors_by_name

COUNTER = "num_batches_tracked"  # of BatchNorm; files from before it existed lack all of them


def load_released(path: str | os.PathLike[str], system: str) -> EmbeddingModel:
    """Read a checkpoint published by one of the systems into a model in eval mode.

    path: the file as torch.save wrote it, {"state_dict": ...} or the state dict alone, names with "module." (and, of
    SAKE, DSN and MATHM, "original_model.") in front or without, with or without the BatchNorm counters
    (num_batches_tracked).
    system: "sake" | "dsn" | "mathm" (CSE-ResNet50), "mems" (its SE-ResNeXt101 with domain-aware gates) or "sbka" (its
    ConvNeXt V2 Tiny student).

    Embedding width, number of classes and (MATHM) the number of stages with conditional gates follow from the file;
    logits and imagenet_logits are None where it holds no such head. `.embedding` [B, D] is what the network computes
    (of sbka: the normalised pooled features); the papers, except MEMS, L2-normalise it before comparing. Nothing but
    tensors and numbers is read from the file, and nothing in it is run. `.card` tells where the model came from
    (`zsml.models.io.read_card`), `.preprocessing` what its authors' evaluation does to images.

    Raises InputError for an unknown system, a file of another kind (says which it looks like), or names and shapes that
    do not fit: all missing keys, unexpected keys and wrong shapes are in one message.

    Source: Liu et al., SAKE, ICCV 2019; Wang et al., DSN, IJCAI 2021; Huang et al., MATHM, arXiv 2112.07966; MEMS, arXiv
    1812.04275; SBKA, arXiv 2312.10320.

    >>> load_released("no/such/model_best.pth.tar", "mathm")
    Traceback (most recent call last):
    zsml.errors.InputError: no/such/model_best.pth.tar is not there; give the path of a weight file
    """
    layout = _find(system)
    path = Path(path)
    content = read_torch_file(path)
    weights = {layout.with_prefix(k): v for k, v in tensors_by_name(content, path).items()}
    _check_kind(weights, system, path, imagenet_file=isinstance(content, dict) and "model" in content)
    try:
        options = layout.options(weights)
    except InputError as error:
        raise InputError(f"{path} does not fit {system}: {error}") from None
    with torch.device("meta"):  # names and shapes, and no numbers: those are all in the file
        model = create_model(layout.arch, **options)
    own = model.state_dict()
    counters = {} if any(name.endswith(COUNTER) for name in weights) else {name for name in own if name.endswith(COUNTER)}
    found = places({name: value for name, value in own.items() if name not in counters}, layout)
    _check_fit(weights, found, system, path)
    taken = {name: place.take(weights, own[name]) for name, place in found.items()}
    model.load_state_dict({**taken, **{name: torch.tensor(0) for name in counters}}, assign=True)
    model.card = {"system": system, "protocol": system, "source": _source(path)}
    pixels = (None, None) if layout.normalize == "none" else pixel_statistics(model.arch)
    model.preprocessing = Preprocessing(transform=layout.transform, mean=pixels[0], std=pixels[1])
    return model.eval()


def _find(system: str) -> Layout:
    if not isinstance(system, str):
        raise TypeError(f"system must be a str, got {type(system).__name__}")
    if system not in LAYOUTS:
        raise InputError(f"system {not_known(system, LAYOUTS)}")
    return LAYOUTS[system]


def _check_kind(weights: Mapping[str, Tensor], system: str, path: Path, *, imagenet_file: bool) -> None:
    """Name the mix-ups before listing hundreds of keys."""
    kind = kind_of(weights, imagenet_file=imagenet_file)
    if kind is None:
        first = ", ".join(printable(name) for name in list(weights)[:5])
        raise InputError(
            f"{path} is no {system} checkpoint: it holds no gate weights (se_module) of an SE-ResNet and no blocks of a "
            f"ConvNeXt; its first names are {first}"
        )
    if system not in kind.systems:
        raise InputError(f"{path} is {kind.what}, not a checkpoint of {LAYOUTS[system].title}; {kind.advice}")


def _check_fit(weights: Mapping[str, Tensor], found: Mapping[str, Place], system: str, path: Path) -> None:
    layout = {place.name: place.shapes for place in found.values() if place.shapes}  # in the order of our state dict
    shapes = [
        f"{name} is {list(weights[name].shape)} and must be {' or '.join(str(list(shape)) for shape in accepted)}"
        for name, accepted in layout.items()
        if name in weights and tuple(weights[name].shape) not in accepted
    ]
    dtypes = [
        f"{name} is {value.dtype}"
        for name, value in weights.items()
        if name in layout and not (value.is_floating_point() or name.endswith(COUNTER))
    ]
    problems = {
        "missing": [name for name in layout if name not in weights],
        "unexpected": [printable(name) for name in weights if name not in layout],
        "wrong shape": shapes,
        "not floating point": dtypes,
    }
    if any(problems.values()):
        listed = "; ".join(f"{what} ({len(names)}): {', '.join(names)}" for what, names in problems.items() if names)
        raise InputError(f"{path} does not fit {system}: {listed}")


def _source(path: Path) -> dict[str, Any]:
    """Which file it was, so that it can be told from others of the same name."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}
