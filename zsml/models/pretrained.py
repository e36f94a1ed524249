"""Starting a model from ImageNet weights."""

from __future__ import annotations

import os
import re
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.models.conditional import own_weights
from zsml.models.model import IMAGENET_CLASSES, EmbeddingModel
from zsml.models.weightfile import read_state_dict

# How to ask for ImageNet weights, for those of a file, and for none, by argument.
_SPELLED = {
    "pretrained": ("pretrained=True", "pretrained=PATH", "pretrained=False for random weights"),
    "--teacher": ("--teacher imagenet", "--teacher FILE", "--teacher random to try the machinery"),
}


def start_from_imagenet(
    model: EmbeddingModel,
    source: str,
    options: dict[str, Any],
    pretrained: bool | str | os.PathLike[str],
    *,
    split_classifier: bool = True,
) -> None:
    """The trunk gets timm's weights of `source`, (split_classifier) its bottleneck the ImageNet classifier's main directions.

    Without a bottleneck the ImageNet head, if there is one, is the ImageNet classifier.
    """
    net = load_imagenet(source, options, pretrained)
    weights, own = net.state_dict(), model.trunk.state_dict()
    kept = own_weights(model.trunk)
    model.trunk.load_state_dict({name: own[name] if name in kept else weights[name] for name in own})
    if model.bottleneck is not None and not split_classifier:
        return
    classifier = net.get_classifier()
    weight = getattr(classifier, "weight", None)  # [K, F]
    fits = weight is not None and weight.ndim == 2 and weight.shape[1] == model.num_features
    head = model.imagenet_classifier
    if head is not None:
        fits = fits and weight.shape[0] == IMAGENET_CLASSES
    with torch.no_grad():
        if model.bottleneck is None:
            if head is not None and fits:
                head.weight.copy_(weight)
                head.bias.copy_(torch.zeros(()) if classifier.bias is None else classifier.bias)
        elif fits:
            bottleneck, from_embedding = svd_bottleneck(weight, model.embedding_dim, rotate=head is None)
            model.bottleneck.weight.copy_(bottleneck)
            if head is not None:
                head.weight.copy_(from_embedding)


def svd_bottleneck(classifier: Tensor, dim: int, *, rotate: bool) -> tuple[Tensor, Tensor]:
    """Split a linear classifier W [K, F] into a bottleneck [D, F] and a classifier [K, D] on top of it.

        W = U S V^T;  rotate=False (SAKE, DSN): bottleneck = S_D V_D^T, classifier = U_D
        rotate=True (MATHM): bottleneck = s P S_D V_D^T, classifier = U_D P^T / s, s = sum(S) / sum(S_D)

    with S_D the D largest singular values and P a random orthogonal matrix (torch's global generator), which spreads
    them evenly over the embedding. classifier @ bottleneck is the best approximation of W of rank D in both. Beyond
    min(K, F) directions there are none left, and S_D is filled up with zeros. Computed in float64, returned in W's dtype.

    Source: Liu et al., SAKE, ICCV 2019; Huang et al., MATHM, arXiv 2112.07966 (published code of both).

    >>> import torch
    >>> w = torch.randn(10, 6)
    >>> bottleneck, classifier = svd_bottleneck(w, 6, rotate=True)
    >>> torch.allclose(classifier @ bottleneck, w, atol=1e-5)
    True
    """
    u, s, vt = torch.linalg.svd(classifier.detach().double(), full_matrices=False)  # [K, R], [R], [R, F]
    pad = max(0, dim - len(s))
    bottleneck = nn.functional.pad(s[:dim, None] * vt[:dim], (0, 0, 0, pad))  # [D, F]
    from_embedding = nn.functional.pad(u[:, :dim], (0, pad))  # [K, D]
    if rotate:
        scale = s.sum() / s[:dim].sum()
        p = nn.init.orthogonal_(torch.empty(dim, dim, dtype=torch.float64))
        bottleneck, from_embedding = scale * (p @ bottleneck), from_embedding @ p.T / scale
    return bottleneck.to(classifier.dtype), from_embedding.to(classifier.dtype)


def load_imagenet(
    source: str, options: dict[str, Any], weights: bool | str | os.PathLike[str], argument: str = "pretrained"
) -> nn.Module:
    """timm's whole network `source`, classifier included, with the ImageNet weights that `argument` asked for.

    Raises InputError, naming the argument, where they cannot be had or do not fit.
    """
    if weights is not True:
        try:
            overlay = {"state_dict": read_state_dict(weights), "custom_load": False}
            # through timm, which knows how to read the files of a model that changed its layout since
            return timm.create_model(source, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        except InputError as error:
            raise InputError(f"{argument}: {error}") from error
        except (RuntimeError, KeyError) as error:
            raise InputError(f"{argument}: {os.fspath(weights)} does not fit {source}: {shortened(error)}") from error
    try:
        return timm.create_model(source, pretrained=True, **options)
    except Exception as error:  # timm's downloaders raise half a dozen kinds, none of them documented
        config = timm.get_pretrained_cfg(source)
        where = (config and (config.url or config.hf_hub_id)) or f"timm's model card of {source}"
        asked, path, none = _SPELLED[argument]
        raise InputError(
            f"{asked}: timm could not get the weights of {source} ({type(error).__name__}: {error}); without a "
            f"network, fetch the file elsewhere ({where}) and pass {path}, or {none}"
        ) from error


def shortened(error: Exception, names: int = 5) -> str:
    """What torch says of weights that do not fit, with no more than a few of the names of each kind.

    >>> shortened(RuntimeError('Missing key(s) in state_dict: "a", "b", "c".'), names=2)
    'Missing key(s) in state_dict: "a", "b" and 1 more.'
    """

    def first(match: re.Match[str]) -> str:
        listed = match[0].split(", ")
        return ", ".join(listed[:names]) + (f" and {len(listed) - names} more" if len(listed) > names else "")

    text = re.sub(r'"[^"\n]*"(?:, "[^"\n]*")+', first, str(error))
    mismatches = [line for line in text.split("\n") if "size mismatch" in line]
    kept = [line for line in text.split("\n") if line not in mismatches[names:]]
    rest = [f"and {len(mismatches) - names} more of another size"] if len(mismatches) > names else []
    return " ".join(line.strip() for line in [*kept, *rest] if line.strip())


def pixel_statistics(arch: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation (red, green, blue) of the pixel values, from 0 to 1, that the weights of an architecture expect.

    ImageNet's for what timm does not know.

    >>> pixel_statistics("vit_base_patch32_clip_224.openai")[0]
    (0.48145466, 0.4578275, 0.40821073)
    """
    config = timm.get_pretrained_cfg(arch) if timm.is_model(arch.split(".")[0]) else None
    if config is None:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return tuple(config.mean), tuple(config.std)
