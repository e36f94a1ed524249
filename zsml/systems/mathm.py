"""MATHM: modality-aware triplet hard mining for zero-shot sketch-based image retrieval (arXiv 2112.07966).

Model      SE-ResNet50 whose excitations also see the modality (cse_resnet50); a linear 512-d embedding; a linear classifier
           of the seen classes without bias.
Objective  cross-entropy + triplet_weight * MATHM loss: three batch-hard triplets within, across and between the modalities,
           weighted by how hard each currently is.
Batch      16 classes x (4 sketches + 4 photos), 200 batches per epoch.
Schedule   Adam, weight decay 5e-4; learning rate 1e-4 for new parameters and 1e-5 for the backbone, which is frozen for
           2 of 40 epochs; warm-up and cosine (zsml.engine.schedule.mathm_factor). The last epoch is kept.
Released   the code weighs the mean of the three terms by the sum of their weights, and trains through these (--variant released).
Protocol   every sketch of the unseen classes against every photo of theirs, by Euclidean distance of L2-normalised
           embeddings; mAP over the whole gallery, averaged over queries.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from zsml.engine.config import TrainConfig
from zsml.losses import MATHMLoss
from zsml.losses.gather import several_ranks
from zsml.systems.base import ClassificationAndTriplet, System

MARGIN = 0.2  # in distance of L2-normalised embeddings


class MATHM(System):
    name = "mathm"
    source = "Modality-Aware Triplet Hard Mining for Zero-Shot Sketch-Based Image Retrieval, arXiv 2112.07966"
    summary = "cross-entropy + batch-hard triplets within, across and between modalities, weighted by their hardness"
    protocol = "mathm"
    settings = ("warmup_epochs", "triplet_weight", "margin", "beta", "weighting")
    released: ClassVar = {"weighting": "released"}
    binary: ClassVar = {"fit": "gallery", "center": "own"}

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        margin = MARGIN if config.margin is None else config.margin
        weighting = None if config.weighting == "mean" else config.weighting
        triplet = MATHMLoss(margin=margin, beta=config.beta or None, weighting=weighting, gather=several_ranks())
        return ClassificationAndTriplet(triplet, config.triplet_weight)
