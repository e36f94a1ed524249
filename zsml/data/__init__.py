"""Readers of data sets, transforms, and the sampler of class-by-modality batches."""

from __future__ import annotations

from zsml.data.dataset import ImageDataset, SketchPhotoDataset, SkipCorrupt, collate_skip
from zsml.data.load import load_dataset
from zsml.data.sampler import ClassModalityBatchSampler, SketchPhotoBatchSampler
from zsml.data.transforms import build_transform

__all__ = [
    "ClassModalityBatchSampler",
    "ImageDataset",
    "SketchPhotoBatchSampler",
    "SketchPhotoDataset",
    "SkipCorrupt",
    "build_transform",
    "collate_skip",
    "load_dataset",
]
