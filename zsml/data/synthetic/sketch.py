"""The hand-drawn rendering: wobbly, incomplete strokes on white paper, every picture by a drawer with habits of their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from zsml.data.synthetic.pose import place
from zsml.data.synthetic.shapes import DARK, Part

Random = np.random.RandomState
FINER = 2
FILL = (0.76, 0.93)  # least and greatest share of the sheet that the longer side of a drawing takes


class Hand(NamedTuple):
    """How somebody draws. Lengths are in hundredths of the picture's side."""

    width: float  # of the pen
    ink: int  # 0 black .. 255 white
    wobble: float  # how far a stroke strays
    gap: float  # how often a stroke breaks off, per stroke
    passes: int  # how often a line is gone over
    see_through: bool  # draws what is hidden behind other parts, too
    terse: float  # how often a detail is left out
    overshoot: float  # how far a closed outline misses its beginning


def some_hand(random: Random) -> Hand:
    """A drawer: pen, pencil, felt-tip or brush; careful or hasty."""
    kind = random.randint(4)
    haste = random.random_sample()
    return Hand(
        width=(random.uniform(1.0, 1.5), random.uniform(0.8, 1.3), random.uniform(1.8, 3.0), random.uniform(1.3, 2.2))[kind],
        ink=int((random.uniform(0, 50), random.uniform(60, 130), random.uniform(0, 40), random.uniform(0, 70))[kind]),
        wobble=0.35 + 1.1 * haste,
        gap=0.05 + 0.4 * haste,
        passes=1 if kind != 1 else random.randint(1, 4),
        see_through=bool(random.random_sample() < 0.15),
        terse=0.05 + 0.45 * haste,
        overshoot=4 * haste,
    )


def draw_sketch(parts: list[Part], random: Random, size: int) -> Image.Image:
    """An RGB picture of size x size pixels, dark strokes on white."""
    frame = FINER * size
    hand = some_hand(random)
    parts = [part for part in parts if not part.detail or random.random_sample() >= hand.terse]
    points, unit = place(parts, random, frame, turn=0.025, fill=FILL)
    paper = blank_paper(size)
    draw = ImageDraw.Draw(paper)
    for part, outline in zip(parts, points, strict=True):
        _draw_part(draw, part, outline, unit, hand, random, frame / 100)
    return finished(paper)


# ---- what a drawing of somebody else's strokes shares with these -------------------------------------------------------------


def blank_paper(size: int) -> Image.Image:
    """A white sheet, drawn on FINER times as large as the picture of size x size pixels it becomes."""
    return Image.new("L", (FINER * size, FINER * size), 255)


def ink_line(draw: ImageDraw.ImageDraw, line: np.ndarray, width: int, ink: int) -> None:
    """A line of the pen through points [n, 2], n > 1, in pixels of the sheet, as wide."""
    draw.line(line.ravel().tolist(), fill=ink, width=width, joint="curve" if width > 3 else None)


def finished(paper: Image.Image) -> Image.Image:
    """The sheet as an RGB picture."""
    return paper.reduce(FINER).convert("RGB")


# ---- how a part is drawn -----------------------------------------------------------------------------------------------------


def _draw_part(
    draw: ImageDraw.ImageDraw, part: Part, line: np.ndarray, unit: float, hand: Hand, random: Random, percent: float
) -> None:
    if not part.closed:
        thick = part.width * unit
        if thick < 5 * percent or part.detail:  # thin things are drawn as one line
            _pen(draw, line, hand, random, percent)
            return
        line = _ribbon(line, thick / 2)
    extent = line.max(axis=0) - line.min(axis=0)
    if part.tone == DARK and extent.max() < 7 * percent:
        draw.polygon(line.ravel().tolist(), fill=hand.ink)
        return
    if not hand.see_through:
        draw.polygon(line.ravel().tolist(), fill=255)
    start = random.randint(len(line)) if len(line) > 8 else 0
    line = np.concatenate([line[start:], line[:start], line[start : start + 1]])
    for _ in range(hand.passes):
        _pen(draw, line, hand, random, percent, closed=True)


def _ribbon(line: np.ndarray, half: float) -> np.ndarray:
    """The outline of a line of some thickness, -> [2 n, 2]."""
    along = np.gradient(line, axis=0)
    length = np.hypot(along[:, 0], along[:, 1])[:, None]
    side = along[:, ::-1] * (-half, half) / np.maximum(length, 1e-6)
    return np.concatenate([line + side, (line - side)[::-1]])


def _pen(draw: ImageDraw.ImageDraw, line: np.ndarray, hand: Hand, random: Random, percent: float, closed: bool = False) -> None:
    """One stroke along a line, straying, perhaps broken."""
    step = np.diff(line, axis=0)
    at = np.concatenate([[0.0], np.cumsum(np.hypot(step[:, 0], step[:, 1]))])
    total = at[-1]
    if total < 1:
        return
    n = max(3, int(total / (2.2 * percent)))
    low, high = (random.uniform(-1, 1, 2) * hand.overshoot * percent) if closed else (0.0, 0.0)
    where = np.linspace(0, total, n)
    where = np.union1d(where, at) if len(at) < 9 else where  # keep the corners of straight-sided outlines
    where = where[(where >= low) & (where <= total - high)] if total > 12 * percent else where
    knots = max(3, int(total / (9 * percent)) + 2)
    stray = random.standard_normal((2, knots)) * min(hand.wobble * percent, 0.06 * total)
    grid = np.linspace(0, total, knots)
    x = np.interp(where, at, line[:, 0]) + np.interp(where, grid, stray[0])
    y = np.interp(where, at, line[:, 1]) + np.interp(where, grid, stray[1])
    width = max(2, round(hand.width * percent * random.uniform(0.85, 1.15)))  # 2: one pixel of the picture
    xy = np.stack([x, y], axis=1)
    pieces = [xy]
    if random.random_sample() < hand.gap and len(xy) > 8:
        cut = random.randint(2, len(xy) - 2)
        pieces = [xy[:cut], xy[cut + max(1, int(len(xy) * random.uniform(0.04, 0.16))) :]]
    for piece in pieces:
        if len(piece) > 1:
            ink_line(draw, piece, width, hand.ink)
