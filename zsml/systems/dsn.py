"""DSN: a domain-smoothing network for zero-shot sketch-based image retrieval (IJCAI 2021, arXiv 2106.11841).

Model      that of SAKE (zsml.systems.sake) with a 64-d embedding h; no further projection.
Views      each image as SAKE augments it, and two more views of that with flips and colours changed: 3 B images in one pass, so
           that BatchNorm sees all of them.
Objective  SAKE's two terms on the first view
           + contrastive_weight * supervised contrastive loss of L2-normalised h over the other two views of all sketches and
             photos
           + memory_weight * 1 - cosine of each photo's pooled 2048-d features to the mean of up to 10 sketches remembered of
             its class; the memory is emptied at the start of every epoch.
Batch      32 sketches + 64 photos at random, on Sketchy full ones only (TU-Berlin 9 + 81, the last as it comes).
Schedule   that of SAKE over 20 epochs (TU-Berlin 16). On Sketchy the epoch is kept that retrieves best by binary codes among
           seen classes, on TU-Berlin the last.
Released   the code computes the memory's loss from detached features: it is reported and trains nothing
           (--variant released, or --memory-gradient False). It also writes replaced sketches into wrong classes of the memory,
           which then changed nothing, and is not reproduced.
Protocol   that of SAKE, mean over classes; binary codes of 64 bits by ITQ fitted on the queries, each side about its own mean.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from zsml.engine.config import TrainConfig
from zsml.errors import InputError
from zsml.losses import MemoryLoss, SupConLoss
from zsml.losses.gather import several_ranks
from zsml.systems.sake import SAKE, KnowledgePreservation

SKETCHY = {"drop_last": True, "selection": "val_map"}


class DSN(SAKE):
    name = "dsn"
    source = "Domain-Smoothing Network for Zero-Shot Sketch-Based Image Retrieval, IJCAI 2021, arXiv 2106.11841"
    summary = "SAKE + supervised contrastive loss of two views + photos drawn to the remembered sketches of their class"
    protocol = "dsn"
    takes_views = True
    settings = (
        *SAKE.settings,
        "contrastive_weight",
        "contrastive_temperature",
        "memory_weight",
        "memory_size",
        "memory_gradient",
    )
    defaults: ClassVar = {
        **SAKE.defaults,
        "embedding_dim": 64,
        "transform": "dsn",
        "sketches_per_batch": 32,
        "photos_per_batch": 64,
        "selection": "last",
    }
    per_dataset: ClassVar = {
        "sketchy": SKETCHY,
        "sketchy2": SKETCHY,
        "tuberlin": {"sketches_per_batch": 9, "photos_per_batch": 81, "epochs": 16},
    }
    released: ClassVar = {"memory_gradient": False}
    binary: ClassVar = {"fit": "query", "center": "own"}

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        return DomainSmoothing(config, classes)


class DomainSmoothing(KnowledgePreservation):
    """L = L of SAKE + contrastive_weight * SupCon(h of the views) + memory_weight * (1 - cos(f, remembered sketches))."""

    epoch: Tensor  # int64 scalar: the epoch whose sketches are remembered; -1 before the first

    def __init__(self, config: TrainConfig, classes: list[str]):
        super().__init__(config, classes)
        self.contrastive = SupConLoss(config.contrastive_temperature, gather=several_ranks())
        self.contrastive_weight = config.contrastive_weight
        self.memory = MemoryLoss(len(classes), config.memory_size, gradient=config.memory_gradient, gather=several_ranks())
        self.memory_weight = config.memory_weight
        self.register_buffer("epoch", torch.tensor(-1))

    def set_epoch(self, epoch: int) -> None:
        """Forget the sketches of another epoch; those of this one stay, where a run resumes within it."""
        if epoch != int(self.epoch):
            self.memory.reset()
            self.epoch.fill_(epoch)

    def forward(
        self,
        model: nn.Module,
        images: Tensor,  # [B, V, 3, S, S]: the image, and views of it
        labels: Tensor,  # [B]
        modality: Tensor,  # [B]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if images.ndim != 5 or images.shape[1] < 2:
            raise InputError(f"images must have shape [B, V, 3, S, S] with V >= 2 views, got {list(images.shape)}")
        count, views = images.shape[:2]
        by_view = images.transpose(0, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # [V B, 3, S, S]
        features = model.features(by_view, modality.repeat(views))  # [V B, F]
        output = model.heads(features)
        first = type(output)(*(None if part is None else part[:count] for part in output))
        others = slice(count, None)
        parts = self.parts(first, by_view[:count], labels, modality)
        parts["contrastive"] = self.contrastive(output.embedding[others], labels.repeat(views - 1))
        parts["memory"] = self.memory(features[:count], labels, modality)
        loss = parts["classification"] + self.distillation_weight * parts["distillation"]
        return loss + self.contrastive_weight * parts["contrastive"] + self.memory_weight * parts["memory"], parts
