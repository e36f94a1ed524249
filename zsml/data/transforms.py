"""From a PIL image to what the network takes, by name: evaluation, the published augmentations, and one of our own.

Everything random draws from torch's global generator; ``ImageDataset.set_epoch`` makes it reproducible item by item.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from zsml.data.affine import MathmPhoto, MathmSketch, SakeAffine
from zsml.data.dataset import MODALITIES, Transform
from zsml.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


def build_transform(name: str, modality: str | int, image_size: int) -> Transform:
    """A function from a PIL RGB image to a float32 tensor [3, S, S], normalised with ImageNet's mean and deviation.

    test        resize to S x S without keeping the aspect ratio (the protocol of every published system)
    none        the same, under the name that a training without augmentation asks for
    train       for training from random weights: flips, crops and colours for photos, small affine moves on white for sketches
    sake        the literal augmentation of SAKE: an affine warp about the top-left corner, filled with black
    sake-centred  the same about the centre, filled with white (sketches) or the mean colour (photos)
    dsn         three tensors [3, 3, S, S]: that of sake, and two views of it with flips and colour changes
    mathm       MATHM's: near-unrotated photos; sketches turned, scaled and moved on the sheet

    Args:
        name: one of the above.
        modality: "sketch" or 0, "photo" or 1.
        image_size: S, pixels.

    Raises:
        InputError: an unknown name or modality, a size below 1.

    >>> build_transform("test", "photo", 32)(Image.new("RGB", (50, 20))).shape
    torch.Size([3, 32, 32])
    """
    if name not in TRANSFORMS:
        raise InputError(f"transform={name!r} is not known; choose from {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name](modality_number(modality), check_image_size(image_size))


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


class Views(torch.nn.Module):
    """An augmented image and two views of it, for contrastive losses (DSN, Wang et al., IJCAI 2021), -> float32 [3, 3, S, S]."""

    def __init__(self, shared: torch.nn.Module, view: torch.nn.Module, finish: torch.nn.Module):
        super().__init__()
        self.shared, self.view, self.finish = shared, view, finish

    def forward(self, image: Image.Image) -> Tensor:
        image = self.shared(image)
        return torch.stack([self.finish(image), self.view(image), self.view(image)])


def _finish(size: int) -> list[torch.nn.Module]:
    resize = v2.Resize((size, size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    return [resize, *_tensor()]


def _tensor() -> list[torch.nn.Module]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD), v2.ToPureTensor()]


def _test(modality: int, size: int) -> Transform:
    return v2.Compose(_finish(size))


def _train(modality: int, size: int) -> Transform:
    bilinear = v2.InterpolationMode.BILINEAR
    if MODALITIES[modality] == "sketch":
        move = v2.RandomAffine(12, translate=(0.06, 0.06), scale=(0.85, 1.1), interpolation=bilinear, fill=255)
        resize = v2.Resize((size, size), interpolation=bilinear, antialias=True)
        return v2.Compose([resize, v2.RandomHorizontalFlip(), move, *_tensor()])
    crop = v2.RandomResizedCrop((size, size), scale=(0.7, 1.0), ratio=(0.8, 1.25), interpolation=bilinear, antialias=True)
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2), *_tensor()])


def _sake(modality: int, size: int) -> Transform:
    return v2.Compose([SakeAffine(modality), *_finish(size)])


def _sake_centred(modality: int, size: int) -> Transform:
    return v2.Compose([SakeAffine(modality, centred=True), *_finish(size)])


def _dsn(modality: int, size: int) -> Transform:
    resize, *tensor = _finish(size)
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    view = v2.Compose([resize, v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2), *tensor])
    return Views(SakeAffine(modality), view, v2.Compose([resize, *tensor]))


def _mathm(modality: int, size: int) -> Transform:
    augment = MathmSketch() if MODALITIES[modality] == "sketch" else MathmPhoto()
    return v2.Compose([augment, *_finish(size)])


TRANSFORMS: dict[str, Callable[[int, int], Transform]] = {
    "test": _test,
    "none": _test,
    "train": _train,
    "sake": _sake,
    "sake-centred": _sake_centred,
    "dsn": _dsn,
    "mathm": _mathm,
}
