"""The random warps of the published systems, which no library transform reproduces."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN_RGB = (124, 116, 104)  # 0 after normalisation


def uniform(low: float, high: float) -> float:
    """A draw from torch's global generator."""
    return low + (high - low) * torch.rand(()).item()


def chance(probability: float) -> bool:
    """A draw from torch's global generator."""
    return torch.rand(()).item() < probability


def affine_matrix(scale_x: float, scale_y: float, degrees: float, shift_x: float, shift_y: float) -> np.ndarray:
    """The map ``x' = sx cos r x - sy sin r y + tx; y' = sx sin r x + sy cos r y + ty`` of (column, row), -> float64 [3, 3].

    >>> affine_matrix(2, 1, 90, 10, 0).round() @ (3, 5, 1)
    array([5., 6., 1.])
    """
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[scale_x * c, -scale_y * s, shift_x], [scale_x * s, scale_y * c, shift_y], [0, 0, 1]], dtype=np.float64)


def warp(image: np.ndarray, matrix: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    """The image with the pixel at (x, y) moved to ``matrix @ (x, y, 1)``; bilinear, same size, `fill` outside.

    Args:
        image: uint8 [H, W, 3]; pixel centres lie on whole numbers.
        matrix: float64 [3, 3].

    Returns:
        float64 [H, W, 3], not yet rounded.
    """
    height, width = image.shape[:2]
    back = np.linalg.inv(matrix)
    column, row = np.arange(width), np.arange(height)[:, None]
    x = np.clip(back[0, 0] * column + back[0, 1] * row + back[0, 2], -1, width)  # [H, W]
    y = np.clip(back[1, 0] * column + back[1, 1] * row + back[1, 2], -1, height)
    left, top = np.minimum(np.floor(x), width - 1).astype(np.int64), np.minimum(np.floor(y), height - 1).astype(np.int64)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    padded = np.empty((height + 2, width + 2, 3))
    padded[...] = fill
    padded[1:-1, 1:-1] = image
    flat = padded.reshape(-1, 3)
    at = (top + 1) * (width + 2) + left + 1  # [H, W]
    upper = flat[at] * (1 - fx) + flat[at + 1] * fx
    lower = flat[at + width + 2] * (1 - fx) + flat[at + width + 3] * fx
    return upper * (1 - fy) + lower * fy


class SakeAffine(torch.nn.Module):
    """The augmentation of SAKE (Liu et al., ICCV 2019) and DSN, as released: the warp turns about the top-left pixel, fills with
    black also around white drawings, and truncates. ``centred`` turns about the middle, fills sketches with white and photos with
    ImageNet's mean colour, and rounds.
    """

    def __init__(self, modality: int, centred: bool = False):
        super().__init__()
        self.centred = centred
        self.fill = (0, 0, 0) if not centred else (255, 255, 255) if modality == 0 else IMAGENET_MEAN_RGB

    def forward(self, image: Image.Image) -> Image.Image:
        if not chance(0.7):
            return image
        if chance(0.5):
            image = ImageOps.mirror(image)
        scale = (uniform(0.7, 1.3), uniform(0.7, 1.3)) if chance(0.5) else (1.0, 1.0)
        degrees = uniform(-30, 30) if chance(0.5) else 0.0
        shift = (uniform(-10, 10), uniform(-10, 10)) if chance(0.5) else (0.0, 0.0)
        matrix = affine_matrix(*scale, degrees, *shift)
        if self.centred:
            middle = np.eye(3)
            middle[:2, 2] = (image.width - 1) / 2, (image.height - 1) / 2
            matrix = middle @ matrix @ np.linalg.inv(middle)
        warped = warp(np.asarray(image), matrix, self.fill)
        return Image.fromarray((warped.round() if self.centred else warped).astype(np.uint8))


class MathmPhoto(torch.nn.Module):
    """MATHM's (arXiv 2112.07966) augmentation of photos: flipped, scaled, moved and turned by up to 30 degrees.

    released: as its code does it, which turns 30 degrees into radians and takes these for degrees: by no more than half of one.
    """

    def __init__(self, released: bool = False):
        super().__init__()
        self.most = math.radians(30) if released else 30.0

    def forward(self, image: Image.Image) -> Image.Image:
        if chance(0.3):
            return image
        if chance(0.5):
            image = ImageOps.mirror(image)
        scale = uniform(0.7, 1.3) if chance(0.5) else 1.0
        shift = [uniform(-10, 10), uniform(-10, 10)] if chance(0.5) else [0.0, 0.0]
        degrees = uniform(-self.most, self.most) if chance(0.5) else 0.0
        return F.affine(
            image, angle=degrees, translate=shift, scale=scale, shear=[0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR
        )


class MathmSketch(torch.nn.Module):
    """MATHM's augmentation of sketches: turn and scale the drawing, then put it somewhere else on the sheet."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = v2.Compose([v2.Pad(80), v2.RandomAffine(30, scale=(0.7, 1.3), interpolation=v2.InterpolationMode.BILINEAR)])

    def forward(self, image: Image.Image) -> Image.Image:
        ink = self.turn(ImageOps.invert(image.convert("L")))
        box = ink.getbbox()
        if box is None:  # an empty sheet
            return image
        ink = ink.crop(box)
        fit = min(1.0, image.width / ink.width, image.height / ink.height)
        if fit < 1:
            ink = ink.resize((max(1, int(ink.width * fit)), max(1, int(ink.height * fit))), Image.Resampling.BILINEAR)
        sheet = Image.new("L", image.size, 0)
        place = int(uniform(0, image.width - ink.width + 1)), int(uniform(0, image.height - ink.height + 1))
        sheet.paste(ink, place)
        return ImageOps.invert(sheet).convert("RGB")
