"""Images that strangers send, opened with care."""

from __future__ import annotations

import io

from PIL import Image

from zsml.data.decode import decode
from zsml.errors import CorruptImage
from zsml.serve.limits import Refused

# Decoders for what browsers show; the rarer ones of Pillow have no business with a stranger's bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
LONGEST = 20_000  # side in pixels; of a line of millions decoding and resizing need many times the memory of its pixels


def check_image(data: bytes, pixels: int) -> None:
    """Look at the header alone.

    Raises:
        Refused: 415, not an image of a format in FORMATS; 413, it has more than so many pixels, or a side longer than LONGEST.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise Refused(413, f"the image is too large ({error}); at most {pixels} pixels are accepted") from error
    except Exception as error:  # a damaged header can raise whatever its parser does not expect
        raise Refused(415, f"that is not an image that can be read; accepted are {', '.join(FORMATS)}") from error
    if width * height > pixels:
        raise Refused(413, f"the image has {width} x {height} = {width * height} pixels; at most {pixels} are accepted")
    if max(width, height) > LONGEST:
        raise Refused(413, f"the image has {width} x {height} pixels; at most {LONGEST} are accepted on a side")


def read_image(data: bytes, pixels: int) -> Image.Image:
    """The image in `data`, RGB and upright.

    Raises:
        Refused: 415, not an image, or not to its end; 413, it has more than so many pixels, or a side longer than LONGEST.
    """
    check_image(data, pixels)
    try:
        return decode(io.BytesIO(data))
    except CorruptImage as error:
        raise Refused(415, f"the image is damaged ({error.reason})") from error


def thumbnail(image: Image.Image, side: int) -> bytes:
    """JPEG, at most `side` pixels wide and high."""
    image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()
