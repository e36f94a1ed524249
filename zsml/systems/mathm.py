"""MATHM: modality-aware triplet hard mining for zero-shot sketch-based image retrieval (arXiv 2112.07966).

Model      SE-ResNet50 whose excitations also see the modality (cse_resnet50); a linear 512-d embedding; a linear classifier
           of the seen classes without bias.
Objective  cross-entropy + triplet_weight * MATHM loss: three batch-hard triplets within, across and between the modalities,
           weighted by how hard each currently is.
Batch      16 classes x (4 sketches + 4 photos), 200 batches per epoch. Sketches are turned, scaled and put elsewhere on the
           sheet, photos flipped, scaled, moved and turned.
Schedule   Adam, weight decay 5e-4; learning rate 1e-4 for the modality tags and the classifier, 1e-5 for the backbone and the
           embedding, which starts from the ImageNet classifier. The backbone is frozen for 2 of 40 epochs; warm-up and cosine
           (zsml.engine.schedule.mathm_factor). The last epoch is kept.
Released   the code weighs the mean of the three terms by the sum of their weights, and trains through these, and turns photos
           by half a degree at most (--variant released). It leaves the triplets out unless told otherwise, trains its second
           Sketchy split on labels that contradict each other, and resizes tensors instead of images in the test; not here.
Protocol   every sketch of the unseen classes against every photo of theirs, by Euclidean distance of L2-normalised
           embeddings; mAP over the whole gallery, averaged over queries. Binary codes of 64 bits by ITQ fitted on the gallery,
           each side about its own mean.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from zsml.engine.config import TrainConfig
from zsml.losses import MATHMLoss
from zsml.losses.gather import several_ranks
from zsml.systems.base import ClassificationAndTriplet, System

MARGIN = 0.2  # in distance of L2-normalised embeddings
NETWORKS = ("cse_resnet50", "se_resnet50")  # the published one, with and without the modality


class MATHM(System):
    name = "mathm"
    source = "Modality-Aware Triplet Hard Mining for Zero-Shot Sketch-Based Image Retrieval, arXiv 2112.07966"
    summary = "cross-entropy + batch-hard triplets within, across and between modalities, weighted by their hardness"
    protocol = "mathm"
    settings = ("warmup_epochs", "triplet_weight", "margin", "beta", "weighting")
    defaults: ClassVar = {
        "arch": "cse_resnet50",
        "embedding_dim": 512,
        "transform": "mathm",
        "batch": "classes",
        "classes_per_batch": 16,
        "samples_per_modality": 4,
        "batches_per_epoch": 200,
        "epochs": 40,
        "frozen_epochs": 2,
        "warmup_epochs": 5,
        "lr": 1e-4,
        "backbone_lr_factor": 0.1,
        "weight_decay": 5e-4,
        "selection": "last",
        "triplet_weight": 1.0,
        "margin": MARGIN,
    }
    released: ClassVar = {"weighting": "released", "transform": "mathm-released"}
    binary: ClassVar = {"fit": "gallery", "center": "own"}

    def parameter_groups(self, config: TrainConfig, model: nn.Module, objective: nn.Module) -> list[dict[str, Any]]:
        """The embedding of the published network, from ImageNet weights, learns as slowly as the backbone; any other is new."""
        new, backbone = super().parameter_groups(config, model, objective)
        if config.arch in NETWORKS and config.pretrained != "no":
            slow = [*model.bottleneck.parameters()]
            new["params"] = [p for p in new["params"] if all(p is not other for other in slow)]
            backbone["params"] = [*backbone["params"], *slow]
        return [new, backbone]

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        margin = MARGIN if config.margin is None else config.margin
        weighting = None if config.weighting == "mean" else config.weighting
        triplet = MATHMLoss(margin=margin, beta=config.beta or None, weighting=weighting, gather=several_ranks())
        return ClassificationAndTriplet(triplet, config.triplet_weight)
