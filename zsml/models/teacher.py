"""The ImageNet network that a student is kept close to while it learns the seen classes."""

from __future__ import annotations

import os
from typing import Any

import timm
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.models.create import imagenet_source
from zsml.models.model import IMAGENET_CLASSES
from zsml.models.pretrained import load_imagenet

PARTS = ("none", "head", "all")


class Teacher(nn.Module):
    """A frozen ImageNet classifier: images float [B, 3, H, W] to logits float [B, 1000]; build one with `build_teacher`.

    It runs as at test time whatever `train()` says, and none of its parameters asks for a gradient, until somebody lets some
    of them (`parts`).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    def parts(self, what: str) -> list[nn.Parameter]:
        """The parameters of "none" of it, of its "head" (the 1000-way classifier), or of "all"; InputError for another word."""
        if what not in PARTS:
            raise InputError(f"what must be one of {', '.join(PARTS)}, got {what!r}")
        return [] if what == "none" else list((self.net if what == "all" else self.net.get_classifier()).parameters())


def build_teacher(arch: str, source: str | os.PathLike[str], **options: Any) -> Teacher:
    """The frozen ImageNet network of an architecture, with its 1000-way classifier.

        z_t = net(images)        images: float [B, 3, H, W], ImageNet-normalised; z_t: float [B, 1000]

    arch: as of the student. Of "cse_resnet50" the teacher is plain SE-ResNet50: with its tag weights at zero, as ImageNet
    leaves them, the tag has no influence. Any other arch has timm's network of the same ImageNet weights, if there is one
    with their classifier, built with its timm `options`.
    source: "imagenet" (timm's weights, fetched when not cached), the path of a weight file (.pth or .safetensors), or
    "random" (torch's global generator), to try the machinery.

    Raises InputError for an unknown arch, weights that cannot be had or do not fit (names --teacher), or weights of
    another number of classes; TypeError for a wrong type.

    Source: Liu et al., SAKE, ICCV 2019.

    >>> import torch
    >>> teacher = build_teacher("test_resnet", "random").train()
    >>> teacher(torch.zeros(2, 3, 64, 64)).shape, teacher.training
    (torch.Size([2, 1000]), False)
    """
    if not isinstance(arch, str):
        raise TypeError(f"arch must be a str, got {type(arch).__name__}")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be 'imagenet', 'random' or the path of a weight file, got {source!r}")
    plain = imagenet_source(arch)
    if plain is None or not timm.is_model(plain.split(".")[0]):
        raise InputError(f"arch {arch!r} has no teacher: there are no ImageNet weights of it")
    if source == "random":
        try:
            net = timm.create_model(plain, num_classes=IMAGENET_CLASSES, **options)
        except RuntimeError as error:
            raise InputError(f"arch {arch!r} has no teacher: {error}") from error
    elif source == "":
        raise InputError("--teacher is missing: imagenet, the path of a weight file, or random to try the machinery")
    else:
        net = load_imagenet(plain, options, True if source == "imagenet" else source, argument="--teacher")
    if net.num_classes != IMAGENET_CLASSES:
        raise InputError(
            f"--teacher: {plain} tells {net.num_classes} classes apart, and a teacher must know the {IMAGENET_CLASSES} of "
            "ImageNet; choose an arch whose weights have that classifier (timm names them in1k)"
        )
    return Teacher(net)
