"""TU-Berlin Extended: 20,000 sketches and about 204,000 photos of 250 classes, 220 seen and 30 unseen.

Sketches: Eitz et al., SIGGRAPH 2012; photos: Liu et al., CVPR 2017; split: Shen et al., CVPR 2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zsml.data.dataset import ImageDataset
from zsml.data.lists import PublishedSplit, read_lists

ZEROSHOT = PublishedSplit(
    name="tuberlin",
    folder="zeroshot",
    seen=220,
    unseen=30,
    stems={"sketch": "png_ready", "photo": "ImageResized_ready"},
    rows={  # the length of the photo train list is not known for certain
        ("photo", "test"): 27_989,
        ("sketch", "train"): 15_400,
        ("sketch", "val"): 2_200,
        ("sketch", "test"): 2_400,
    },
    sha256={
        ("photo", "test"): ("6a0ea982a6acdf2b", "abd857c6e2953fa6"),
        ("sketch", "train"): ("166e3e84ba2a0911", "4f5f16413bfc50a6"),
        ("sketch", "val"): ("922c69e0cdf26a8e", "60df9e36362aca52"),
        ("sketch", "test"): ("52ee2c268ef0ba8d", "439f4b1f1a846883"),
    },
)


def read_tuberlin(root: Path, part: str, modality: int, **options: Any) -> ImageDataset:
    """root holds png_ready/, ImageResized_ready/ and zeroshot/."""
    return read_lists(ZEROSHOT, root, part, modality, **options)
