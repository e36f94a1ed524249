"""Sketchy Extended: 75,481 sketches and 85,502 photos of 125 classes, in two published splits.

Sangkloy et al., SIGGRAPH 2016; photos added by Liu et al., CVPR 2017; zeroshot1: Shen et al., CVPR 2018; zeroshot2: Yelamarthi et
al., ECCV 2018. Of the unseen photos 2,499 (zeroshot1) and 2,100 (zeroshot2) are second copies, as in every published
evaluation.
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
    sha256={
        ("photo", "train"): ("fb17c99bb1d07ac7", "ca45896d11f3b6c1"),
        ("photo", "test"): ("0af832ca3705b3c4", "c871b4f1f83ca9ad"),
        ("sketch", "train"): ("ae4f6392ebd9d1fb", "bc2099365ef828dc"),
        ("sketch", "val"): ("b0b7360742641989", "ae03b33df4bd4345"),
        ("sketch", "test"): ("60a311850a8123b4", "f65aabe9f0512f91"),
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
    sha256={  # of the version that holds out 10
        ("photo", "train"): ("ebda84bf4c9201c2", "d0a733a6b8e1af22"),
        ("photo", "test"): ("a196a5311b6265f9", "aea058a4acd547f8"),
        ("sketch", "val"): ("47f3ed9ab62b90b8", "b68db95356ab9ba1"),
        ("sketch", "test"): ("b3809f094dd96fb1", "ae88102fc683c0ff"),
    },
)


def read_sketchy(root: Path, part: str, modality: int, **options: Any) -> ImageDataset:
    """100 seen and 25 unseen classes. root holds 256x256/, EXTEND_image_sketchy_ready/ and zeroshot1/."""
    return read_lists(ZEROSHOT1, root, part, modality, **options)


def read_sketchy2(root: Path, part: str, modality: int, **options: Any) -> ImageDataset:
    """104 seen and 21 unseen classes, of which one (songbird) has photos of classes of ImageNet-1k, by the WordNet ids in their
    names; of the 25 of zeroshot1 12 have some. root holds 256x256/, EXTEND_.../ and zeroshot2/."""
    return read_lists(ZEROSHOT2, root, part, modality, **options)
