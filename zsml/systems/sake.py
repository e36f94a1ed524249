"""SAKE: semantic-aware knowledge preservation for zero-shot sketch-based image retrieval (ICCV 2019, arXiv 1904.03208).

Model      SE-ResNet50 whose excitations also see the modality (cse_resnet50), from ImageNet weights; a linear 512-d embedding
           h (the published commands have 64 on TU-Berlin, and in the test on Sketchy: --embedding-dim 64), and on h as it is two
           linear classifiers: of the seen classes, and of ImageNet's 1,000, which starts as a factor of the ImageNet classifier
           as the embedding does.
Teacher    SE-ResNet50 with its ImageNet classifier, frozen, given the same augmented images.
Objective  cross-entropy of the seen classes, sketches and photos
           + distillation_weight * cross-entropy of the ImageNet classifier against the teacher's softmax, photos alone; the
           teacher's logits are raised by affinity_bonus * affinity of the photo's class to each ImageNet class in WordNet.
Batch      13 sketches + 26 photos at random (TU-Berlin 4 + 36), each modality shuffled by itself; an epoch ends when the
           sketches or the photos are used up. Random affine moves of both.
Schedule   Adam, one learning rate, 1e-4 * 0.001^(epoch / 20) in each of 20 epochs, weight decay 5e-4 on everything, single
           precision. The epoch is kept that names the classes of most held-out sketches.
Protocol   every sketch of the unseen classes against every photo of theirs, by Euclidean distance of L2-normalised h; mAP
           averaged over classes, of which the code prints each by itself. Its code makes no binary codes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsml.data.affinity import read_affinity
from zsml.engine.config import TrainConfig
from zsml.engine.schedule import exponential_factor
from zsml.losses import DistillationLoss
from zsml.losses.gather import several_ranks
from zsml.models import ModelOutput, create_model
from zsml.models.model import IMAGENET_CLASSES
from zsml.models.teacher import build_teacher
from zsml.systems.base import System, cross_entropy, model_options, size_options

PHOTO = 1


class SAKE(System):
    name = "sake"
    source = "Semantic-Aware Knowledge Preservation for Zero-Shot Sketch-Based Image Retrieval, ICCV 2019, arXiv 1904.03208"
    summary = "cross-entropy + distillation of an ImageNet teacher on photos, raised towards classes that WordNet relates"
    protocol = "sake"
    settings = ("teacher", "teacher_arch", "affinity", "affinity_bonus", "distillation_weight", "distillation_temperature")
    defaults: ClassVar = {
        "embedding_dim": 512,
        "transform": "sake",
        "batch": "random",
        "batches_per_epoch": 0,
        "sketches_per_batch": 13,
        "photos_per_batch": 26,
        "epochs": 20,
        "lr": 1e-4,
        "backbone_lr_factor": 1.0,
        "weight_decay": 5e-4,
        "frozen_epochs": 0,
        "selection": "val_accuracy",
        "amp": "off",
    }
    per_dataset: ClassVar = {
        "tuberlin": {"sketches_per_batch": 4, "photos_per_batch": 36},
        "quickdraw": {"selection": "last"},  # these two hold nothing out to select by
        "annotations": {"selection": "last"},
    }

    def problems(self, config: TrainConfig) -> list[str]:
        problems = super().problems(config)
        if not config.teacher_source:
            problems.append(
                f"--teacher is missing: {self.name} learns from an ImageNet network; give imagenet, the path of its weights, or "
                "random to try the machinery (with --pretrained the teacher has the same weights)"
            )
        elif config.teacher_arch and not config.teacher:
            problems.append("--teacher is missing: --teacher-arch needs weights of its own; give imagenet, their path, or random")
        if config.affinity is not None and not config.affinity_bonus:
            problems.append("--affinity has no meaning with --affinity-bonus 0, which leaves the table out; leave it out")
        return problems

    def notes(self, config: TrainConfig) -> list[str]:
        if config.affinity is not None or not config.affinity_bonus:
            return super().notes(config)
        return [
            *super().notes(config),
            f"no --affinity: the teacher's logits get no bonus for related classes, which is a part of {self.name} as published; "
            "zsml data affinity makes the table",
        ]

    def build_model(self, config: TrainConfig, num_classes: int) -> nn.Module:
        return create_model(
            config.arch,
            num_classes=num_classes,
            embedding_dim=config.embedding_dim,
            imagenet_head=True,
            classifier_bias=True,
            **model_options(config),
        )

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        return KnowledgePreservation(config, classes)

    def lr_factor(self, config: TrainConfig, epoch: int, part: float) -> float:
        return exponential_factor(epoch, config.epochs)


class KnowledgePreservation(nn.Module):
    """L = CE(logits, label) + distillation_weight * CE(imagenet_logits, softmax(teacher + bonus * affinity)), a scalar."""

    def __init__(self, config: TrainConfig, classes: list[str]):
        super().__init__()
        arch = config.teacher_arch or config.arch
        self.teacher = build_teacher(arch, config.teacher_source, **size_options(arch, config))
        self.affinity = ClassAffinity(config, classes)
        self.distillation = DistillationLoss(
            temperature=config.distillation_temperature, bonus=config.affinity_bonus, gather=several_ranks()
        )
        self.distillation_weight = config.distillation_weight

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self.parts(model(images, modality), images, labels, modality)
        return parts["classification"] + self.distillation_weight * parts["distillation"], parts

    def parts(self, output: ModelOutput, images: Tensor, labels: Tensor, modality: Tensor) -> dict[str, Tensor]:
        """Both terms of what the model says of images [B, 3, S, S], without the weight."""
        photo = modality == PHOTO  # [B]
        told = self.teacher_logits(images, photo)
        return {
            "classification": cross_entropy(output.logits, labels),
            "distillation": self.distillation(output.imagenet_logits, told, self.affinity(labels), mask=photo),
        }

    @torch.no_grad()
    def teacher_logits(self, images: Tensor, photo: Tensor) -> Tensor:
        """What the teacher says of photos, [B, 1000]; the rows of sketches, which nobody asks for, are 0."""
        logits = images.new_zeros(len(images), IMAGENET_CLASSES)
        if photo.any():
            logits[photo] = self.teacher(images[photo]).to(logits.dtype)
        return logits


class ClassAffinity(nn.Module):
    """The affinity to ImageNet's classes that --affinity gives the classes of labels [B]: [B, 1000], or None without a table.

    The table is part of the state: a checkpoint brings its own.

    Raises:
        InputError: the table cannot be read, or is of other classes; names --affinity.
    """

    table: Tensor | None  # [C, 1000]

    def __init__(self, config: TrainConfig, classes: list[str]):
        super().__init__()
        self.register_buffer("place", torch.empty(0), persistent=False)  # knows the device
        self.register_buffer("table", None if config.affinity is None else read_affinity(config.affinity, classes))

    def forward(self, labels: Tensor) -> Tensor | None:
        return None if self.table is None else self.table[labels]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        saved = state_dict.get(f"{prefix}table")
        if self.table is None and saved is not None:  # made without the file the table was read from
            self.table = torch.empty_like(saved, device=self.place.device)
        super()._load_from_state_dict(state_dict, prefix, *others)
