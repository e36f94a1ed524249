"""MEMS: learning a large Euclidean margin for sketch-based image retrieval (arXiv 1812.04275), on the network it calls DASE.

Retrieval among classes that were trained on: only sketches are held out (--data annotations reads the published split).

Model      SE-ResNeXt101 32x4d whose excitations have a sigmoid in the middle and, in the first three of four stages, see the
           modality (dase_resnext101; also dase_resnet50, dase_resnet18, dase_alexnet); a linear 512-d embedding, not normalised.
Objective  softmax over learnable class centres, shared by both modalities: logits are negative squared Euclidean distances, and
           that to the own centre counts margin^2 times (zsml.losses.MEMSLoss); or another softmax (--softmax), of which the
           published code has cosface and a-softmax. margin 4 (AlexNet 2), reached linearly over 100,000 steps.
Batch      22 sketches + 22 photos at random, pixel values from 0 to 1; 1,000 batches per epoch. (AlexNet was trained with
           400 + 400: --sketches-per-batch 400 --photos-per-batch 400.)
Schedule   Adam, learning rate 1e-4 for 100,000 steps, then linearly to 0 at 200,000; weight decay 1e-4, of the centres none.
           Single precision. The last epoch is kept.
Released   the gates' second layer and the embedding start random (--tag-init random) though ImageNet weights are given; the
           margin starts one step later; AlexNet's gates do not see the modality. TU-Berlin's photos have their colours in
           reverse there: --transform mems-bgr --test-transform mems-test-bgr.
Protocol   every test sketch against every photo by squared Euclidean distance of embeddings as they are, the least one
           over both images and their mirror images (trained by --softmax cosface, arcface or a-softmax: the least angle); AP
           not interpolated, mean over queries. Binary codes by a map that pushes the class centres apart
           (zsml.quantize.CentreHash).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from zsml.engine.config import TrainConfig
from zsml.engine.schedule import linear_half_factor
from zsml.errors import InputError
from zsml.losses import ArcFaceLoss, ASoftmaxLoss, CosFaceLoss, EMSLoss, MEMSLoss
from zsml.losses.gather import several_ranks
from zsml.models import create_model
from zsml.models.create import OURS
from zsml.systems.base import System, model_options

# By --softmax: the loss and its published margin, a factor on the distance or the angle, or what is taken off or added.
SOFTMAX: dict[str, tuple[type[nn.Module], float]] = {
    "mems": (MEMSLoss, 4),
    "ems": (EMSLoss, 4),
    "cosface": (CosFaceLoss, 0.35),
    "arcface": (ArcFaceLoss, 0.5),
    "a-softmax": (ASoftmaxLoss, 4),
}
SCALED = ("cosface", "arcface")
ANGULAR = (*SCALED, "a-softmax")  # losses of angles, whose embeddings are compared by the angle
ALEXNET, ALEXNET_MARGIN = "dase_alexnet", 2  # of mems and ems


class MEMS(System):
    name = "mems"
    source = "Learning Large Euclidean Margin for Sketch-based Image Retrieval, arXiv 1812.04275"
    summary = "softmax over class centres with a multiplicative margin on Euclidean distances; gates that see the modality"
    protocol = "mems"
    settings = ("softmax", "margin", "scale", "annealing_steps", "tag_init")
    defaults: ClassVar = {
        "arch": "dase_resnext101",
        "transform": "mems",
        "test_transform": "mems-test",
        "normalize": "none",
        "batch": "random",
        "sketches_per_batch": 22,
        "photos_per_batch": 22,
        "epochs": 200,
        "batches_per_epoch": 1000,
        "lr": 1e-4,
        "backbone_lr_factor": 1.0,
        "weight_decay": 1e-4,
        "frozen_epochs": 0,
        "annealing_steps": 100_000,
        "amp": "off",
    }
    released: ClassVar = {"tag_init": "random"}
    binary: ClassVar = {"fit": "centers"}

    def distance_for(self, config: TrainConfig) -> str | None:
        return "cosine" if config.softmax in ANGULAR else None

    def problems(self, config: TrainConfig) -> list[str]:
        problems = super().problems(config)
        if config.softmax in SOFTMAX:
            try:
                centre_softmax(config, 1)
            except InputError as error:
                problems.append(f"--{error} (--softmax {config.softmax})")
            if config.softmax not in SCALED and config.scale != TrainConfig.scale:
                problems.append(f"--scale has no meaning with --softmax {config.softmax}, whose logits have none; leave it out")
        # The released variant asks for it itself, of gates that may not be there.
        if config.tag_init == "random" and config.variant != "released" and "tag_init" not in _own_options(config.arch):
            problems.append(
                f"--tag-init random needs gates that see the modality, and --arch {config.arch} has none; leave it out"
            )
        if config.selection == "val_accuracy":
            problems.append("--selection val_accuracy needs a classifier, and mems has class centres; choose last or val_map")
        return problems

    def notes(self, config: TrainConfig) -> list[str]:
        batches = config.epochs * config.batches_per_epoch
        if not 0 < batches < config.annealing_steps:
            return super().notes(config)
        part = batches / config.annealing_steps
        return [
            *super().notes(config),
            f"--annealing-steps {config.annealing_steps} is more than the {batches} batches of this training, which ends with "
            f"{part:.0%} of the margin",
        ]

    def build_model(self, config: TrainConfig, num_classes: int) -> nn.Module:
        options = model_options(config)
        if config.arch == ALEXNET and config.variant == "released":
            options["published"] = True
        elif config.tag_init != "zero" and "tag_init" in _own_options(config.arch):
            options["tag_init"] = config.tag_init
        return create_model(config.arch, num_classes=0, embedding_dim=config.embedding_dim, **options)

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        return CentreSoftmax(centre_softmax(config, len(classes)))

    def parameter_groups(self, config: TrainConfig, model: nn.Module, objective: nn.Module) -> list[dict[str, Any]]:
        return [
            {"params": model.new_parameters(), "share": 1.0, "weight_decay": config.weight_decay},
            {"params": model.backbone_parameters(), "share": config.backbone_lr_factor, "weight_decay": config.weight_decay},
            {"params": [*objective.parameters()], "share": 1.0, "weight_decay": 0.0},
        ]

    def lr_factor(self, config: TrainConfig, epoch: int, part: float) -> float:
        return linear_half_factor(epoch, config.epochs, part)


class CentreSoftmax(nn.Module):
    """L = loss(embedding, label), a softmax over the class centres `loss.centers` [C, D]."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.loss(model(images, modality).embedding.float(), labels)
        return loss, {"softmax": loss}


def centre_softmax(config: TrainConfig, num_classes: int) -> nn.Module:
    """The loss that --softmax names; InputError for a margin that it cannot have."""
    make, margin = SOFTMAX[config.softmax]
    if config.arch == ALEXNET and config.softmax in ("mems", "ems"):
        margin = ALEXNET_MARGIN
    if config.margin is not None:
        margin = config.margin
    if config.softmax == "a-softmax" and float(margin).is_integer():
        margin = int(margin)
    options = {"scale": config.scale} if config.softmax in SCALED else {}
    loss = make(
        num_classes,
        config.embedding_dim,
        margin=margin,
        annealing_steps=config.annealing_steps,
        gather=several_ranks(),
        **options,
    )
    if config.variant == "released":
        loss.step.fill_(-1)  # no margin yet in the second step either
    return loss


def _own_options(arch: str) -> dict[str, Any]:
    return OURS[arch].options if arch in OURS else {}
