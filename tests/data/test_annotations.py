"""JSON annotations of DASE and MEMS: labels as they give them, one order of classes for sketches and photos."""

from __future__ import annotations

import re

import pytest
import torch
from small_copies import CLASSES, write_annotations

from zsml.data import SketchPhotoDataset, load_dataset
from zsml.data.annotations import PUBLISHED, read_entries, wrong_counts
from zsml.engine.config import TrainConfig
from zsml.engine.describe import describe
from zsml.engine.tables import split_table
from zsml.errors import InputError


def load(root, part, kind, **options):
    return load_dataset("annotations", root, part, kind, image_size=8, **options)


@pytest.mark.parametrize("place", ["mine", "mine/anno", "../anno", "elsewhere"])
def test_the_lists_are_read_as_they_are(tmp_path, place):
    root = tmp_path / "data" / "mine"
    folder = {"../anno": tmp_path / "anno", "elsewhere": tmp_path / "elsewhere"}.get(place, tmp_path / "data" / place)
    write_annotations(root, folder)
    options = {"lists": folder} if place == "elsewhere" else {}
    train, test, photos, gallery = (
        load(root, part, kind, **options)
        for part, kind in (("train", "sketch"), ("test", "sketch"), ("train", "photo"), ("test", "photo"))
    )
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2] and test.labels.tolist() == [0, 1, 2]
    assert photos.paths == gallery.paths and photos.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # shared, as published
    assert train.paths[2] == f"{root}/sketches/giraffe/0.png" and photos.paths[3] == f"{root}/photos/griaffe/0.jpg"
    assert SketchPhotoDataset(train, photos).classes == SketchPhotoDataset(test, gallery).classes == list(CLASSES)
    assert not set(train.paths) & set(test.paths)
    image, label, modality = gallery[8]
    assert image.shape == (3, 8, 8) and (label, modality) == (2, 1)


def test_of_several_data_sets_that_of_the_root_is_read(tmp_path):
    anno = tmp_path / "anno"
    for name in ("one", "two"):
        write_annotations(tmp_path / "data" / name, anno)
    assert load(tmp_path / "data/two", "train", "sketch").paths[0].startswith(f"{tmp_path}/data/two/sketches")
    (tmp_path / "data/one").rename(tmp_path / "data/three")
    with pytest.raises(InputError, match=r"lists: '.*anno' holds annotations of one, two; name a folder"):
        load(tmp_path / "data/three", "train", "sketch", lists=anno)


def test_published_counts():
    """250 classes of 70 + 10 sketches; 125 classes of 75,481 sketches, 50 of each kept out."""
    assert PUBLISHED["TUBerlin"] == (250, 250 * 70, 250 * 10)
    classes, train, test = PUBLISHED["sketchy"]
    assert test == classes * 50 and train + test == 75_481


def test_other_counts_than_published(tmp_path):
    root = write_annotations(tmp_path / "TUBerlin", tmp_path / "TUBerlin")
    with pytest.raises(InputError, match=r"TUBerlin_sketch.json': expected 250 classes, found 3; .*check_counts=False"):
        load(root, "train", "photo")
    assert len(load(root, "train", "photo", check_counts=False)) == 9
    lists = {part: read_entries(root / "TUBerlin_sketch.json", part) for part in ("train", "test")}
    problems = wrong_counts(root / "TUBerlin_sketch.json", list(CLASSES), lists)
    assert [re.search(r"expected .*", problem)[0] for problem in problems[1:]] == [
        "expected 17,500 rows in 'train', found 6", "expected 2,500 rows in 'test', found 3",
    ]  # fmt: skip


