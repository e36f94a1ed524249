"""The baseline the field compares with: cross-entropy and the batch-hard triplet loss of each modality by itself.

Model, batch, schedule and protocol are MATHM's (zsml.systems.mathm), so that a difference between the two is the loss's.
Objective  cross-entropy + triplet_weight * relu(d_ap - d_an + margin), hardest positive and hardest negative of the anchor's
           own modality (Hermans, Beyer and Leibe, In Defense of the Triplet Loss, arXiv 1703.07737).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from zsml.engine.config import TrainConfig
from zsml.losses import ModalityTripletLoss
from zsml.systems.base import System


class Baseline(System):
    name = "baseline"
    source = "In Defense of the Triplet Loss for Person Re-Identification, arXiv 1703.07737"
    protocol = "mathm"
    defaults: ClassVar = {"beta": 0.0, "weighting": "mean"}

    def build_objective(self, config: TrainConfig, num_classes: int) -> nn.Module:
        return Objective(config)


class Objective(nn.Module):
    """L = CE(logits, label) + triplet_weight * triplet(embedding, label) within each modality, a scalar."""

    def __init__(self, config: TrainConfig):
        super().__init__()
        self.triplet = ModalityTripletLoss(terms=("within",), margin=config.margin, beta=config.beta or None)
        self.triplet_weight = config.triplet_weight

    def forward(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, modality: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = model(images, modality)
        classification = F.cross_entropy(output.logits.float(), labels)
        triplet = self.triplet(output.embedding.float(), labels, modality)
        return classification + self.triplet_weight * triplet, {"classification": classification, "triplet": triplet}
