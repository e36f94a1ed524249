"""The ImageNet network that a student is kept close to while it learns the seen classes."""

from __future__ import annotations

import os
from typing import Any

import timm
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.models.create import OURS
from zsml.models.model import IMAGENET_CLASSES
from zsml.models.pretrained import load_imagenet

# A student that sees the modality was itself started from a network that does not.
PLAIN = {arch: trunk.source for arch, trunk in OURS.items() if trunk.source is not None}
PLAIN["convnextv2_tiny"] = "convnextv2_tiny.fcmae_ft_in1k"


class Teacher(nn.Module):
    """A frozen ImageNet classifier: images float [B, 3, H, W] to logits float [B, 1000]; build one with `build_teacher`.

    It runs as at test time whatever `train()` says, and none of its parameters asks for a gradient.
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


def build_teacher(arch: str, source: str | os.PathLike[str], **options: Any) -> Teacher:
    """The frozen ImageNet network of an architecture, with its 1000-way classifier.

        z_t = net(images)        images: float [B, 3, H, W], ImageNet-normalised; z_t: float [B, 1000]

    arch: as of the student. Of "cse_resnet50" the teacher is plain SE-ResNet50: with its tag weights at zero, as ImageNet
    leaves them, the tag has no influence. Any timm name with an ImageNet classifier is accepted, with its timm `options`.
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
    plain = PLAIN.get(arch, arch)
    if not timm.is_model(plain.split(".")[0]):
        raise InputError(f"arch {arch!r} has no teacher: it must be one of {', '.join(PLAIN)} or a timm model name")
    if source == "random":
        net = timm.create_model(plain, num_classes=IMAGENET_CLASSES, **options)
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