def test_a_description_says_what_is_trained_on_and_what_is_tested(tmp_path):
    root = write_annotations(tmp_path / "mine", tmp_path / "mine")
    found = describe(TrainConfig(data="annotations", root=root), tmp_path / "sheet.png")
    counted = [(row["class"], row["split"], row["sketches"], row["photos"]) for row in found["classes"]]
    assert counted == [(c, "train", 2, 3) for c in CLASSES] + [(c, "test", 1, 3) for c in CLASSES]
    assert split_table(found).splitlines()[-1].split()[:4] == ["3", "classes", "0", "unseen"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sketch_train": [["sketches/a/1.png", 0, 1]]}, r"mine_sketch.json', train entry 0: expected \[path, label\]"),
        ({"sketch_train": [["sketches/a/1.png", "0"]]}, r"train entry 0: .*got \[\"sketches/a/1.png\", \"0\"\]"),
        ({"sketch_train": [["sketches/a/1.png", True]]}, r"train entry 0"),
        ({"sketch_test": [["sketches/ant/1.png", -1]]}, r"test entry 0"),
        ({"sketch_train": [["1.png", 0]]}, r"'1.png' is no path from the root on"),
        ({"sketch_train": [["../other/1.png", 0]]}, r"'../other/1.png' is no path from the root on"),
        ({"sketch_train": [["/etc/a/1.png", 0]]}, r"'/etc/a/1.png' is no path from the root on"),
        ({"sketch_train": []}, r"mine_sketch.json' has no list 'train'; expected"),
        ({"sketch_test": {"a": 1}}, r"has no list 'test'"),
        ({"sketch_test": [["sketches/ant/2.png", 4]]}, r"the folder 'ant' has the labels 2 and 4"),
        ({"sketch_test": [["sketches/bee/2.png", 2]]}, r"label 2 is given to the folders 'ant' and 'bee'"),
        ({"sketch_test": [["sketches/bee/2.png", 4]]}, r"labels must be 0..3, but no image has label 3"),
        ({"photo_train": [["photos/ant/1.jpg", 0]]}, r"mine_photo.json': 'ant' has label 0, but 2 in the sketch file"),
        ({"photo_train": [["photos/bee/1.jpg", 3]]}, r"label 3 of 'bee' is none of the 3 labels"),
        ({"photo_train": None}, r"mine_photo.json' has no list 'train'"),
    ],
)  # fmt: skip
def test_malformed_lists(tmp_path, changes, message):
    root = write_annotations(tmp_path / "mine", tmp_path / "mine", **changes)
    with pytest.raises(InputError, match=message):
        load(root, "train", "photo", require_images=False)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_not_json(tmp_path, text):
    root = write_annotations(tmp_path / "mine", tmp_path / "mine", images=False)
    (root / "mine_sketch.json").write_bytes(text)
    with pytest.raises(InputError, match=r"mine_sketch.json' is not a JSON file: "):
        load(root, "train", "photo")


def test_missing_files_and_parts(tmp_path):
    root = write_annotations(tmp_path / "mine", tmp_path / "mine")
    with pytest.raises(InputError, match=r"annotations have no part 'val'"):
        load(root, "val", "sketch")
    with pytest.raises(InputError, match=r"'annotations' has no option 'unseen'; it takes lists, check_counts, require_images"):
        load(root, "train", "sketch", unseen=2)
    with pytest.raises(InputError, match=r"lists: no folder '.*nowhere'"):
        load(root, "train", "sketch", lists=tmp_path / "nowhere")
    (root / "sketches/ant/2.png").unlink()
    assert len(load(root, "train", "sketch")) == 6
    with pytest.raises(InputError, match=r"1 of the 3 images listed for annotations are missing: 'sketches/ant/2.png'"):
        load(root, "test", "sketch")
    assert torch.equal(load(root, "test", "sketch", require_images=False).labels, torch.tensor([0, 1, 2]))
    (root / "mine_photo.json").unlink()
    with pytest.raises(InputError, match=r"lists: 'mine_photo.json' is not beside 'mine_sketch.json'"):
        load(root, "train", "sketch")
    (root / "mine_sketch.json").unlink()
    with pytest.raises(InputError, match=r"lists: no <dataset>_sketch.json and <dataset>_photo.json in '.*mine', '.*mine/anno'"):
        load(root, "train", "sketch")
