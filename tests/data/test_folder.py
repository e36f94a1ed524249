"""Images sorted into folders: the split, and everything that can be wrong with the folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from zsml.data import SketchPhotoDataset, load_dataset
from zsml.errors import InputError

CLASSES = [f"class {k}" for k in range(10)]


@pytest.fixture
def root(tmp_path) -> Path:
    for kind in ("sketch", "photo"):
        for k, name in enumerate(CLASSES):
            (tmp_path / kind / name).mkdir(parents=True)
            for n in range(6 + k):
                Image.new("RGB", (6, 5), (20 * k, n, 0)).save(tmp_path / kind / name / f"{n}.png")
    return tmp_path


def read(root, part="train", modality="sketch", **options):
    return load_dataset("folder", root, part, modality, image_size=8, **options)


def test_every_image_is_in_one_part(root):
    for modality in ("sketch", "photo"):
        parts = {part: read(root, part, modality) for part in ("train", "val", "test")}
        paths = [path for data in parts.values() for path in data.paths]
        assert sorted(paths) == sorted(str(p) for p in (root / modality).glob("*/*"))
        assert len(set(paths)) == len(paths)
        assert parts["train"].classes == parts["val"].classes
        assert sorted(parts["train"].classes + parts["test"].classes) == CLASSES
        assert len(parts["test"].classes) == 2
        for data in parts.values():
            assert [Path(path).parent.name for path in data.paths] == [data.classes[label] for label in data.labels]
            assert sorted(data.labels.unique().tolist()) == list(range(len(data.classes)))


def test_both_modalities_have_the_same_classes_and_seeds_differ(root):
    unseen = set()
    for seed in range(8):
        for part in ("train", "val", "test"):
            both = SketchPhotoDataset(read(root, part, 0, seed=seed), read(root, part, 1, seed=seed))
            assert both.labels.shape == both.modality.shape == (len(both),)
        unseen.add(tuple(both.classes))
    assert len(unseen) > 4
    assert read(root, "val", seed=1).paths == read(root, "val", seed=1).paths != read(root, "val", seed=2).paths


def test_unseen_classes_can_be_chosen(root):
    assert read(root, "test", unseen=["class 7", "class 3"]).classes == ["class 3", "class 7"]
    assert "class 3" not in read(root, "train", unseen=["class 7", "class 3"]).classes
    assert len(read(root, "test", unseen=4).classes) == 4
    assert set(read(root, "test", unseen=2).classes) <= set(read(root, "test", unseen=4).classes)


def test_val_fraction(root):
    train, val = read(root, "train", val_fraction=0.5), read(root, "val", val_fraction=0.5)
    total = torch.bincount(train.labels) + torch.bincount(val.labels)
    assert ((torch.bincount(val.labels) - total / 2).abs() <= 0.5).all()
    assert torch.bincount(read(root, "val", val_fraction=0.01).labels).tolist() == [1] * 8
    assert len(read(root, "train", val_fraction=0)) == len(read(root, "train")) + len(read(root, "val"))
    with pytest.raises(InputError, match=r"val part is empty.*val_fraction=0"):
        read(root, "val", val_fraction=0)


def test_what_is_no_image_is_ignored(root):
    before = read(root).paths
    (root / "sketch/class 0/Thumbs.db").write_text("x")
    (root / "sketch/class 0/.hidden.png").write_text("x")
    (root / "sketch/readme.txt").write_text("x")
    (root / "sketch/.cache").mkdir()
    (root / "sketch/class 0/more.png").mkdir()
    assert read(root).paths == before
    shutil.copy(root / "sketch/class 0/0.png", root / "sketch/class 0/upper.PNG")
    assert len(read(root, "test", unseen=["class 0"])) == 6 + 1


def test_items(root):
    data = read(root, "test", "photo", unseen=["class 4"], transform=None)
    for k in range(len(data)):
        image, label, modality = data[k]
        assert (label, modality, image.mode) == (0, 1, "RGB")
        assert image.getpixel((0, 0)) == (80, int(Path(data.paths[k]).stem), 0)
    assert data[-1][0].getpixel((0, 0)) == image.getpixel((0, 0))
    with pytest.raises(IndexError):
        data[len(data)]
    image, label, modality = read(root)[0]
    assert image.shape == (3, 8, 8) and image.dtype == torch.float32 and type(label) is int and modality == 0


def test_real_photographs_and_sketches(shared_data):
    total = {"sketch": 3_929, "photo": 1_670}
    for modality, number in total.items():
        parts = [load_dataset("folder", shared_data / "pacs", part, modality, unseen=2) for part in ("train", "val", "test")]
        assert sum(map(len, parts)) == number and [len(p.classes) for p in parts] == [5, 5, 2]
        assert torch.isfinite(parts[2][0][0]).all() and parts[2][0][0].shape == (3, 224, 224)


def remove(*paths):
    return lambda root: [shutil.rmtree(root / path) for path in paths]


def empty(path):
    return lambda root: [file.unlink() for file in (root / path).iterdir()]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("photo"), r"has no folder 'photo'"),
        (remove(*(f"sketch/{name}" for name in CLASSES)), r"sketch' holds no class folders"),
        (remove("photo/class 3"), r"classes with one modality only: 'class 3' \(no photo folder\)"),
        (remove("sketch/class 3", "photo/class 5"), r"'class 3' \(no sketch folder\), 'class 5' \(no photo folder\)"),
        (empty("sketch/class 2"), r"classes without images.*sketch/class 2"),
    ],
)
def test_damaged_folders(root, damage, message):
    damage(root)
    with pytest.raises(InputError, match=message):
        read(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unseen": ["class 3", "clas 4"]}, r"unseen: there is no class 'clas 4'; the classes are class 0"),
        ({"unseen": ["class 3", "class 3"]}, r"names a class twice"),
        ({"unseen": []}, r"unseen names 0 of the 10"),
        ({"unseen": CLASSES}, r"unseen names 10 of the 10"),
        ({"unseen": 0}, r"unseen=0 must be from 1 to 9"),
        ({"unseen": 10}, r"unseen=10 must be from 1 to 9"),
        ({"val_fraction": 1.0}, r"val_fraction=1.0 must be at least 0 and below 1"),
        ({"val_fraction": float("nan")}, r"val_fraction=nan"),
        ({"lists": "."}, r"'folder' has no option 'lists'; it takes unseen, val_fraction"),
    ],
)
def test_bad_options(root, options, message):
    with pytest.raises(InputError, match=message):
        read(root, **options)


@pytest.mark.parametrize("options", [{"unseen": "class 3"}, {"unseen": 2.0}, {"unseen": True}, {"val_fraction": "0.1"}])
def test_wrong_types(root, options):
    with pytest.raises(TypeError, match=f"{next(iter(options))} must be"):
        read(root, **options)


def test_bad_roots(root):
    with pytest.raises(InputError, match=r"root='.*nowhere' is not there"):
        read(root / "nowhere")
    with pytest.raises(InputError, match=r"root='.*0.png' is not a folder"):
        read(root / "sketch/class 0/0.png")
    with pytest.raises(InputError, match="root is missing"):
        read(None)
    remove(*(f"{kind}/{name}" for kind in ("sketch", "photo") for name in CLASSES[1:]))(root)
    with pytest.raises(InputError, match=r"only 1 class \(class 0\)"):
        read(root)
