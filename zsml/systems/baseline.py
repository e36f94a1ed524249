"""The baseline the field compares with: cross-entropy and the batch-hard triplet loss of each modality by itself.

Model, batch, schedule and protocol are MATHM's (zsml.systems.mathm), so that a difference between the two is the loss's.
Objective  cross-entropy + triplet_weight * relu(d_ap - d_an + margin), hardest positive and hardest negative of the anchor's
           own modality (Hermans, Beyer and Leibe, In Defense of the Triplet Loss, arXiv 1703.07737).
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from zsml.engine.config import TrainConfig
from zsml.losses import ModalityTripletLoss
from zsml.losses.gather import several_ranks
from zsml.systems.base import ClassificationAndTriplet
from zsml.systems.mathm import MARGIN, MATHM


class Baseline(MATHM):
    name = "baseline"
    source = "In Defense of the Triplet Loss for Person Re-Identification, arXiv 1703.07737"
    summary = "cross-entropy + batch-hard triplet within each modality"
    settings = ("warmup_epochs", "triplet_weight", "margin", "beta")
    defaults: ClassVar = {**MATHM.defaults, "beta": 0.0}
    released: ClassVar = {"transform": "mathm-released"}

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        margin = MARGIN if config.margin is None else config.margin
        triplet = ModalityTripletLoss(terms=("within",), margin=margin, beta=config.beta or None, gather=several_ranks())
        return ClassificationAndTriplet(triplet, config.triplet_weight)
