"""What a published system is to the engine: a model, an objective, a schedule and a protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from zsml.engine.config import TrainConfig
from zsml.engine.schedule import mathm_factor
from zsml.losses.gather import global_mean, several_ranks
from zsml.models import create_model


class System:
    """One published system; a subclass says what is its own and inherits what most share.

    `build_objective` returns a module called once per batch as `objective(model, images, labels, modality)`, with
    images float32 [B, 3, S, S], labels and modality int64 [B]. It runs the model itself, so that a system may ask for more
    than one pass, and returns `(loss, parts)`: the scalar to minimise and the named scalars it is made of, for the log.
    Its parameters, if any, are trained with the model's new ones. On several ranks of torch.distributed each gets its part of
    the batch, and the loss is that of the whole, as losses with gather=True and `global_mean` return it.
    """

    name: ClassVar[str]
    source: ClassVar[str]  # the paper
    defaults: ClassVar[dict[str, Any]] = {}  # where it differs from TrainConfig's
    protocol: ClassVar[str]  # preset of zsml.metrics.evaluate_retrieval

    def build_model(self, config: TrainConfig, num_classes: int) -> nn.Module:
        """The network; random weights come from torch's global generator."""
        pretrained: bool | Path = {"no": False, "imagenet": True}.get(config.pretrained, Path(config.pretrained))
        return create_model(config.arch, num_classes=num_classes, embedding_dim=config.embedding_dim, pretrained=pretrained)

    def build_objective(self, config: TrainConfig, num_classes: int) -> nn.Module:
        raise NotImplementedError

    def lr_factor(self, config: TrainConfig, epoch: int) -> float:
        """What the learning rates are multiplied by in one epoch, counted from 0."""
        return mathm_factor(epoch, config.epochs, frozen_epochs=config.frozen_epochs, warmup_epochs=config.warmup_epochs)


class ClassificationAndTriplet(nn.Module):
    """L = CE(logits, label) + triplet_weight * triplet(embedding, label, modality), a scalar."""

    def __init__(self, triplet: nn.Module, triplet_weight: float):
        super().__init__()
        self.triplet = triplet
        self.triplet_weight = triplet_weight

    def forward(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, modality: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = model(images, modality)
        if several_ranks():
            classification = global_mean(F.cross_entropy(output.logits.float(), labels, reduction="none"))
        else:
            classification = F.cross_entropy(output.logits.float(), labels)
        triplet = self.triplet(output.embedding.float(), labels, modality)
        return classification + self.triplet_weight * triplet, {"classification": classification, "triplet": triplet}
