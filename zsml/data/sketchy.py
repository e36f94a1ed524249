"""Sketchy Extended: 75,481 sketches and 85,502 photos of 125 classes, in two published splits.

Sangkloy et al., SIGGRAPH 2016; photos added by Liu et al., CVPR 2017; zeroshot1: Shen et al., CVPR 2018; zeroshot2: Yelamarthi et
al., ECCV 2018. About 2,500 of the unseen photos of zeroshot1 are second copies, as in every published evaluation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zsml.data.dataset import ImageDataset
from zsml.data.lists import PublishedSplit, read_lists

STEMS = {"sketch": "sketch_tx_000000000000_ready", "photo": "all_photo"}

ZEROSHOT1 = PublishedSplit(
    name="sketchy",
    folder="zeroshot1",
    seen=100,
    unseen=25,
    stems=STEMS,
    rows={
        ("photo", "train"): 68_401,
        ("photo", "test"): 17_101,
        ("sketch", "train"): 55_252,
        ("sketch", "val"): 5_000,
        ("sketch", "test"): 15_229,
    },
)

# Copies of this split differ in how many sketches they hold out for validation: 10 of each class, or 50.
ZEROSHOT2 = PublishedSplit(
    name="sketchy2",
    folder="zeroshot2",
    seen=104,
    unseen=21,
    stems=STEMS,
    rows={
        ("photo", "train"): 72_949,
        ("photo", "test"): 12_553,
        ("sketch", "train"): (61_747, 57_587),
        ("sketch", "val"): (1_040, 5_200),
        ("sketch", "test"): 12_694,
    },
    aliases=("zeroshot0",),
)


def read_sketchy(root: Path, part: str, modality: int, **options: Any) -> ImageDataset:
    """100 seen and 25 unseen classes. root holds 256x256/, EXTEND_image_sketchy_ready/ and zeroshot1/."""
    return read_lists(ZEROSHOT1, root, part, modality, **options)


def read_sketchy2(root: Path, part: str, modality: int, **options: Any) -> ImageDataset:
    """104 seen and 21 unseen classes, none of them in ImageNet-1k by name. root holds 256x256/, EXTEND_.../ and zeroshot2/."""
    return read_lists(ZEROSHOT2, root, part, modality, **options)
