"""SBKA: symmetrical bidirectional knowledge alignment for zero-shot sketch-based image retrieval (arXiv 2312.10320).

Model      ConvNeXt V2 tiny from ImageNet weights, one network for sketches and photos, which it is not told; the embedding is
           its feature x (768, LayerNorm of the average), and on x are two linear classifiers: of the seen classes, and the
           ImageNet classifier itself.
Teacher    the same network and weights, frozen up to its ImageNet classifier; --teacher-trainable none keeps that as well, all
           (as the paper's figure can be read) lets the whole teacher learn.
Objective  z_s, z_t: ImageNet logits of student and teacher; a: affinity of the photo's class to each ImageNet class in WordNet;
           H(q, p) = mean over photos of -sum softmax(p + affinity_bonus * a) log softmax(q).
           student: cross-entropy of the seen classes + distillation_weight * H(z_s, z_t)
                    + alignment_weight * KL(softmax(e) || softmax(x)), e ~ N(0, I), over sketches and photos
           teacher: H(z_t, z_s), after the warm-up epochs, in which it stays as it is.
Batch      70 sketches + 140 photos at random (TU-Berlin 21 + 189, QuickDraw 11 + 99), each modality shuffled by itself; an epoch
           ends when the sketches or the photos are used up. Random affine moves of both.
Schedule   Adam, single precision, weight decay 5e-4 on everything, 1e-4 * 0.001^(epoch / 20) in each of 20 epochs for student
           and teacher (TU-Berlin: 5e-5 for the teacher). Warm-up of 10 epochs (TU-Berlin 6, QuickDraw 4). Of the epochs after
           it the one is kept that names the classes of most held-out sketches; of QuickDraw, which holds none out, the last.
Released   the code lets the gradient of H(z_t, z_s) into the student, through the softmax that is the target
           (--variant released). It counts the warm-up when it looks for the best epoch, and may then keep none; not here.
Several processes draw their Gaussian noise each for its own images, so that a run of two is not that of one up to rounding.
Protocol   every sketch of the unseen classes against every photo of theirs, by Euclidean distance of L2-normalised x; mAP
           averaged over classes. The code's own default is the paper's other search, by clusters of the gallery, over a grid
           of their numbers: zsml evaluate --cluster 2, and --sweep 2,22-28 4,22-28 for the grid (of Sketchy).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsml.engine.config import TrainConfig, flag
from zsml.engine.config_file import merged
from zsml.losses import DistillationLoss, GaussianAlignmentLoss
from zsml.losses.gather import several_ranks
from zsml.models import create_model
from zsml.models.model import IMAGENET_CLASSES
from zsml.models.teacher import build_teacher
from zsml.systems.base import cross_entropy, model_options, size_options
from zsml.systems.sake import PHOTO, SAKE, ClassAffinity

CLASSIFIER_STD = 2e-5  # of the seen classes' classifier at the start


class SBKA(SAKE):
    name = "sbka"
    source = "Symmetrical Bidirectional Knowledge Alignment for Zero-Shot Sketch-Based Image Retrieval, arXiv 2312.10320"
    summary = "cross-entropy + student and teacher distilling into each other on photos + features drawn to a Gaussian"
    protocol = "sbka"
    settings = (
        *SAKE.settings, "alignment_weight", "teacher_trainable", "teacher_lr", "teacher_warmup_epochs", "detach_targets",
    )  # fmt: skip
    defaults: ClassVar = {
        **SAKE.defaults,
        "arch": "convnextv2_tiny",
        "embedding_dim": 768,
        "sketches_per_batch": 70,
        "photos_per_batch": 140,
        "teacher_warmup_epochs": 10,
    }
    per_dataset: ClassVar = {
        "tuberlin": {"sketches_per_batch": 21, "photos_per_batch": 189, "teacher_warmup_epochs": 6, "teacher_lr": 5e-5},
        "quickdraw": {
            "sketches_per_batch": 11, "photos_per_batch": 99, "teacher_warmup_epochs": 4, "affinity_bonus": 0.0,
            "selection": "last",
        },
        "annotations": {"selection": "last"},
    }  # fmt: skip
    released: ClassVar = {"detach_targets": False}

    def problems(self, config: TrainConfig) -> list[str]:
        problems = super().problems(config)
        if config.teacher_trainable == "none":
            usual = merged(self.settings_for(config.data, config.variant))
            problems += [
                f"{flag(name)} has no meaning with --teacher-trainable none; leave it out"
                for name in ("teacher_lr", "teacher_warmup_epochs")
                if getattr(config, name) != getattr(usual, name)
            ]
        if config.selection != "last" and not any(self.may_keep(config, epoch) for epoch in range(config.epochs)):
            problems.append(
                f"--teacher-warmup-epochs ({config.teacher_warmup_epochs}) must be less than --epochs ({config.epochs}): "
                f"--selection {config.selection} keeps no model of the warm-up; --selection last does without"
            )
        return problems

    def may_keep(self, config: TrainConfig, epoch: int) -> bool:
        return config.teacher_trainable == "none" or epoch >= config.teacher_warmup_epochs

    def build_model(self, config: TrainConfig, num_classes: int) -> nn.Module:
        model = create_model(
            config.arch,
            num_classes=num_classes,
            embedding_dim=None if config.embedding_dim == self.defaults["embedding_dim"] else config.embedding_dim,
            bottleneck=False,
            imagenet_head=True,
            classifier_bias=True,
            **model_options(config),
        )
        nn.init.normal_(model.classifier.weight, std=CLASSIFIER_STD)
        nn.init.zeros_(model.classifier.bias)
        return model

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        return BidirectionalAlignment(config, classes)

    def parameter_groups(self, config: TrainConfig, model: nn.Module, objective: nn.Module) -> list[dict[str, Any]]:
        lr = config.lr if config.teacher_lr is None else config.teacher_lr
        teacher = {"params": objective.learning, "share": lr / config.lr, "weight_decay": config.weight_decay}
        return [*super().parameter_groups(config, model, nn.Identity()), *([teacher] if objective.learning else [])]


class BidirectionalAlignment(nn.Module):
    """The two losses of student and teacher as one scalar, whose gradients are theirs.

        L = CE(logits, label) + w H(z_s, z_t) + alignment_weight KL(softmax(e) || softmax(x))  (+ H(z_t, z_s) after the warm-up)

    z_t is held constant in the student's loss, and with detach_targets z_s in the teacher's. The published code runs
    backward through each loss by itself, with neither held constant, and drops what the student's leaves in the teacher; that
    comes to z_t constant and z_s not.
    """

    def __init__(self, config: TrainConfig, classes: list[str]):
        super().__init__()
        arch = config.teacher_arch or config.arch
        self.teacher = build_teacher(arch, config.teacher_source, **size_options(arch, config))
        self.learning = self.teacher.parts(config.teacher_trainable)  # its parameters that train, after the warm-up
        self.affinity = ClassAffinity(config, classes)
        self.distillation = DistillationLoss(config.distillation_temperature, config.affinity_bonus, gather=several_ranks())
        self.alignment = GaussianAlignmentLoss(gather=several_ranks())
        self.distillation_weight, self.alignment_weight = config.distillation_weight, config.alignment_weight
        self.detach_targets, self.warmup_epochs = config.detach_targets, config.teacher_warmup_epochs
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Let the teacher learn in this epoch, or not; follows from the epoch's number alone."""
        self.teacher_learns = bool(self.learning) and epoch >= self.warmup_epochs
        for parameter in self.learning:
            parameter.requires_grad_(self.teacher_learns)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        output = model(images, modality)
        photo = modality == PHOTO  # [B]
        student, teacher = output.imagenet_logits, self.teacher_logits(images, photo)  # [B, 1000]
        affinity = self.affinity(labels)  # [B, 1000] or None
        parts = {
            "classification": cross_entropy(output.logits, labels),
            "distillation": self.distillation(student, teacher.detach(), affinity, photo),
            "alignment": self.alignment(output.embedding.float()),
        }
        loss = parts["classification"] + self.distillation_weight * parts["distillation"]
        loss = loss + self.alignment_weight * parts["alignment"]
        if self.teacher_learns:
            target = student.detach() if self.detach_targets else student
            parts["teacher"] = self.distillation(teacher, target, affinity, photo)
            loss = loss + parts["teacher"]
        return loss, parts

    def teacher_logits(self, images: Tensor, photo: Tensor) -> Tensor:
        """What the teacher says of photos, [B, 1000]; the rows of sketches, which nobody asks for, are 0."""
        logits = images.new_zeros(len(images), IMAGENET_CLASSES)
        if photo.any():
            return logits.index_put((photo,), self.teacher(images[photo]).to(logits.dtype))
        # A function of its parameters all the same, or other ranks would wait for their gradients.
        return logits + sum((parameter.sum() * 0 for parameter in self.learning), torch.zeros((), device=logits.device))
