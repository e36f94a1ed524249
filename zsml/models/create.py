"""`create_model`: from an architecture's name to a model."""

from __future__ import annotations

import difflib
import json
import os
from typing import Any

import timm
from timm.models.senet import SENet
from torch import nn

from zsml.errors import InputError
from zsml.models.conditional import STAGES, ConditionalSEResNet50
from zsml.models.model import EmbeddingModel
from zsml.models.pretrained import start_from_imagenet

SE_SOURCE = "legacy_seresnet50"  # timm's name of SE-ResNet50 with the original Caffe-style weights
OURS = ("cse_resnet50", "se_resnet50")
# What the model decides itself, or what would load weights past the checks here.
RESERVED = (
    "in_chans", "features_only", "out_indices", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay",
    "cache_dir", "pruned", "device", "dtype", "block", "layers",
)  # fmt: skip


def create_model(
    arch: str,
    *,
    num_classes: int,
    embedding_dim: int = 512,
    pretrained: bool | str | os.PathLike[str] = False,
    imagenet_head: bool = False,
    classifier_bias: bool = False,
    **kwargs: Any,
) -> EmbeddingModel:
    """Build an embedding network: a trunk, a linear bottleneck and a classifier over the training classes.

        f = trunk(images, modality);  embedding = W f + b;  logits = V embedding

    arch: "cse_resnet50" (SE-ResNet50 whose gates see the modality; option `cse_end` 0..4: how many of its stages, from
    the first, have such gates), "se_resnet50" (the same without), "resnet50" or any other timm model name, whose timm
    options (`drop_path_rate`, `img_size`, ...) are accepted too.
    num_classes: C; 0 builds no classifier and gives `logits=None`. embedding_dim: D.
    imagenet_head adds a 1000-way classifier on the embedding (`imagenet_logits`), for distillation; classifier_bias
    gives the classifier a bias (SAKE and DSN: yes, MATHM: no).

    pretrained: True lets timm fetch its ImageNet weights (over the network unless they are in its cache); a path loads
    the same file (.pth or .safetensors) from disk. The bottleneck then starts from the singular value decomposition of
    the ImageNet classifier (`svd_bottleneck`) and the tag weights start at zero, so that at the start both modalities
    see the plain ImageNet network. False: random weights.

    Returns an `EmbeddingModel`; `model(images, modality)` gives a `ModelOutput`.

    Raises InputError for an unknown arch, a value out of range, or weights that cannot be had or do not fit (all
    missing keys, unexpected keys and wrong shapes in one message); TypeError for a wrong type or an unknown option.

    Source: Liu et al., SAKE, ICCV 2019; Lu et al., MATHM, arXiv 2112.07966.

    >>> import torch
    >>> model = create_model("cse_resnet50", num_classes=100, embedding_dim=64)
    >>> out = model.eval()(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1]))
    >>> out.embedding.shape, out.logits.shape, out.imagenet_logits
    (torch.Size([2, 64]), torch.Size([2, 100]), None)
    """
    _check_arch(arch)
    for name, value, least in (("num_classes", num_classes, 0), ("embedding_dim", embedding_dim, 1)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    for name, value in (("imagenet_head", imagenet_head), ("classifier_bias", classifier_bias)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    if not isinstance(pretrained, (bool, str, os.PathLike)):
        raise TypeError(f"pretrained must be True, False or the path of a weight file, got {pretrained!r}")
    config = {
        "arch": arch,
        "num_classes": num_classes,
        "embedding_dim": embedding_dim,
        "imagenet_head": imagenet_head,
        "classifier_bias": classifier_bias,
        **_json_able(kwargs),
    }
    trunk = _build_trunk(arch, kwargs)
    model = EmbeddingModel(
        trunk,
        config,
        conditional=isinstance(trunk, ConditionalSEResNet50),
        features=getattr(trunk, "head_hidden_size", None) or trunk.num_features,
        fixed_size=_fixed_size(trunk, kwargs),
    )
    if pretrained is not False:
        source, options = (SE_SOURCE, {}) if arch in OURS else (arch, kwargs)
        start_from_imagenet(model, source, options, pretrained)
    return model


def _check_arch(arch: str) -> None:
    if not isinstance(arch, str):
        raise TypeError(f"arch must be a str, got {type(arch).__name__}")
    if arch in OURS or timm.is_model(arch.split(".")[0]):
        return
    close = difflib.get_close_matches(arch, [*OURS, *timm.list_models()], n=5)
    hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
    raise InputError(f"arch {arch!r} is not known; accepted are {', '.join(OURS)} and every timm model name: {hint}")


def _json_able(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"option {name} must be a plain value (number, text, list) that a configuration file can hold, "
                f"got {type(value).__name__}"
            ) from None
    return options


def _build_trunk(arch: str, options: dict[str, Any]) -> nn.Module:
    """Images (and tag) to pooled features [B, F]."""
    if arch in OURS:
        accepted = ("cse_end",) if arch == "cse_resnet50" else ()
        unknown = sorted(set(options) - set(accepted))
        if unknown:
            listed = ", ".join(accepted) or "none"
            raise TypeError(f"{arch} has no option {', '.join(unknown)}; its own options are: {listed}")
        if arch == "se_resnet50":
            return timm.create_model(SE_SOURCE, num_classes=0, drop_rate=0.0)  # the papers use no dropout
        cse_end = options.get("cse_end", STAGES)
        if isinstance(cse_end, bool) or not isinstance(cse_end, int):
            raise TypeError(f"cse_end must be an int, got {type(cse_end).__name__}")
        if not 0 <= cse_end <= STAGES:
            raise InputError(f"cse_end must be 0 to {STAGES}, the number of stages with conditional gates, got {cse_end}")
        return ConditionalSEResNet50(cse_end)
    reserved = sorted(set(options) & set(RESERVED))
    if reserved:
        raise TypeError(f"option {', '.join(reserved)} cannot be passed on to timm; create_model settles it itself")
    try:
        return timm.create_model(arch, num_classes=0, **options)
    except TypeError as error:
        raise TypeError(f"{arch} does not accept the options {options}: {error}") from error
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(f"{arch} cannot be built with the options {options}: {error}") from error


def _fixed_size(trunk: nn.Module, options: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width where the trunk takes only one size of image (vision transformers), else None."""
    if isinstance(trunk, SENet) or not trunk.pretrained_cfg.get("fixed_input_size"):
        return None
    if options.get("dynamic_img_size") or not options.get("strict_img_size", True):
        return None
    size = options.get("img_size") or trunk.pretrained_cfg["input_size"][-2:]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
