"""Transforms by name: evaluation's arithmetic, the published augmentations against their formulas and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from zsml.data import build_transform
from zsml.data.affine import MathmPhoto, MathmSketch, SakeAffine, affine_matrix, warp
from zsml.data.transforms import TRANSFORMS
from zsml.errors import InputError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(height=30, width=40, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def drawing(size=64):
    """Black strokes on white."""
    sheet = np.full((size, size, 3), 255, dtype=np.uint8)
    sheet[20:40, 30:33] = 0
    sheet[20:23, 20:45] = 0
    return Image.fromarray(sheet)


def test_evaluation_is_a_plain_resize():
    image = Image.fromarray(picture(50, 70))
    for name in ("test", "none"):
        for modality in ("sketch", "photo", 0, 1):
            found = build_transform(name, modality, 24)(image)
            resized = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR)) / 255.0
            expected = torch.from_numpy(((resized - MEAN) / STD).transpose(2, 0, 1)).float()
            assert found.dtype == torch.float32 and type(found) is torch.Tensor
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("modality", ["sketch", "photo"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_shapes(name, modality):
    transform = build_transform(name, modality, 20)
    for size in ((33, 21), (20, 20), (1, 1), (64, 300)):
        out = transform(Image.new("RGB", size, "white"))
        assert out.shape == ((3, 3, 20, 20) if name == "dsn" else (3, 20, 20)) and out.dtype == torch.float32
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("modality", ["sketch", "photo"])
@pytest.mark.parametrize("name", ["train", "sake", "sake-centred", "dsn", "mathm", "mems", "mems-bgr"])
def test_randomness_is_torchs(name, modality):
    transform, image = build_transform(name, modality, 16), drawing()

    def draws(seed):
        torch.manual_seed(seed)
        np.random.seed(0)
        return torch.stack([transform(image) for _ in range(6)])

    assert torch.equal(draws(1), draws(1))
    assert not torch.equal(draws(1), draws(2))


# ---- the warp ----------------------------------------------------------------------------------------------------------------


def test_the_matrix_is_the_published_formula():
    sx, sy, degrees, tx, ty = 1.2, 0.8, 25.0, 7.0, -3.0
    r = degrees * math.pi / 180
    for x, y in ((0, 0), (1, 0), (0, 1), (13, 29)):
        expected = [sx * math.cos(r) * x - sy * math.sin(r) * y + tx, sx * math.sin(r) * x + sy * math.cos(r) * y + ty, 1]
        np.testing.assert_allclose(affine_matrix(sx, sy, degrees, tx, ty) @ (x, y, 1), expected, atol=1e-12)


def test_pixels_move_where_the_formula_says():
    """On brightness that is linear in x and y, bilinear interpolation is exact: the moved pixel must show its old place."""
    y, x = np.mgrid[0:60, 0:80]
    image = np.stack([2 * x, 3 * y, x + y], axis=2).astype(np.uint8)
    matrix = affine_matrix(1.1, 0.9, 20, 6, -4)
    out = warp(image, matrix, (0, 0, 0))
    checked = 0
    for u, v in [(20, 20), (40, 31), (33, 7), (61, 44), (10, 15)]:
        # solve sx cos r x - sy sin r y = u - tx, sx sin r x + sy cos r y = v - ty by hand
        c, s = math.cos(math.radians(20)), math.sin(math.radians(20))
        x0 = (c * (u - 6) + s * (v + 4)) / 1.1
        y0 = (-s * (u - 6) + c * (v + 4)) / 0.9
        if 0 <= x0 <= 79 and 0 <= y0 <= 59:
            np.testing.assert_allclose(out[v, u], [2 * x0, 3 * y0, x0 + y0], atol=1e-9)
            checked += 1
    assert checked >= 4


@pytest.mark.parametrize("fill", [(0, 0, 0), (255, 255, 255), (124, 116, 104)])
@pytest.mark.parametrize("seed", range(6))
def test_the_warp_is_scipys(seed, fill):
    random = np.random.RandomState(seed)
    image = picture(seed=seed)
    matrix = affine_matrix(*random.uniform(0.7, 1.3, 2), random.uniform(-30, 30), *random.uniform(-10, 10, 2))
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])  # scipy counts (row, column) and maps output to input
    back = swap @ np.linalg.inv(matrix) @ swap
    out = warp(image, matrix, fill)
    for channel in range(3):
        plane = image[..., channel].astype(float)
        expected = ndimage.affine_transform(plane, back, order=1, mode="grid-constant", cval=fill[channel])
        np.testing.assert_allclose(out[..., channel], expected, atol=1e-7)


def test_whole_pixel_moves_are_exact():
    image = picture()
    np.testing.assert_array_equal(warp(image, np.eye(3), (0, 0, 0)), image)
    moved = warp(image, affine_matrix(1, 1, 0, 5, 2), (9, 9, 9))
    np.testing.assert_array_equal(moved[2:, 5:], image[:-2, :-5])
    assert (moved[:2] == 9).all() and (moved[:, :5] == 9).all()


# ---- SAKE and DSN ------------------------------------------------------------------------------------------------------------


def test_sake_draws_as_published():
    """Untouched: the routine is left out (0.3), or none of its four parts is drawn (0.7 / 16)."""
    torch.manual_seed(0)
    image = picture(8, 8)
    same = flipped = 0
    number = 3000
    for _ in range(number):
        out = np.asarray(SakeAffine(1)(Image.fromarray(image)))
        same += np.array_equal(out, image)
        flipped += np.array_equal(out, image[:, ::-1])
    for count, probability in ((same, 0.3 + 0.7 / 16), (flipped, 0.7 / 16)):
        assert abs(count - number * probability) < 5 * (number * probability * (1 - probability)) ** 0.5


def test_sake_turns_about_the_corner_fills_with_black_and_truncates():
    torch.manual_seed(0)
    white, seen_black = Image.new("RGB", (64, 64), "white"), False
    for _ in range(60):
        out = np.asarray(SakeAffine(0)(white))
        seen_black |= (out[0, -1] == 0).all() or (out[-1, 0] == 0).all()
    assert seen_black
    image, seed = picture(), 0
    truncated = 0
    while truncated < 10:  # the draws in their published order, then the formula, then truncation
        seed += 1
        torch.manual_seed(seed)
        out = np.asarray(SakeAffine(0)(Image.fromarray(image)))
        torch.manual_seed(seed)
        u = iter(torch.rand(20).tolist())
        if next(u) >= 0.7:
            continue
        expected = image[:, ::-1] if next(u) < 0.5 else image
        sx, sy = (0.7 + 0.6 * next(u), 0.7 + 0.6 * next(u)) if next(u) < 0.5 else (1, 1)
        degrees = -30 + 60 * next(u) if next(u) < 0.5 else 0
        tx, ty = (-10 + 20 * next(u), -10 + 20 * next(u)) if next(u) < 0.5 else (0, 0)
        expected = warp(expected, affine_matrix(sx, sy, degrees, tx, ty), (0, 0, 0))
        np.testing.assert_array_equal(out, np.floor(expected))
        truncated += 1


def test_sake_centred_keeps_paper_white_and_the_middle_in_place():
    torch.manual_seed(0)
    white, mean = Image.new("RGB", (41, 41), "white"), Image.new("RGB", (41, 41), (124, 116, 104))
    spot = np.full((41, 41, 3), 255, dtype=np.uint8)
    spot[18:23, 18:23] = 0
    for _ in range(40):
        assert np.asarray(SakeAffine(0, centred=True)(white)).min() == 255
        assert np.ptp(np.asarray(SakeAffine(1, centred=True)(mean)), axis=(0, 1)).max() == 0
        ink = 255.0 - np.asarray(SakeAffine(0, centred=True)(Image.fromarray(spot)))[..., 0]
        place = np.array(ndimage.center_of_mass(ink))
        assert (np.abs(place - 20) <= 10.5).all()  # no more than the translation


def test_dsn_views_share_the_warp_and_differ_in_colour():
    transform = build_transform("dsn", "photo", 16)
    image = Image.fromarray(ndimage.zoom(picture(4, 4), (16, 16, 1), order=1))
    torch.manual_seed(0)
    differ = [[not torch.equal(views[0], views[k]) for k in (1, 2)] for views in (transform(image) for _ in range(20))]
    assert np.mean(differ) > 0.8
    torch.manual_seed(7)
    base = transform(image)[0]
    torch.manual_seed(7)
    torch.testing.assert_close(build_transform("sake", "photo", 16)(image), base)


# ---- MATHM -------------------------------------------------------------------------------------------------------------------


def test_mathm_sketches_stay_black_on_white_and_move_about():
    torch.manual_seed(0)
    source, places = drawing(), []
    for _ in range(60):
        out = MathmSketch()(source)
        assert out.size == source.size and out.mode == "RGB"
        ink = 255.0 - np.asarray(out)[..., 0]
        drawn = 255.0 - np.asarray(source)[..., 0]
        assert 0.35 < ink.sum() / drawn.sum() < 2.0  # scaled by 0.7 to 1.3 in length, nothing lost
        places.append(ndimage.center_of_mass(ink))
    assert np.std(places, axis=0).min() > 5
    blank = Image.new("RGB", (30, 20), "white")
    assert np.asarray(MathmSketch()(blank)).min() == 255
    full = Image.new("RGB", (30, 20), "black")  # larger than the sheet once turned: it is shrunk to fit
    for _ in range(10):
        assert MathmSketch()(full).size == (30, 20)


def test_mathm_photos_are_hardly_rotated():
    """Published: 0.3 untouched and, else, four parts with probability one half each, the rotation below 0.53 degrees."""
    torch.manual_seed(0)
    image = picture(8, 8)
    number = 3000
    same = sum(np.array_equal(np.asarray(MathmPhoto()(Image.fromarray(image))), image) for _ in range(number))
    low, high = 0.3 + 0.7 / 16, 0.3 + 0.7 / 8  # a tiny rotation may leave so small an image as it was
    slack = 5 * (number * 0.25) ** 0.5
    assert number * low - slack < same < number * high + slack


# ---- bad input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best", "photo", 8), "transform='best' is not known; choose from test, none, train, sake"),
        (("test", "picture", 8), "modality='picture' must be 'sketch' or 'photo'"),
        (("test", 3, 8), "modality=3"),
        (("test", "photo", 0), "image_size=0 must be 1 or more"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(InputError, match=message):
        build_transform(*arguments)


def test_wrong_types():
    with pytest.raises(TypeError, match="image_size must be an int, got float"):
        build_transform("test", "photo", 8.0)
