"""`create_model`: from an architecture's name to a model."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import timm
from torch import nn

from zsml.errors import InputError
from zsml.models.conditional import STAGES, ConditionalSENet
from zsml.models.dase import DASE_STAGES, DaseAlexNet
from zsml.models.model import EmbeddingModel
from zsml.models.pretrained import start_from_imagenet


class OwnTrunk(NamedTuple):
    """A trunk built here, not by timm."""

    source: str | None  # timm's network of the same weights by name, whose ImageNet weights fit; None: there are none
    build: Callable[..., nn.Module]
    options: dict[str, Any]  # that it accepts, and their defaults


def _conditional(source: str, **options: Any) -> OwnTrunk:
    return OwnTrunk(source, partial(ConditionalSENet, source), options)


CSE = {"cse_end": STAGES, "mid_act": "relu", "tag_init": "zero"}
DASE = {"cse_end": DASE_STAGES, "mid_act": "sigmoid", "tag_init": "zero"}
OURS = {
    "cse_resnet50": _conditional("legacy_seresnet50", **CSE),
    # The papers use no dropout.
    "se_resnet50": OwnTrunk(
        "legacy_seresnet50", partial(timm.create_model, "legacy_seresnet50", num_classes=0, drop_rate=0.0), {}
    ),
    "dase_resnext101": _conditional("legacy_seresnext101_32x4d", **DASE),
    "dase_resnet50": _conditional("legacy_seresnet50", **DASE),
    "dase_resnet18": _conditional("legacy_seresnet18", **DASE),
    "dase_alexnet": OwnTrunk(None, DaseAlexNet, {"published": False, "tag_init": "zero"}),
}
# Of these timm would take other weights than the papers started from.
PUBLISHED_SOURCES = {"convnextv2_tiny": "convnextv2_tiny.fcmae_ft_in1k"}
# What the model decides itself, or what would load weights past the checks here.
RESERVED = (
    "in_chans", "features_only", "out_indices", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay",
    "cache_dir", "pruned", "device", "dtype", "block", "layers",
)  # fmt: skip


def create_model(
    arch: str,
    *,
    num_classes: int,
    embedding_dim: int | None = 512,
    pretrained: bool | str | os.PathLike[str] = False,
    imagenet_head: bool = False,
    classifier_bias: bool = False,
    bottleneck: bool = True,
    gate: bool = False,
    **kwargs: Any,
) -> EmbeddingModel:
    """Build an embedding network: a trunk, a linear bottleneck and a classifier over the training classes.

        f = trunk(images, modality);  embedding = W f + b;  logits = V embedding (+ c)

    arch: one of
      - "cse_resnet50": SE-ResNet50 whose gates see the modality; options `cse_end` 0..4: how many of its stages, from the
        first, have such gates (4); `mid_act` "relu" or "sigmoid": the activation inside the gates; `tag_init` "zero" or
        "random" (see below);
      - "se_resnet50": the same without the modality;
      - "dase_resnext101", "dase_resnet50", "dase_resnet18": SE-ResNeXt101 32x4d and SE-ResNets with the gates of DASE
        (MEMS): a sigmoid in the middle, the modality in stages 1 to 3; options as cse_resnet50;
      - "dase_alexnet": AlexNet with such gates; options `published` (False): with the gates of the released code, which do
        not see the modality; `tag_init`. There are no ImageNet weights of it;
      - "resnet50" or any other timm model name, whose timm options (`drop_path_rate`, `img_size`, ...) are accepted too.
    num_classes: C; 0 builds no classifier and gives `logits=None`. embedding_dim: D.
    imagenet_head adds a 1000-way classifier on the embedding (`imagenet_logits`), for distillation; classifier_bias
    gives the classifier a bias (SAKE, DSN and SBKA: yes, MATHM: no).
    bottleneck=False: the embedding is f itself, and embedding_dim must be its width, or None (SBKA). gate=True: f goes through a
    `FeatureGate`, which tells the modality to a trunk that does not see it.

    pretrained: True lets timm fetch its ImageNet weights (over the network unless they are in its cache); a path loads
    the same file (.pth or .safetensors) from disk. The bottleneck then starts from the singular value decomposition of
    the ImageNet classifier (`svd_bottleneck`; without a bottleneck the ImageNet head is that classifier, bias included)
    and the tag weights start at zero, so that at the start both modalities see the plain ImageNet network. Of weights that
    have no linear classifier (CLIP, DINO), or an ImageNet head's not of 1000 classes, what is on the trunk starts random.
    `tag_init="random"`, the published start of DASE: the second layer of the gates that see the modality, their tag
    weights and the bottleneck (with an ImageNet head on it) start random, whatever the file holds. False: random weights.

    Returns an `EmbeddingModel`; `model(images, modality)` gives a `ModelOutput`.

    Raises InputError for an unknown arch, a value out of range, or weights that cannot be had or do not fit (all
    missing keys, unexpected keys and wrong shapes in one message); TypeError for a wrong type or an unknown option.

    Source: Liu et al., SAKE, ICCV 2019; Huang et al., MATHM, arXiv 2112.07966; MEMS, arXiv 1812.04275.

    >>> import torch
    >>> model = create_model("cse_resnet50", num_classes=100, embedding_dim=64)
    >>> out = model.eval()(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1]))
    >>> out.embedding.shape, out.logits.shape, out.imagenet_logits
    (torch.Size([2, 64]), torch.Size([2, 100]), None)
    """
    _check_arch(arch)
    if embedding_dim is None and bottleneck is not False:
        raise TypeError("embedding_dim must be an int, got None, which leaves it to the backbone and needs bottleneck=False")
    for name, value, least in (
        ("num_classes", num_classes, 0),
        ("embedding_dim", 1 if embedding_dim is None else embedding_dim, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    flags = {"imagenet_head": imagenet_head, "classifier_bias": classifier_bias, "bottleneck": bottleneck, "gate": gate}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    if not isinstance(pretrained, (bool, str, os.PathLike)):
        raise TypeError(f"pretrained must be True, False or the path of a weight file, got {pretrained!r}")
    config = {
        "arch": arch,
        "num_classes": num_classes,
        "embedding_dim": embedding_dim,
        **flags,
        **_json_able(kwargs),
    }
    trunk = _build_trunk(arch, kwargs)
    conditional, features = getattr(trunk, "conditional", False), getattr(trunk, "head_hidden_size", None) or trunk.num_features
    if gate and conditional:
        raise InputError(f"gate=True is for backbones that do not see the modality; {arch} has gates of its own")
    if embedding_dim is None:
        embedding_dim = config["embedding_dim"] = features
    if not bottleneck and embedding_dim != features:
        raise InputError(f"embedding_dim must be {features}, the width of {arch}, with bottleneck=False; got {embedding_dim}")
    model = EmbeddingModel(
        trunk,
        config,
        conditional=conditional,
        features=features,
        fixed_size=None if arch in OURS else _fixed_size(trunk, kwargs),
    )
    if pretrained is not False:
        source, options = imagenet_source(arch), {} if arch in OURS else kwargs
        if source is None:
            raise InputError(f"pretrained: there are no ImageNet weights of {arch}; pass pretrained=False for random weights")
        start_from_imagenet(model, source, options, pretrained, split_classifier=kwargs.get("tag_init") != "random")
    return model


def imagenet_source(arch: str) -> str | None:
    """timm's name of the network whose ImageNet weights fit an architecture; None if there are none.

    >>> imagenet_source("cse_resnet50"), imagenet_source("resnet50")
    ('legacy_seresnet50', 'resnet50')
    """
    return OURS[arch].source if arch in OURS else PUBLISHED_SOURCES.get(arch, arch)


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
        accepted = OURS[arch].options
        unknown = sorted(set(options) - set(accepted))
        if unknown:
            listed = ", ".join(accepted) or "none"
            raise TypeError(f"{arch} has no option {', '.join(unknown)}; its own options are: {listed}")
        return OURS[arch].build(**{**accepted, **options})
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
    if not trunk.pretrained_cfg.get("fixed_input_size"):
        return None
    if options.get("dynamic_img_size") or not options.get("strict_img_size", True):
        return None
    size = options.get("img_size") or trunk.pretrained_cfg["input_size"][-2:]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
