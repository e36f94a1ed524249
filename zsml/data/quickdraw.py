"""QuickDraw Extended: sketches and photos of 110 classes, 80 seen and 30 unseen.

Dey et al., Doodle to Search, CVPR 2019. The unseen classes have 92,291 sketches and 54,151 photos, whose 20 GB matrix of
distances nothing here holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zsml.data.dataset import ImageDataset
from zsml.data.lists import PublishedSplit, read_lists

ZEROSHOT = PublishedSplit(
    name="quickdraw",
    folder="zeroshot",
    seen=80,
    unseen=30,
    stems={"sketch": "sketch", "photo": "all_photo"},
    rows={("sketch", "test"): 92_291, ("photo", "test"): 54_151},  # the lengths of the train lists are not known for certain
    val=False,
)


def read_quickdraw(root: Path, part: str, modality: int, **options: Any) -> ImageDataset:
    """root holds the folders that the lists name, and zeroshot/ with the lists. No part is held out: there is no "val"."""
    return read_lists(ZEROSHOT, root, part, modality, **options)
