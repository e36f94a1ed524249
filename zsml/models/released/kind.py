"""What a file of weights looks like, told from its names: for the one sentence that explains a mix-up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Kind(NamedTuple):
    """systems: those that publish such files, if any. what: in words. advice: what to do with the file."""

    systems: tuple[str, ...]
    what: str
    advice: str


_START = "use create_model({!r}, pretrained=PATH, ...) to start from it"
MATHM = Kind(("mathm",), "a MATHM checkpoint", "pass system='mathm'")
SAKE = Kind(("sake", "dsn"), "a SAKE or DSN checkpoint", "pass system='sake' or system='dsn'")
MEMS = Kind(("mems",), "a MEMS checkpoint", "pass system='mems'")
SBKA = Kind(("sbka",), "an SBKA checkpoint", "pass system='sbka'")
SE_RESNET50 = Kind((), "a plain SE-ResNet50", _START.format("cse_resnet50"))
SE_RESNEXT101 = Kind((), "a plain SE-ResNeXt101", _START.format("dase_resnext101"))
CONVNEXT_V2 = Kind((), "a plain ConvNeXt V2", _START.format("convnextv2_tiny"))
CONVNEXT = Kind((), "a ConvNeXt of the first version", "SBKA's networks are of the second, with grn in every block")
RESNET = Kind((), "a plain ResNet without gates", "its ImageNet weights go to create_model(..., pretrained=PATH)")
OURS = Kind((), "a state dict of zsml's own", "save the model with zsml.models.save_model, and read it with load_model")


def kind_of(weights: Mapping[str, Tensor], *, imagenet_file: bool = False) -> Kind | None:
    """What the tensors of a file, names without "module." in front, most look like; None if like nothing known here.

    A few missing or mis-shaped tensors do not change the answer: what speaks for each kind is counted.
    imagenet_file: the file is wrapped as its authors wrap ImageNet weights.
    """
    names = [name.removeprefix("original_model.") for name in weights]
    if sum(name.startswith(("trunk.", "bottleneck.", "classifier.")) for name in names) > len(names) / 2:
        return OURS
    if sum(".dwconv." in name or name.startswith("downsample_layers.") for name in names) > 1:
        if not any(".grn." in name for name in names):
            return CONVNEXT
        # the student's ImageNet head and trunk are all that an ImageNet file holds: only its wrapping tells them apart
        return CONVNEXT_V2 if imagenet_file and not any(name.startswith("linear.") for name in names) else SBKA
    if not any(".se_module." in name for name in names):
        return RESNET if sum(bool(re.match(r"layer\d\.\d+\.(conv|bn)\d\.", name)) for name in names) > 1 else None
    return _kind_of_gates(weights, names)


def _kind_of_gates(weights: Mapping[str, Tensor], names: list[str]) -> Kind:
    """Whose squeeze-and-excitation network: by depth, and by where its gates keep the tag."""
    deep = len({name.split(".")[1] for name in names if re.match(r"layer3\.\d+\.", name)}) > 12  # of 6 or 23 blocks
    tagged = sum(".fc_tag." in name for name in names)
    columns = convolutions = 0
    for name, fc2 in weights.items():
        fc1 = weights.get(name.replace(".fc2.", ".fc1.")) if name.endswith(".se_module.fc2.weight") else None
        if fc1 is not None and fc1.ndim >= 2 and fc2.ndim >= 2:
            columns += fc2.shape[1] == fc1.shape[0] + 1
            convolutions += fc2.ndim == 4
    if deep:
        return MEMS if columns > 1 else SE_RESNEXT101
    if columns > tagged:
        return SAKE
    return SE_RESNET50 if convolutions > 1 and not tagged else MATHM
