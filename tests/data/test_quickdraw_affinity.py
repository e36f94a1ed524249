"""Data sets like QuickDraw, of which no affinity was published and whose files have no WordNet ids: by names, or without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_wordnet import isolated, write_wordnet

from zsml.data import load_dataset
from zsml.data.affinity import read_affinity
from zsml.data.affinity_build import build_affinity, file_ids
from zsml.data.wordnet import WordNet
from zsml.errors import InputError
from zsml.losses import DistillationLoss

SEEN = ["hot_dog", "The Eiffel Tower", "palm tree", "ant"]


@pytest.fixture
def photos(tmp_path):
    """The seen photos of a small QuickDraw; no file is there."""
    (tmp_path / "zeroshot").mkdir()
    (tmp_path / "zeroshot/cname_cid.txt").write_text("".join(f"{name} {k}\n" for k, name in enumerate(SEEN)))
    rows = [f"images/{name}/{i}.jpg {k}\n" for k, name in enumerate(SEEN) for i in range(3)]
    (tmp_path / "zeroshot/all_photo_filelist_train.txt").write_text("".join(rows))
    return load_dataset("quickdraw", tmp_path, "train", "photo", check_counts=False, require_images=False)


@pytest.fixture
def table(photos, tmp_path) -> Path:
    nouns = [(("ant",), ()), (("palm_tree",), ()), *isolated(999)]
    numbers = write_wordnet(tmp_path / "wordnet", nouns, numbers=range(1, 1002))
    ids = [f"n{number:08d}" for number in [numbers[0], *numbers[2:]]]
    build_affinity(photos, WordNet(tmp_path / "wordnet"), imagenet=ids).save(tmp_path / "table.npz")
    return tmp_path / "table.npz"


def batch(classes: int = 8):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(classes, 1000, generator=draw, dtype=torch.float64) for _ in range(2)]


def test_classes_without_ids_go_by_their_names_and_the_others_are_near_to_nothing(photos, table):
    assert file_ids(photos) == {name: [] for name in SEEN}
    read = read_affinity(table, photos.classes)
    assert read.nonzero().tolist() == [[3, 0]]  # ant; the tower and the hot dog are unknown, "palm tree" is a phrase


def test_a_class_near_to_nothing_is_taught_without_a_bonus(photos, table):
    labels = torch.arange(8) % 3  # all but the ants
    affinity = read_affinity(table, photos.classes)[labels]
    student, teacher = batch()
    with_rows, without, no_bonus = DistillationLoss(bonus=0.3), DistillationLoss(bonus=0.3), DistillationLoss(bonus=0.0)
    expected = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    for loss in (with_rows(student, teacher, affinity), without(student, teacher), no_bonus(student, teacher, affinity)):
        assert torch.allclose(loss, expected, rtol=1e-12)


def test_a_class_near_to_something_is(photos, table):
    affinity = read_affinity(table, photos.classes)[torch.full((8,), 3)]
    student, teacher = batch()
    plain, raised = (DistillationLoss(bonus=bonus)(student, teacher, affinity) for bonus in (0.0, 0.3))
    shifted = teacher.clone()
    shifted[:, 0] += 0.3
    assert torch.allclose(raised, DistillationLoss()(student, shifted), rtol=1e-6) and not torch.allclose(
        raised, plain, rtol=1e-6
    )


def test_a_table_of_another_data_set_is_refused_by_the_names_of_all_its_missing_classes(photos, table):
    with pytest.raises(InputError, match=r"--affinity .*: no row for 2 of the 3 classes: wine_bottle, axe;"):
        read_affinity(table, ["wine_bottle", "ant", "axe"])
