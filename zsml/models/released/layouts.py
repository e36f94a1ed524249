"""How each system publishes its network: the names of the tensors, their shapes, the widths to read off them.

One `Layout` per system. Everything else here answers one question: where in the file is the tensor that we call so?
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zsml.errors import InputError

STAGES = 4
MOST_WIDTH = 100_000  # rows of a bottleneck or classifier; more is a damaged file or a trap, and would fill the memory


@dataclass(frozen=True)
class Layout:
    """The published form of one system's network.

    title, paper: how people call it, where it is described. arch: our name of the architecture.
    options: from the tensors of a file to the rest of `create_model`'s arguments.
    heads: our heads, and the module that holds each in a file. prefix: what the names of all others begin with; a file
    may leave it out. renames: pattern and replacement, from timm's names of trunk parameters to the published ones.
    tag_column: the tag of a gate is the last input of fc2 in the file (else fc_tag, as in our models).
    normalize: how the images were scaled that the network was trained on, as in `zsml.data.load_dataset`.
    transform: what its evaluation does to images, a name of `zsml.data.build_transform`.
    gate_shapes: what follows the two axes of a gate's matrices: () of a linear layer, (1, 1) of a convolution.
    """

    title: str
    paper: str
    arch: str
    options: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    heads: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    renames: tuple[tuple[str, str], ...] = ()
    tag_column: bool = False
    normalize: str = "imagenet"
    transform: str = "test"
    gate_shapes: tuple[tuple[int, ...], ...] = ((),)

    def with_prefix(self, name: str) -> str:
        """A name of the file with the prefix in front where it belongs."""
        return name if name.startswith((self.prefix, "linear.")) else self.prefix + name

    def published(self, name: str) -> str:
        """The name in the file of one of our parameters."""
        part, _, rest = name.partition(".")
        if part != "trunk":
            return f"{self.heads[part]}.{rest}"
        for pattern, replacement in self.renames:
            rest = re.sub(pattern, replacement, rest)
        return self.prefix + rest


class Place(NamedTuple):
    """Where one of our tensors is in a file.

    name: the tensor that holds it. shapes: those this may have; none where another place of the same name says so.
    columns: which part of its second axis is ours; None for the whole tensor.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    columns: slice | None = None

    def take(self, weights: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """Our tensor, cut out of the published one: of the shape and dtype of `like`, with memory of its own."""
        value = weights[self.name].detach()
        part = value if self.columns is None else value[:, self.columns]
        return part.reshape(like.shape).to(like.dtype, copy=True, memory_format=torch.contiguous_format)


def places(own: Mapping[str, Tensor], layout: Layout) -> dict[str, Place]:
    """For every name in the state dict of one of our models: where in a file of this layout its tensor is."""
    return {name: _place(name, tuple(value.shape), own, layout) for name, value in own.items()}


def _place(name: str, shape: tuple[int, ...], own: Mapping[str, Tensor], layout: Layout) -> Place:
    published = layout.published(name)
    if ".mlp.grn." in name:  # published with the axes of the images it multiplies
        return Place(published, (shape, (1, 1, 1, *shape)))
    if ".se_module.fc" not in name or name.endswith(".bias"):
        return Place(published, (shape,))
    matrix, columns = shape[:2], None
    if layout.tag_column:
        if ".fc_tag." in name:
            return Place(published.replace(".fc_tag.", ".fc2."), (), slice(-1, None))
        if name.replace(".fc2.", ".fc_tag.") in own and ".fc2." in name:
            matrix, columns = (shape[0], shape[1] + 1), slice(None, -1)
    return Place(published, tuple(matrix + axes for axes in layout.gate_shapes), columns)


def _rows(weights: Mapping[str, Tensor], name: str, otherwise: int) -> int:
    """The output width of a linear layer; where the file has none that could be one, what the comparison then reports."""
    value = weights.get(name)
    if value is None:
        return otherwise
    rows = len(value) if value.ndim else 1
    if rows > MOST_WIDTH:
        raise InputError(f"{name} has {rows:,} rows; a width of more than {MOST_WIDTH:,} is not believed")
    return max(1, rows)


def _options_of_sake(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": _rows(weights, "linear.weight", 0),
        "embedding_dim": _rows(weights, "original_model.second_last_linear.weight", 512),
        "imagenet_head": "original_model.last_linear.weight" in weights,
        "classifier_bias": True,
        "cse_end": STAGES,
    }


def _options_of_mathm(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    tagged = [stage for stage in range(1, STAGES + 1) for k in weights if f".layer{stage}." in k and ".fc_tag." in k]
    return {
        **_options_of_sake(weights),
        "imagenet_head": False,
        "classifier_bias": False,
        "cse_end": max(tagged, default=0),
    }


def _options_of_mems(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"num_classes": 0, "embedding_dim": _rows(weights, "last_linear.weight", 512)}


def _options_of_sbka(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": _rows(weights, "linear.weight", 0),
        "embedding_dim": 768,
        "bottleneck": False,
        "imagenet_head": "head.weight" in weights,
        "classifier_bias": True,
    }


_CSE_HEADS = {
    "bottleneck": "original_model.second_last_linear",
    "imagenet_classifier": "original_model.last_linear",
    "classifier": "linear",
}
_CSE = {"arch": "cse_resnet50", "heads": _CSE_HEADS, "prefix": "original_model."}

LAYOUTS = {
    "mathm": Layout("MATHM", "Huang et al., arXiv 2112.07966", options=_options_of_mathm, **_CSE),
    "sake": Layout("SAKE", "Liu et al., ICCV 2019, arXiv 1904.03208", options=_options_of_sake, tag_column=True, **_CSE),
    "dsn": Layout("DSN", "Wang et al., IJCAI 2021, arXiv 2106.11841", options=_options_of_sake, tag_column=True, **_CSE),
    # The trunk has the names of Cadene's se_resnext101_32x4d, where timm took them from. The class centres, which are
    # MEMS's classifier, belong to its loss and are not in the file.
    "mems": Layout(
        "MEMS",
        "arXiv 1812.04275",
        arch="dase_resnext101",
        options=_options_of_mems,
        heads={"bottleneck": "last_linear"},
        tag_column=True,
        normalize="none",
        transform="mems-test",
        gate_shapes=((), (1, 1)),
    ),
    # The names of ConvNeXt V2's authors; "head" is the ImageNet classifier, "linear" that of the seen classes.
    "sbka": Layout(
        "SBKA",
        "arXiv 2312.10320",
        arch="convnextv2_tiny",
        options=_options_of_sbka,
        heads={"imagenet_classifier": "head", "classifier": "linear"},
        renames=(
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
            (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
            (r"\.conv_dw\.", ".dwconv."),
            (r"\.mlp\.fc", ".pwconv"),
            (r"\.mlp\.grn\.weight$", ".grn.gamma"),
            (r"\.mlp\.grn\.bias$", ".grn.beta"),
            (r"^head\.norm\.", "norm."),
        ),
    ),
}
