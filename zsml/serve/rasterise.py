"""Strokes of a pen to the picture the network sees, drawn by what draws the generated training sketches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from zsml.data.synthetic.sketch import FILL, FINER, blank_paper, finished, ink_line
from zsml.errors import InputError
from zsml.serve.limits import Limits

PEN, INK = (
    1.3,
    25,
)  # a pen in the middle of those that draw training sketches: width in hundredths of the side, 0 black .. 255 white
LARGEST_SCALE = 4.0  # a dot is not blown up to a disc

Strokes = Sequence[Sequence[tuple[float, float]]]


def rasterise(strokes: Strokes, size: int = 224, *, fit: bool = True, limits: Limits | None = None) -> Image.Image:
    """The strokes as an RGB picture of size x size pixels, dark on white.

    Args:
        strokes: of each stroke its points (x, y); the sheet goes from (0, 0), top left, to (1, 1); points beyond
            its edges are moved to them.
        size: S, pixels.
        fit: place the drawing as training sketches are placed: in the middle, its longer side 0.76 to 0.93 of the sheet's. The
            pen keeps its width. It is never made more than four times as large.
        limits: the most strokes and points.

    Raises:
        InputError: no stroke, too many strokes or points, a stroke without points, a coordinate that is not a number or is
            farther from the sheet than its own side.

    >>> picture = rasterise([[(0.2, 0.2), (0.8, 0.2), (0.8, 0.8)], [(0.5, 0.5)]], size=64)
    >>> picture.size, picture.mode, picture.getextrema()[0]
    ((64, 64), 'RGB', (25, 255))
    """
    lines = _checked(strokes, limits or Limits())
    if fit:
        lines = _placed(lines)
    side = FINER * size
    paper = blank_paper(size)
    draw = ImageDraw.Draw(paper)
    width = max(2, round(PEN * side / 100))
    for line in lines:
        pixels = line * side
        if np.ptp(pixels, axis=0).max() < 1:
            x, y = pixels[0].tolist()
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=INK)
        else:
            ink_line(draw, pixels, width, INK)
    return finished(paper)


def _checked(strokes: Strokes, limits: Limits) -> list[np.ndarray]:
    """Each stroke as float64 [n, 2], n > 0."""
    if isinstance(strokes, str | bytes) or not isinstance(strokes, Sequence):
        raise TypeError(f"strokes must be a list of lists of points (x, y), got {type(strokes).__name__}")
    if not strokes:
        raise InputError("strokes is empty; draw something")
    if len(strokes) > limits.strokes:
        raise InputError(f"strokes holds {len(strokes)} strokes; at most {limits.strokes} are accepted")
    total = sum(len(stroke) for stroke in strokes if isinstance(stroke, Sequence))
    if total > limits.points:
        raise InputError(f"strokes holds {total} points; at most {limits.points} are accepted")
    return [_line(number, stroke) for number, stroke in enumerate(strokes)]


def _line(number: int, stroke: Sequence[tuple[float, float]]) -> np.ndarray:
    accepted = "accepted is a list of points (x, y), two numbers from 0 to 1 each"
    try:
        line = np.asarray(stroke, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"strokes[{number}] cannot be read ({error}); {accepted}") from error
    if line.ndim != 2 or line.shape[1] != 2 or not len(line):
        raise InputError(f"strokes[{number}] has the shape {list(line.shape)}; {accepted}")
    if not np.isfinite(line).all():
        raise InputError(f"strokes[{number}] has a coordinate that is NaN or infinite; {accepted}")
    if line.min() < -1 or line.max() > 2:
        raise InputError(f"strokes[{number}] reaches from {line.min():g} to {line.max():g}, far beyond the sheet; {accepted}")
    return np.clip(line, 0, 1)


def _placed(lines: list[np.ndarray]) -> list[np.ndarray]:
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    longer = float((high - low).max())
    wanted = min(max(longer, FILL[0]), FILL[1])
    scale = min(wanted / longer, LARGEST_SCALE) if longer > 0 else 1.0
    middle = (low + high) / 2
    return [(line - middle) * scale + 0.5 for line in lines]
