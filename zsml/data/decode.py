"""Image files to PIL RGB images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from zsml.data.dataset import ImageDataset
from zsml.errors import CorruptImage, InputError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def decode(path: str | Path | BinaryIO) -> Image.Image:
    """The image file, by its name or opened, as 8-bit RGB: upright, grey replicated, transparency on white, 16 bits reduced to 8.

    Raises:
        CorruptImage: the file cannot be decoded, or not to its end.
        InputError: the file cannot be opened.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return as_rgb(image)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"image {str(path)!r} cannot be opened: {error.strerror}") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise CorruptImage(str(path), f"{error}" or type(error).__name__) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB, as `decode` gives it."""
    return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever damaged metadata can raise: the picture itself is sound
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it
        grey = np.clip(np.asarray(image), 0, 65535)
        image = Image.fromarray((grey >> 8).astype(np.uint8) if grey.max() > 255 else grey.astype(np.uint8))
    if (
        image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    ):  # drawings on a transparent sheet are meant for white paper
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


class FileDataset(ImageDataset):
    """Images in files: ``paths[i]`` is the file of item i."""

    def load(self, index: int) -> Image.Image:
        """Decode file number index."""
        return decode(self.paths[index])
