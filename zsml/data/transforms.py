"""From a PIL image to what the network takes, by name: evaluation, the published augmentations, and one of our own.

Everything random draws from torch's global generator; ``ImageDataset.set_epoch`` makes it reproducible item by item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from zsml.data.affine import MathmPhoto, MathmSketch, SakeAffine
from zsml.data.dataset import MODALITIES, Transform
from zsml.errors import InputError

# Mean and deviation of each colour (R, G, B) in [0, 1] that a network's inputs are normalised with.
NORMALIZE: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": None,
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
Normalize = str | tuple[Sequence[float], Sequence[float]]
Steps = list[torch.nn.Module]


def build_transform(name: str, modality: str | int, image_size: int, *, normalize: Normalize = "imagenet") -> Transform:
    """A function from a PIL RGB image to a float32 tensor [3, S, S]: ``(image / 255 - mean) / std`` by colour.

    test        resize to S x S without keeping the aspect ratio (the protocol of every published system)
    none        the same, under the name that a training without augmentation asks for
    train       for training from random weights: flips, crops and colours for photos, small affine moves on white for sketches
    sake        the literal augmentation of SAKE: an affine warp about the top-left corner, filled with black
    sake-centred  the same about the centre, filled with white (sketches) or the mean colour (photos)
    dsn         three tensors [3, 3, S, S]: that of sake, and two views of it with flips and colour changes
    mathm       MATHM's: photos flipped, scaled, moved and turned; sketches turned, scaled and moved on the sheet
    mathm-released  the same as its code does it, where photos turn by half a degree at most
    mems        that of MEMS (arXiv 1812.04275): photos flipped; sketches cropped, flipped, turned by up to 90 degrees, and a
                square of them erased, on white throughout; published with normalize="none"
    mems-test   its evaluation: photos resized; sketches resized to 1.1 S and the middle S x S taken
    mems-bgr, mems-test-bgr  the same with the colours of photos in the order blue, green, red, as MEMS has them on TU-Berlin

    Args:
        name: one of the above.
        modality: "sketch" or 0, "photo" or 1.
        image_size: S, pixels.
        normalize: "imagenet" or "clip" (the mean and deviation that such weights were trained with), "none" (values in [0, 1]),
            or a pair (mean, std) of three numbers each, for the colours in the order of the tensor.

    Raises:
        InputError: an unknown name, modality or normalisation, a size below 1.

    >>> build_transform("test", "photo", 32)(Image.new("RGB", (50, 20))).shape
    torch.Size([3, 32, 32])
    """
    if name not in TRANSFORMS:
        raise InputError(f"transform={name!r} is not known; choose from {', '.join(TRANSFORMS)}")
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), *normalization(normalize), v2.ToPureTensor()]
    return TRANSFORMS[name](modality_number(modality), check_image_size(image_size), tensor)


def modality_number(modality: str | int) -> int:
    """0 for a sketch, 1 for a photo.

    >>> modality_number("photo"), modality_number(0)
    (1, 0)
    """
    if isinstance(modality, str) and modality in MODALITIES:
        return MODALITIES.index(modality)
    if isinstance(modality, int) and not isinstance(modality, bool) and modality in (0, 1):
        return modality
    raise InputError(f"modality={modality!r} must be 'sketch' or 'photo' (or 0 or 1)")


def check_image_size(image_size: int) -> int:
    """The size if it is one."""
    if isinstance(image_size, bool) or not isinstance(image_size, int):
        raise TypeError(f"image_size must be an int, got {type(image_size).__name__}")
    if image_size < 1:
        raise InputError(f"image_size={image_size} must be 1 or more (pixels)")
    return image_size


def normalization(normalize: Any) -> Steps:
    """The step that normalises a float image, as a list of one step or, for "none", of no step.

    >>> normalization("none"), normalization("clip")[0].mean[0]
    ([], 0.48145466)
    """
    accepted = f"{', '.join(NORMALIZE)} or a pair (mean, std) of three numbers each, std above 0"
    if isinstance(normalize, str):
        if normalize not in NORMALIZE:
            raise InputError(f"normalize={normalize!r} is not known; accepted are {accepted}")
        pair = NORMALIZE[normalize]
        return [] if pair is None else [v2.Normalize(*pair)]
    try:
        mean, std = ([float(value) for value in values] for values in normalize)
    except (TypeError, ValueError):
        raise InputError(f"normalize={normalize!r} is not understood; accepted are {accepted}") from None
    finite = all(map(math.isfinite, [*mean, *std]))
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise InputError(f"normalize={normalize!r} is not understood; accepted are {accepted}")
    return [v2.Normalize(mean, std)]


class Views(torch.nn.Module):
    """An augmented image and two views of it, for contrastive losses (DSN, Wang et al., IJCAI 2021), -> float32 [3, 3, S, S]."""

    def __init__(self, shared: torch.nn.Module, view: torch.nn.Module, finish: torch.nn.Module):
        super().__init__()
        self.shared, self.view, self.finish = shared, view, finish

    def forward(self, image: Image.Image) -> Tensor:
        image = self.shared(image)
        return torch.stack([self.finish(image), self.view(image), self.view(image)])


class ReverseColours(torch.nn.Module):
    """RGB to BGR and back."""

    def forward(self, image: Image.Image) -> Image.Image:
        return Image.merge("RGB", image.split()[::-1])


BILINEAR, BICUBIC = v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC


def _resize(size: int) -> v2.Resize:
    return v2.Resize((size, size), interpolation=BILINEAR, antialias=True)


def _jitter() -> v2.RandomApply:
    return v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)


def _test(modality: int, size: int, tensor: Steps) -> Transform:
    return v2.Compose([_resize(size), *tensor])


def _train(modality: int, size: int, tensor: Steps) -> Transform:
    if MODALITIES[modality] == "sketch":
        move = v2.RandomAffine(12, translate=(0.06, 0.06), scale=(0.85, 1.1), interpolation=BILINEAR, fill=255)
        return v2.Compose([_resize(size), v2.RandomHorizontalFlip(), move, *tensor])
    crop = v2.RandomResizedCrop((size, size), scale=(0.7, 1.0), ratio=(0.8, 1.25), interpolation=BILINEAR, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), _jitter(), v2.RandomGrayscale(0.2), *tensor])


def _sake(modality: int, size: int, tensor: Steps) -> Transform:
    return v2.Compose([SakeAffine(modality), _resize(size), *tensor])


def _sake_centred(modality: int, size: int, tensor: Steps) -> Transform:
    return v2.Compose([SakeAffine(modality, centred=True), _resize(size), *tensor])


def _dsn(modality: int, size: int, tensor: Steps) -> Transform:
    view = v2.Compose([_resize(size), v2.RandomHorizontalFlip(), _jitter(), v2.RandomGrayscale(0.2), *tensor])
    return Views(SakeAffine(modality), view, v2.Compose([_resize(size), *tensor]))


def _mathm(modality: int, size: int, tensor: Steps, released: bool = False) -> Transform:
    augment = MathmSketch() if MODALITIES[modality] == "sketch" else MathmPhoto(released)
    return v2.Compose([augment, _resize(size), *tensor])


def _mems(modality: int, size: int, tensor: Steps) -> Transform:
    if MODALITIES[modality] == "photo":
        return v2.Compose([_resize(size), v2.RandomHorizontalFlip(), *tensor])
    invert = v2.RandomInvert(1.0)  # light strokes on black: what a turn leaves empty or is erased is 0, blank paper in the end
    crop = v2.RandomResizedCrop((size, size), scale=(0.6, 1.0), interpolation=BILINEAR, antialias=True)
    turn = v2.RandomRotation(90, interpolation=BICUBIC)
    erase = v2.RandomErasing(0.6, scale=(0.02, 0.2), ratio=(1.0, 1.0), value=0)
    return v2.Compose(
        [v2.Grayscale(), invert, crop, v2.RandomHorizontalFlip(), turn, v2.ToImage(), erase, invert, v2.RGB(), *tensor]
    )


def _mems_test(modality: int, size: int, tensor: Steps) -> Transform:
    if MODALITIES[modality] == "photo":
        return _test(modality, size, tensor)
    return v2.Compose([_resize(size * 11 // 10), v2.CenterCrop((size, size)), *tensor])


def _bgr(build: Callable[[int, int, Steps], Transform]) -> Callable[[int, int, Steps], Transform]:
    """The same transform, given photos whose colours stand in reverse order."""

    def reversed_photos(modality: int, size: int, tensor: Steps) -> Transform:
        transform = build(modality, size, tensor)
        return v2.Compose([ReverseColours(), transform]) if MODALITIES[modality] == "photo" else transform

    return reversed_photos


TRANSFORMS: dict[str, Callable[[int, int, Steps], Transform]] = {
    "test": _test,
    "none": _test,
    "train": _train,
    "sake": _sake,
    "sake-centred": _sake_centred,
    "dsn": _dsn,
    "mathm": _mathm,
    "mathm-released": partial(_mathm, released=True),
    "mems": _mems,
    "mems-test": _mems_test,
    "mems-bgr": _bgr(_mems),
    "mems-test-bgr": _bgr(_mems_test),
}
