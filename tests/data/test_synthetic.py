"""The generated set: the same everywhere, varied within a class, with structure and nothing else to tell classes apart."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from zsml.data import load_dataset
from zsml.data.keys import numpy_stream
from zsml.data.synthetic.grammar import FAMILIES, object_classes
from zsml.errors import InputError


def read(part="test", modality="photo", **options):
    return load_dataset("synthetic", None, part, modality, **{"transform": None, "image_size": 48} | options)


def pixels(data, items):
    return np.stack([np.asarray(data.load(k), dtype=np.float64) for k in items])  # [N, S, S, 3]


# ---- classes and parts -------------------------------------------------------------------------------------------------------


def test_classes_differ_in_structure():
    classes = object_classes(1000, seed=0)
    assert len({c.name for c in classes}) == 1000
    assert {c.family for c in classes[: len(FAMILIES)]} == set(FAMILIES.values())
    for a, b in combinations(classes[:150], 2):
        if a.family is b.family:
            assert sum(x != y for x, y in zip(a.traits.picks.values(), b.traits.picks.values(), strict=True)) >= 2
    assert [c.name for c in object_classes(40, seed=0)] == [c.name for c in classes[:40]]
    assert [c.name for c in object_classes(40, seed=1)] != [c.name for c in classes[:40]]


def test_parts_of_the_set():
    train, val, test = (read(part) for part in ("train", "val", "test"))
    assert (len(train.classes), len(test.classes)) == (80, 20) and train.classes == val.classes
    assert not set(train.classes) & set(test.classes)
    assert (len(train), len(val), len(test)) == (80 * 90, 80 * 10, 20 * 100)
    assert not set(train.paths) & set(val.paths)
    assert read("test", "sketch").classes == test.classes
    assert torch.bincount(train.labels).tolist() == [90] * 80
    assert train.paths[0].startswith(f"synthetic/photo/{train.classes[0]}/")
    few = read("test", num_classes=12, unseen=5, samples_per_class=7)
    assert (len(few.classes), len(few)) == (5, 35)
    assert read("test", num_classes=12, unseen=[few.classes[2]]).classes == [few.classes[2]]


@pytest.mark.parametrize("size", [32, 57, 224])
@pytest.mark.parametrize("modality", ["sketch", "photo"])
def test_sizes(modality, size):
    data = read("val", modality, image_size=size, samples_per_class=10)
    for k in range(0, len(data), 11):
        image = data.load(k)
        assert image.size == (size, size) and image.mode == "RGB"


def test_a_picture_is_the_same_at_every_size():
    """The draws do not depend on the size, so a run at another size sees the same objects."""
    for modality in ("sketch", "photo"):
        large, small = (read("test", modality, image_size=size, samples_per_class=2) for size in (128, 64))
        for k in range(0, len(large), 7):
            a = np.asarray(large.load(k).reduce(4).convert("L"), dtype=float).ravel()
            b = np.asarray(small.load(k).reduce(2).convert("L"), dtype=float).ravel()
            assert np.corrcoef(a, b)[0, 1] > 0.8


# ---- determinism -------------------------------------------------------------------------------------------------------------


def digest(seed, modality, items):
    data = read("train", modality, seed=seed, samples_per_class=3)
    return hashlib.sha256(b"".join(data.load(k).tobytes() for k in items)).hexdigest()


def test_the_same_in_another_process():
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_synthetic import digest;"
        "print(digest(3, 'photo', [0, 50, 7]), digest(3, 'sketch', [0, 50, 7]))"
    )
    here = [digest(3, modality, [0, 50, 7]) for modality in ("photo", "sketch")]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert out.stdout.split() == here, out.stderr


def test_the_same_in_workers_and_in_any_order():
    data = load_dataset("synthetic", None, "test", "sketch", image_size=32, num_classes=10, samples_per_class=6)
    alone = torch.stack([data[k][0] for k in range(len(data))])
    np.random.seed(5)  # the global generators have no say
    torch.manual_seed(5)
    loaded = torch.cat([images for images, *_ in DataLoader(data, batch_size=5, num_workers=2)])
    assert torch.equal(loaded, alone)
    assert torch.equal(data[7][0], alone[7])


def test_seeds_differ():
    for modality in ("photo", "sketch"):
        assert digest(0, modality, [0]) != digest(1, modality, [0])


def test_an_image_does_not_depend_on_how_many_there_are():
    few, many = read("test", samples_per_class=5), read("test", samples_per_class=50)
    assert few.load(5 + 3).tobytes() == many.load(50 + 3).tobytes()
    assert few.paths[5 + 3] == many.paths[50 + 3]


# ---- what the pictures look like ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_every_object_can_be_drawn(seed):
    for thing in object_classes(95, seed):
        for k in range(3):
            parts = thing.specimen(numpy_stream(seed, k))
            assert 1 < len(parts) < 120
            for part in parts:
                assert part.points.ndim == 2 and part.points.shape[1] == 2 and len(part.points) >= 2
                assert np.isfinite(part.points).all() and np.abs(part.points).max() < 3


def test_sketches_are_dark_strokes_on_white_inside_the_frame():
    data = read("val", "sketch", samples_per_class=20)
    images = pixels(data, range(0, len(data), 2))
    assert (images[..., 0] == images[..., 2]).all()
    assert (images > 250).mean() > 0.7
    ink = (images < 150).mean(axis=(1, 2, 3))
    assert (ink > 0.003).all() and (ink < 0.45).all()
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert border.mean() > 250


def test_photos_are_coloured_and_fill_the_frame():
    data = read("val", "photo", samples_per_class=20)
    images = pixels(data, range(0, len(data), 4))
    assert (images.std(axis=(1, 2)).mean(axis=1) > 12).all()  # nothing is flat
    assert np.abs(images[..., 0] - images[..., 2]).mean() > 20
    brightness = images.mean(axis=(1, 2, 3))
    assert brightness.min() > 10 and brightness.std() > 30


@pytest.mark.parametrize("modality", ["sketch", "photo"])
def test_specimens_vary(modality):
    """Two specimens of a class differ nearly as much, pixel by pixel, as two objects of different classes."""
    data = read("test", modality, image_size=32, samples_per_class=12)
    images = pixels(data, range(len(data))).reshape(len(data), -1)
    distance = torch.cdist(*[torch.from_numpy(images)] * 2).numpy()
    same = data.labels[:, None] == data.labels[None]
    off_diagonal = ~torch.eye(len(data), dtype=torch.bool)
    within, between = distance[(same & off_diagonal).numpy()], distance[~same.numpy()]
    assert within.min() > 0.2 * between.mean()
    assert within.mean() > 0.8 * between.mean()


def mean_average_precision(query, gallery, query_labels, gallery_labels):
    """Of ranking the gallery by Euclidean distance; a distance of 0 is the query itself and left out."""
    distance = torch.cdist(torch.from_numpy(query), torch.from_numpy(gallery))
    distance[distance == 0] = float("inf")
    relevant = (gallery_labels[distance.argsort(1)] == query_labels[:, None]).double()
    precision = relevant.cumsum(1) / torch.arange(1, len(gallery) + 1)
    return ((precision * relevant).sum(1) / relevant.sum(1)).mean().item()


def test_neither_colour_nor_pixels_give_the_class_away():
    photos, sketches = (read("test", modality, image_size=32, samples_per_class=30) for modality in ("photo", "sketch"))
    chance = 1 / len(photos.classes)
    p, s = pixels(photos, range(len(photos))), pixels(sketches, range(len(sketches)))
    colour = np.concatenate([p.mean(axis=(1, 2)), p.std(axis=(1, 2))], axis=1)
    assert mean_average_precision(colour, colour, photos.labels, photos.labels) < 1.5 * chance
    flat_s, flat_p = s.reshape(len(s), -1), p.reshape(len(p), -1)
    assert mean_average_precision(flat_s, flat_p, sketches.labels, photos.labels) < 1.5 * chance


# ---- bad input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes=1 must be 2 or more"),
        ({"num_classes": 10**5}, "num_classes=100000 must be at most 1000"),
        ({"samples_per_class": 0}, "samples_per_class=0 must be 1 or more"),
        ({"unseen": 100}, "unseen=100 must be from 1 to 99"),
        ({"unseen": ["unicorn"]}, "there is no class 'unicorn'"),
        ({"part": "val", "samples_per_class": 1}, "val part is empty: samples_per_class=1"),
        ({"val_fraction": -0.1}, "val_fraction=-0.1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        read(**options)


@pytest.mark.parametrize("options", [{"num_classes": 10.0}, {"samples_per_class": "5"}, {"val_fraction": None}])
def test_wrong_types(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        read(**options)
