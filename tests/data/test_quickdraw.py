"""The lists of QuickDraw Extended, as copies of them are laid out."""

from __future__ import annotations

import pytest
import torch
from small_copies import write_quickdraw

from zsml.data import SketchPhotoDataset, load_dataset
from zsml.data.quickdraw import ZEROSHOT
from zsml.data.sketchy import ZEROSHOT1, ZEROSHOT2
from zsml.errors import InputError


@pytest.mark.parametrize("middle", ["_filelist", ""])
def test_both_namings_of_the_lists_are_read(tmp_path, middle):
    root = write_quickdraw(tmp_path, middle=middle)
    for part, classes in (("train", ["c0", "c1", "c2"]), ("test", ["palm tree 0", "palm tree 1"])):
        sketches, photos = (
            load_dataset("quickdraw", root, part, kind, image_size=8, check_counts=False) for kind in ("sketch", "photo")
        )
        both = SketchPhotoDataset(sketches, photos)
        assert both.classes == classes and torch.bincount(sketches.labels).tolist() == list(range(1, len(classes) + 1))
        assert both[0][0].shape == (3, 8, 8) and photos.paths[0] == f"{root}/images/{classes[0]}/0.png"


def test_the_published_counts_are_asked_for(tmp_path):
    root = write_quickdraw(tmp_path, seen=80, unseen=30, images=False)
    assert len(load_dataset("quickdraw", root, "train", "photo", require_images=False)) == 80 * 81 // 2  # a length nobody knows
    for kind, rows in (("sketch", "92,291"), ("photo", "54,151")):
        with pytest.raises(InputError, match=f"expected {rows} rows, found 465"):
            load_dataset("quickdraw", root, "test", kind, require_images=False)
    (root / "zeroshot/cname_cid_zero.txt").write_text("".join(f"palm tree {k} {k}\n" for k in range(31)))
    with pytest.raises(InputError, match="expected 30 classes, found 31"):
        load_dataset("quickdraw", root, "test", "photo", require_images=False)


def test_nothing_is_held_out(tmp_path):
    write_quickdraw(tmp_path)
    for kind in ("sketch", "photo"):
        with pytest.raises(InputError, match=f"quickdraw has no part 'val' of modality '{kind}': its lists hold out nothing"):
            load_dataset("quickdraw", tmp_path, "val", kind)


def test_every_version_of_the_21_class_split_is_complete():
    """All 75,481 sketches are in one of the three lists, however many are held out, and all 85,502 photos in one of two."""
    unseen = ZEROSHOT2.rows["sketch", "test"]
    for train, val in zip(ZEROSHOT2.lengths("sketch", "train"), ZEROSHOT2.lengths("sketch", "val"), strict=True):
        assert train + val + unseen == 75_481 and val % 104 == 0
    assert sum(ZEROSHOT1.lengths("sketch", part)[0] for part in ("train", "val", "test")) == 75_481
    for split in (ZEROSHOT1, ZEROSHOT2):
        assert sum(split.lengths("photo", part)[0] for part in ("train", "test")) == 85_502
    assert ZEROSHOT.lengths("photo", "train") == () and (ZEROSHOT.seen, ZEROSHOT.unseen) == (80, 30)


def test_lists_of_the_21_class_split_are_found_under_its_other_name(shared_data, tmp_path):
    (tmp_path / "zeroshot0").symlink_to(shared_data / "splits/Sketchy/zeroshot2")
    assert len(load_dataset("sketchy2", tmp_path, "val", "sketch", require_images=False)) == 1_040
