"""The input pipeline of MEMS and how inputs are normalised, against the published arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from zsml.data import build_transform, load_dataset
from zsml.errors import InputError


def drawing(size=64):
    """Black strokes on white."""
    sheet = np.full((size, size, 3), 255, dtype=np.uint8)
    sheet[20:40, 28:34] = 0
    sheet[20:26, 20:45] = 0
    return Image.fromarray(sheet)


def colourful(height=30, width=40):
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8))


def draws(name, modality, image, number=200, size=32, **options):
    torch.manual_seed(0)
    transform = build_transform(name, modality, size, **options)
    return torch.stack([transform(image) for _ in range(number)])  # [number, 3, S, S]


@pytest.mark.parametrize("name", ["test", "train", "sake", "mathm", "mems", "mems-test"])
@pytest.mark.parametrize("normalize", ["clip", "imagenet", ([0.5, 0.4, 0.3], (0.1, 0.2, 0.4))])
def test_normalisation_is_the_published_formula(name, normalize):
    published = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    }
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in published.get(str(normalize), normalize))
    plain = draws(name, "photo", colourful(), 3, normalize="none")
    assert plain.min() >= 0 and plain.max() <= 1
    torch.testing.assert_close(draws(name, "photo", colourful(), 3, normalize=normalize), (plain - mean) / std)


def test_every_view_of_dsn_is_normalised():
    plain = draws("dsn", "photo", colourful(), 2, normalize="none")
    torch.testing.assert_close(draws("dsn", "photo", colourful(), 2, normalize=((0, 0, 0), (0.5, 0.5, 0.5))), 2 * plain)


def test_load_dataset_hands_the_normalisation_on():
    options = {"image_size": 32, "num_classes": 4, "samples_per_class": 2}
    plain, scaled = (
        load_dataset("synthetic", None, "test", "photo", normalize=normalize, **options)[0][0]
        for normalize in ("none", ((0.0, 0.0, 0.0), (0.25, 0.25, 0.25)))
    )
    torch.testing.assert_close(scaled, 4 * plain)


# ---- MEMS --------------------------------------------------------------------------------------------------------------------


def test_mems_evaluation():
    """Photos are resized; of sketches the middle 224 of 246 = int(1.1 x 224) pixels are taken."""
    image = colourful(300, 280)
    photo = build_transform("mems-test", "photo", 224, normalize="none")(image)
    sketch = build_transform("mems-test", "sketch", 224, normalize="none")(image)
    for found, side, margin in ((photo, 224, 0), (sketch, 246, 11)):
        resized = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))[margin : margin + 224, margin : margin + 224]
        np.testing.assert_allclose(found.numpy(), resized.transpose(2, 0, 1) / 255.0, atol=1e-6)


def test_mems_photos_are_flipped_half_of_the_time():
    image = colourful()
    plain = build_transform("mems-test", "photo", 16)(image)
    out = draws("mems", "photo", image, 400, 16)
    same = (out == plain).flatten(1).all(1)
    flipped = (out == plain.flip(-1)).flatten(1).all(1)
    assert (same ^ flipped).all() and abs(int(flipped.sum()) - 200) < 50  # five standard deviations


def test_reversed_colours_are_those_of_photos_alone():
    image = colourful()
    for name in ("mems", "mems-test"):
        rgb, bgr = (draws(which, "photo", image, 4, normalize="none") for which in (name, f"{name}-bgr"))
        assert torch.equal(bgr, rgb.flip(1)) and not torch.equal(bgr, rgb)
        rgb, bgr = (draws(which, "sketch", image, 4, normalize="none") for which in (name, f"{name}-bgr"))
        assert torch.equal(bgr, rgb)
    scaled = draws("mems-bgr", "photo", image, 1, normalize=((0, 0, 0), (1, 1, 2)))  # the third channel of the tensor is red
    torch.testing.assert_close(scaled[:, 2], draws("mems", "photo", image, 1, normalize="none")[:, 0] / 2)


def test_mems_sketches_are_grey_on_white_paper():
    """Whatever a turn leaves empty or is erased comes out white, never black: a blank sheet stays blank."""
    assert draws("mems", "sketch", Image.new("RGB", (50, 40), "white"), normalize="none").min() == 1
    out = draws("mems", "sketch", drawing(), normalize="none")
    assert (out[:, 0] == out[:, 1]).all() and (out[:, 0] == out[:, 2]).all()
    assert out[:, 0].mean() > 0.8 and out.min() == 0
    grey = draws("mems", "sketch", Image.new("RGB", (50, 40), (255, 0, 0)), 50, normalize="none")
    assert abs(grey[:, 0, 16, 16].median().item() - 0.299) < 0.01  # the brightness of red


def test_mems_crops_turns_and_erases_as_published():
    """Seen on a black sheet, where everything but the sheet is white: the ink left is 1 but for the corners and the square."""
    black = draws("mems", "sketch", Image.new("RGB", (64, 64), "black"), 600, 48, normalize="none")[:, 0]
    white = (black > 0.5).float()
    # the least turned ones show the erased squares alone: with p = 0.6, of an area from 0.02 to 0.2
    corners = white[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum(1)
    erased = white[corners == 0].mean((1, 2))
    assert erased.max() < 0.2 + 0.05
    # a turn by up to 90 degrees about the middle leaves at most 1 - 2 (sqrt 2 - 1) = 0.17 of the sheet empty
    assert white.mean((1, 2)).max() < 0.2 + 0.172 + 0.02
    middle = white[:, 24, 24]  # never left empty by a turn; a square of side s covers it with a chance of at least s^2
    assert 0.6 * 0.02 < middle.mean() < 0.6 * 0.6
    # strokes grow by at most 1 / sqrt(0.6), and never shrink
    ink = 1 - draws("mems", "sketch", drawing(), 200, 64, normalize="none")[:, 0]
    drawn = (255 - np.asarray(drawing())[..., 0]).sum() / 255
    assert ink.sum((1, 2)).max() < drawn / 0.6 * (4 / 3) * 1.05


def test_mems_squares_are_erased_with_their_probability(monkeypatch):
    """Without turns the white pixels of a black sheet are the erased square."""
    from zsml.data import transforms

    monkeypatch.setattr(transforms.v2, "RandomRotation", lambda *_, **__: torch.nn.Identity())
    white = draws("mems", "sketch", Image.new("RGB", (64, 64), "black"), 1000, 50, normalize="none")[:, 0] > 0.5
    area = white.float().mean((1, 2))
    share = (area > 0).float().mean().item()
    assert abs(share - 0.6) < 5 * (0.6 * 0.4 / 1000) ** 0.5
    assert 0.015 < area[area > 0].min() < 0.03 and 0.19 < area.max() < 0.21
    for sheet in white[area > 0][:50]:
        rows, columns = sheet.any(1).sum(), sheet.any(0).sum()
        assert rows == columns and sheet.sum() == rows * columns


# ---- bad input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "normalize",
    ["auto", "Imagenet", 3, None, (0.5, 0.5), ((0.5,), (0.5,)), ((0, 0, 0), (1, 1, 0)), ((0, 0, float("nan")), (1, 1, 1)),
     (("a", "b", "c"), (1, 1, 1)), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), ((0, 0, 0, 0), (1, 1, 1, 1)), ((0, 0, 0), (1, 1, -1))],
)  # fmt: skip
def test_bad_normalisation(normalize):
    with pytest.raises(InputError, match=r"normalize=.*imagenet, none, clip or a pair \(mean, std\) of three numbers each"):
        build_transform("test", "photo", 8, normalize=normalize)


@pytest.mark.parametrize(
    ("name", "nearest"), [("tu-berlin", "tuberlin"), ("Sketchy", "sketchy"), ("quick_draw", "quickdraw"), ("folders", "folder")]
)
def test_an_unknown_data_set_is_told_the_nearest_name(name, nearest):
    with pytest.raises(InputError, match=rf"name '{name}' is not known; choose from synthetic, .*\(did you mean '{nearest}'\?\)"):
        load_dataset(name, None, "train", "photo")
