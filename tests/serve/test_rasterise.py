"""Strokes to pictures: against a rendering at a finer resolution, and against the training sketches' own pen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from PIL import ImageDraw
from small_index import CIRCLE, CROSS

from zsml.data.synthetic.sketch import blank_paper, finished, ink_line
from zsml.errors import InputError
from zsml.serve import Limits, rasterise
from zsml.serve.rasterise import INK, PEN


def grey(strokes, size: int = 96, **options) -> np.ndarray:
    return np.asarray(rasterise(strokes, size, **options))[:, :, 0].astype(float)


def ideal(strokes, size: int) -> np.ndarray:
    """Ink where the distance to the nearest segment is at most half the pen's width, averaged over 4 x 4 samples a pixel."""
    at = (np.arange(size * 4) + 0.5) / (size * 4)
    x, y = np.meshgrid(at, at)
    near = np.full(x.shape, np.inf)
    for stroke in strokes:
        for (ax, ay), (bx, by) in itertools.pairwise(stroke):
            along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
            near = np.minimum(near, np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
    ink = np.where(near <= PEN / 200, INK, 255)
    return ink.reshape(size, 4, size, 4).mean(axis=(1, 3))


@pytest.mark.parametrize("strokes", [CIRCLE, CROSS], ids=["circle", "cross"])
def test_close_to_the_ideal_pen(strokes):
    drawn, wanted = grey(strokes, 128, fit=False), ideal(strokes, 128)
    assert np.abs(drawn - wanted).mean() < 2.5
    assert np.corrcoef(drawn.ravel(), wanted.ravel())[0, 1] > 0.9


def test_the_pen_is_that_of_training_sketches():
    line = np.array([(0.1, 0.2), (0.5, 0.9), (0.8, 0.3)])
    paper = blank_paper(96)
    ink_line(ImageDraw.Draw(paper), line * 192, max(2, round(PEN * 192 / 100)), INK)
    assert rasterise([line.tolist()], 96, fit=False).tobytes() == finished(paper).tobytes()


def test_a_drawing_is_placed_wherever_and_however_large_it_was_drawn():
    small = [[(0.05 + 0.3 * x, 0.6 + 0.3 * y) for x, y in stroke] for stroke in CIRCLE]
    placed, once = grey(small), grey(CIRCLE)
    rows, columns = np.where(placed < 128)
    assert abs(rows.mean() - 47.5) < 1.5 and abs(columns.mean() - 47.5) < 1.5
    assert 0.7 * 96 < np.ptp(rows) < 0.95 * 96 or np.ptp(rows) == pytest.approx(0.3 * 0.6 * 4 * 96, abs=3)
    assert (placed < 128).sum() == pytest.approx((once < 128).sum(), rel=0.15)  # the pen kept its width


def test_dots_are_dots():
    dot = grey([[(0.3, 0.3)]])
    assert 1 <= (dot < 200).sum() <= 12
    same_place = grey([[(0.3, 0.3)] * 5])
    assert (dot == same_place).all()


def test_nothing_is_drawn_twice_as_large_as_the_sheet():
    tiny = grey([[(0.5, 0.5), (0.51, 0.5)]])
    assert np.ptp(np.where(tiny < 200)[1]) < 0.08 * 96


@pytest.mark.parametrize(
    ("strokes", "said"),
    [
        ([], "empty"),
        ([[]], r"strokes\[0\] has the shape \[0\]"),
        ([[(0.1, 0.1)], [(0.1, math.nan)]], r"strokes\[1\] has a coordinate that is NaN"),
        ([[(0.1, math.inf)]], "infinite"),
        ([[(0.1, 0.2, 0.3)]], "shape"),
        ([[(0.1, 0.2), (0.3,)]], "cannot be read"),
        ([[("a", "b")]], "cannot be read"),
        ([[(5, 0.1)]], "far beyond"),
        ([0.5], "shape"),
        ([[(0, 0)]] * 11, "11 strokes; at most 10"),
        ([[(0, 0)] * 30], "30 points; at most 20"),
    ],
)
def test_garbage_is_refused_by_name(strokes, said):
    with pytest.raises(InputError, match=said):
        rasterise(strokes, limits=Limits(strokes=10, points=20))


def test_other_types_are_refused():
    for strokes in ("abc", None, 5, {"a": 1}):
        with pytest.raises(TypeError, match="strokes must be a list"):
            rasterise(strokes)
