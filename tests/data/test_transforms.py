"""Transforms by name: evaluation's arithmetic, the published augmentations against their formulas and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision.transforms import v2

from zsml.data import build_transform
from zsml.data.affine import MathmSketch, SakeAffine, affine_matrix, warp
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
@pytest.mark.parametrize("name", ["train", "sake", "sake-centred", "dsn", "mathm", "mathm-released", "mems", "mems-bgr"])
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


def test_dsn_views_draw_as_published(monkeypatch):
    """Half are flipped, 0.8 jittered (brightness, contrast, saturation by 0.4, hue by 0.1), a fifth grey; nothing is cropped."""
    torch.manual_seed(0)
    transform, number = build_transform("dsn", "photo", 2, normalize="none").view, 3000
    pixels = [[250, 10, 10], [10, 10, 250]]
    views = torch.stack([transform(Image.fromarray(np.array([pixels, pixels], dtype=np.uint8))) for _ in range(number)])
    views = (255 * views).round()
    grey = (views == views[:, :1]).flatten(1).all(1)
    flipped = (views[:, 2] > views[:, 0])[:, 0, 0] & ~grey
    plain = (views == torch.tensor([[250, 10], [10, 10], [10, 250]])[:, None].expand(3, 2, 2)).flatten(1).all(1)
    for found, share in ((grey, 0.2), (flipped, 0.4), (plain, 0.5 * 0.2 * 0.8)):
        assert abs(int(found.sum()) - number * share) < 5 * (number * share * (1 - share)) ** 0.5
    jitters = []
    monkeypatch.setattr(v2, "ColorJitter", lambda *by: jitters.append(by) or torch.nn.Identity())
    build_transform("dsn", "sketch", 2)
    assert jitters == [(0.4, 0.4, 0.4, 0.1)]


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


@pytest.mark.parametrize(("name", "most"), [("mathm", 30.0), ("mathm-released", 30 * math.pi / 180)])
def test_mathm_photos_draw_as_published(name, most, monkeypatch):
    """0.3 untouched and, else, four parts with probability one half each; the code takes radians for degrees."""
    from zsml.data import affine

    drawn = []
    monkeypatch.setattr(affine.F, "affine", lambda image, **options: (drawn.append(options), image)[1])
    torch.manual_seed(0)
    number, transform = 4000, build_transform(name, "photo", 8)
    image = Image.fromarray(picture(8, 8))
    plain = build_transform("test", "photo", 8)(image)
    flipped = sum(not torch.equal(transform(image), plain) for _ in range(number))

    def near(count: int, of: int, share: float) -> bool:
        return abs(count - of * share) < 5 * (of * share * (1 - share)) ** 0.5

    assert near(len(drawn), number, 0.7) and near(flipped, number, 0.35)
    angles, scales = torch.tensor([o["angle"] for o in drawn]), torch.tensor([o["scale"] for o in drawn])
    shifts = torch.tensor([o["translate"] for o in drawn])
    assert all(
        near(int((values != rest).sum()), len(drawn), 0.5) for values, rest in ((angles, 0), (scales, 1), (shifts[:, 0], 0))
    )
    assert 0.98 * most < angles.abs().max() <= most and angles.min() < 0 < angles.max()
    assert 0.7 <= scales.min() < 0.71 and 1.29 < scales.max() <= 1.3
    assert 9.8 < shifts.abs().max() <= 10 and shifts.min() < 0 < shifts.max()


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
