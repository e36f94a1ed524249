"""`load_released`: the checkpoints that the published systems share."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.models.conditional import STAGES
from zsml.models.create import create_model
from zsml.models.model import EmbeddingModel
from zsml.models.weightfile import read_torch_file, tensors_by_name

# SAKE and DSN publish one layout: the tag is one more input column of each gate's fc2, and there are biases and an
# ImageNet head. MATHM keeps the tag apart in fc_tag.
WITH_TAG_COLUMN = ("sake", "dsn")
SYSTEMS = ("mathm", *WITH_TAG_COLUMN)

# Published names of our modules; where a file leaves out "original_model." it is put back before comparing.
_PUBLISHED = {
    "trunk.": "original_model.",
    "bottleneck.": "original_model.second_last_linear.",
    "imagenet_classifier.": "original_model.last_linear.",
    "classifier.": "linear.",
}


def load_released(path: str | os.PathLike[str], system: str) -> EmbeddingModel:
    """Read a checkpoint published by one of the systems into a model in eval mode.

    path: the file as torch.save wrote it, {"state_dict": ...} or the state dict alone, names with "module." and
    "original_model." in front or without, with or without the BatchNorm counters (num_batches_tracked).
    system: "mathm" | "sake" | "dsn".

    Embedding width, number of classes and (MATHM) the number of stages with conditional gates follow from the file;
    logits and imagenet_logits are None where it holds no such head. `.embedding` [B, D] is the bottleneck output as it
    is; the papers normalise it before comparing. Nothing but tensors and numbers is read from the file.

    Raises InputError for an unknown system, a file of another kind, or names and shapes that do not fit: all missing
    keys, unexpected keys and wrong shapes are in one message.

    Source: Liu et al., SAKE, ICCV 2019; Wang et al., DSN, IJCAI 2021; Lu et al., MATHM, arXiv 2112.07966.

    >>> load_released("no/such/model_best.pth.tar", "mathm")
    Traceback (most recent call last):
    zsml.errors.InputError: no/such/model_best.pth.tar is not there; give the path of a weight file
    """
    if not isinstance(system, str):
        raise TypeError(f"system must be a str, got {type(system).__name__}")
    if system not in SYSTEMS:
        raise InputError(f"system {system!r} is not known; accepted are {', '.join(SYSTEMS)}")
    path = Path(path)
    weights = {_with_prefix(k): v for k, v in tensors_by_name(read_torch_file(path), path).items()}
    _check_kind(weights, system, path)
    with torch.random.fork_rng(devices=[]):  # reading a file is no reason to move the caller's random numbers
        model = _build(weights, system)
    counters = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    own = model.state_dict()
    if not any(name.endswith("num_batches_tracked") for name in weights):
        own = {name: value for name, value in own.items() if name not in counters}
    _check_fit(weights, _layout(own, system), system, path)
    model.load_state_dict({**model.state_dict(), **{name: _take(weights, name, system) for name in own}})
    return model.eval()


def _with_prefix(name: str) -> str:
    """A published name with "original_model." in front where it belongs."""
    return name if name.startswith(("original_model.", "linear.")) else f"original_model.{name}"


def _published(name: str) -> str:
    """The published name of one of our parameters."""
    ours = next(prefix for prefix in _PUBLISHED if name.startswith(prefix))
    return _PUBLISHED[ours] + name[len(ours) :]


def _check_kind(weights: dict[str, Tensor], system: str, path: Path) -> None:
    """Name the mix-ups before listing four hundred keys."""
    gate = "original_model.layer1.0.se_module"
    fc1, fc2 = weights.get(f"{gate}.fc1.weight"), weights.get(f"{gate}.fc2.weight")
    if fc1 is None or fc2 is None:
        raise InputError(
            f"{path} is no {system} checkpoint: it holds no gate weights (layer1.0.se_module.fc1 and fc2) of an "
            f"SE-ResNet50; its first names are {', '.join(list(weights)[:5])}"
        )
    if fc2.ndim == 4:
        raise InputError(
            f"{path} holds a plain SE-ResNet50, no {system} checkpoint; use create_model('cse_resnet50', "
            "pretrained=PATH, ...) to start from it"
        )
    has_tag = any(".fc_tag." in name for name in weights)
    has_column = fc1.ndim == 2 and fc2.ndim == 2 and fc2.shape[1] == fc1.shape[0] + 1
    if has_column and not has_tag and system not in WITH_TAG_COLUMN:
        raise InputError(f"{path} is a SAKE or DSN checkpoint, not {system}; pass system='sake'")
    if has_tag and not has_column and system in WITH_TAG_COLUMN:
        raise InputError(f"{path} is a MATHM checkpoint, not {system}; pass system='mathm'")


def _build(weights: dict[str, Tensor], system: str) -> EmbeddingModel:
    """A model of the widths found in the file; where it gives none, of widths the comparison will then report."""
    classifier = weights.get("linear.weight")
    bottleneck = weights.get("original_model.second_last_linear.weight")
    classes = 0 if classifier is None else max(1, len(classifier) if classifier.ndim else 1)
    dim = len(bottleneck) if bottleneck is not None and bottleneck.ndim else 512
    tag_column = system in WITH_TAG_COLUMN
    tagged = [stage for stage in range(1, STAGES + 1) for k in weights if f".layer{stage}." in k and ".fc_tag." in k]
    return create_model(
        "cse_resnet50",
        num_classes=classes,
        embedding_dim=max(1, dim),
        imagenet_head=tag_column and "original_model.last_linear.weight" in weights,
        classifier_bias=tag_column,
        cse_end=STAGES if tag_column else max(tagged, default=0),
    )


def _layout(own: dict[str, Tensor], system: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a file of the system must hold for the model with the state dict `own`."""
    layout = {}
    for name, value in own.items():
        shape = tuple(value.shape)
        if ".se_module.fc" in name and value.ndim == 4:  # published gates are linear layers, timm's are 1x1 convolutions
            shape = shape[:2]
        if system in WITH_TAG_COLUMN:
            if ".fc_tag." in name:
                continue
            if name.endswith(".fc2.weight"):
                shape = (shape[0], shape[1] + 1)
        layout[_published(name)] = shape
    return layout


def _check_fit(weights: dict[str, Tensor], layout: dict[str, tuple[int, ...]], system: str, path: Path) -> None:
    missing = [name for name in layout if name not in weights]
    unexpected = [name for name in weights if name not in layout]
    shapes = [
        f"{name} is {list(weights[name].shape)} and must be {list(shape)}"
        for name, shape in layout.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    dtypes = [
        f"{name} is {value.dtype}"
        for name, value in weights.items()
        if name in layout and not (value.is_floating_point() or name.endswith("num_batches_tracked"))
    ]
    found = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes, "not floating point": dtypes}
    if any(found.values()):
        listed = "; ".join(f"{what} ({len(names)}): {', '.join(names)}" for what, names in found.items() if names)
        raise InputError(f"{path} does not fit {system}: {listed}")


def _take(weights: dict[str, Tensor], name: str, system: str) -> Tensor:
    """The value of our parameter `name`, cut from the published tensor that holds it."""
    if system in WITH_TAG_COLUMN and ".fc_tag." in name:
        return weights[_published(name).replace(".fc_tag.", ".fc2.")][:, -1:]
    value = weights[_published(name)]
    if ".se_module.fc" in name and name.endswith(".weight") and ".fc_tag." not in name:
        columns = value.shape[1] - (system in WITH_TAG_COLUMN and ".fc2." in name)
        value = value[:, :columns, None, None]
    return value
