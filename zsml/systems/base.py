"""What a published system is to the engine: a model, an objective, batches, a schedule and a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from torch import nn
from torch.nn import functional as F

from zsml.engine.config import BATCH_SETTINGS, SYSTEM_SETTINGS, TrainConfig, flag
from zsml.engine.config_file import merged
from zsml.engine.schedule import mathm_factor
from zsml.errors import InputError
from zsml.losses.gather import global_mean, several_ranks
from zsml.models import create_model


class System:
    """One published system; a subclass says what is its own and inherits what most share.

    Its settings are those of `TrainConfig`, with `defaults` laid over them, then those of the data set in `per_dataset`, and
    with --variant released then `released`; what the user gives lies on top.

    `build_objective` returns a module called once per batch as `objective(model, images, labels, modality)`, with
    images float32 [B, 3, S, S] (of several views [B, V, 3, S, S]), labels and modality int64 [B]. It runs the model itself, so
    that a system may ask for more than one pass, and returns `(loss, parts)`: the scalar to minimise and the named scalars it
    is made of, for the log. On several ranks of torch.distributed each gets its part of the batch, and the loss is that of the
    whole, as losses with gather=True and `global_mean` return it. What it remembers from batch to batch is in buffers, which
    checkpoints keep. If it has `set_epoch(epoch)`, that is called before every epoch, and again where a run resumes within one.
    """

    name: ClassVar[str]
    source: ClassVar[str]  # the paper
    summary: ClassVar[str]  # the objective in one line
    protocol: ClassVar[str]  # preset of zsml.metrics.evaluate_retrieval
    takes_views: ClassVar[bool] = False  # trains on several views of each image, as --transform dsn makes them
    settings: ClassVar[tuple[str, ...]]  # those of SYSTEM_SETTINGS (zsml.engine.config) that it reads
    defaults: ClassVar[Mapping[str, Any]] = {}
    per_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    released: ClassVar[Mapping[str, Any]] = {}
    binary: ClassVar[Mapping[str, str]] = {}  # how its code makes binary codes, of BinaryOptions (zsml.engine.evaluate)

    def check(self, config: TrainConfig) -> None:
        """Refuse settings that mean nothing to this system; a subclass may add what it asks of its own.

        Raises:
            InputError: listing everything that is wrong, one line per flag.
        """
        problems = self.problems(config)
        if problems:
            raise InputError("\n".join(problems))

    def problems(self, config: TrainConfig) -> list[str]:
        """What `check` refuses."""
        default = TrainConfig()
        problems = [
            f"{flag(name)} has no meaning for {self.name}; leave it out"
            for name in SYSTEM_SETTINGS
            if name not in self.settings and getattr(config, name) != getattr(default, name)
        ]
        usual = merged(self.settings_for(config.data, config.variant))
        other = BATCH_SETTINGS["classes" if config.batch == "random" else "random"]
        problems += [
            f"{flag(name)} has no meaning with --batch {config.batch}; leave it out"
            for name in other
            if getattr(config, name) not in (getattr(usual, name), getattr(default, name))
        ]
        if (config.transform == "dsn") != self.takes_views:
            wanted = (
                "three views of each image, which dsn makes" if self.takes_views else "one view of each image, dsn makes three"
            )
            problems.append(f"--transform {config.transform}: {self.name} trains on {wanted}")
        return problems

    def notes(self, config: TrainConfig) -> list[str]:
        """What the user should know before a training with these settings, which are not wrong."""
        if config.pretrained != "no":
            return []
        if not config.frozen_epochs:
            return ["the network starts from random weights; it was published with ImageNet's (--pretrained)"]
        return [
            f"random weights are held frozen for {config.frozen_epochs} epochs and then trained at "
            f"{config.backbone_lr_factor:g} of --lr, as published for ImageNet weights (--pretrained); without those "
            "--frozen-epochs 0 --backbone-lr-factor 1 learns faster"
        ]

    def may_keep(self, config: TrainConfig, epoch: int) -> bool:
        """Whether --selection may choose the model of this epoch, counted from 0."""
        return True

    def settings_for(self, data: str, variant: str = "paper") -> dict[str, Any]:
        """Its settings on a data set, which lie over `TrainConfig`'s own defaults.

        >>> from zsml.systems import find_system
        >>> find_system("dsn").settings_for("tuberlin", "released")["memory_gradient"]
        False
        """
        settings = {**self.defaults, **self.per_dataset.get(data, {})}
        return {**settings, "variant": variant, **self.released} if variant == "released" else settings

    def binary_for(self, variant: str = "paper") -> dict[str, str]:
        """How it makes binary codes: `fit`, `center` and `update` of BinaryOptions (zsml.engine.evaluate)."""
        update = "released" if variant == "released" else "procrustes"
        return {"fit": "gallery", "center": "fit", "update": update, **self.binary}

    def distance_for(self, config: TrainConfig) -> str | None:
        """How embeddings trained with these settings are compared: "euclidean", "cosine", or None, as the protocol does."""
        return None

    def build_model(self, config: TrainConfig, num_classes: int) -> nn.Module:
        """The network; random weights come from torch's global generator."""
        return create_model(config.arch, num_classes=num_classes, embedding_dim=config.embedding_dim, **model_options(config))

    def build_objective(self, config: TrainConfig, classes: list[str]) -> nn.Module:
        """What is minimised, for the seen classes in the order of their labels."""
        raise NotImplementedError

    def parameter_groups(self, config: TrainConfig, model: nn.Module, objective: nn.Module) -> list[dict[str, Any]]:
        """What Adam trains: groups of `params` with `share`, the learning rate as a fraction of --lr, and `weight_decay`."""
        own = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        return [
            {"params": [*model.new_parameters(), *own], "share": 1.0, "weight_decay": config.weight_decay},
            {"params": model.backbone_parameters(), "share": config.backbone_lr_factor, "weight_decay": config.weight_decay},
        ]

    def lr_factor(self, config: TrainConfig, epoch: int, part: float) -> float:
        """What the learning rates are multiplied by in an epoch, counted from 0, of which `part` (0 <= part < 1) is done."""
        return mathm_factor(epoch, config.epochs, frozen_epochs=config.frozen_epochs, warmup_epochs=config.warmup_epochs)


def model_options(config: TrainConfig) -> dict[str, Any]:
    """The options of `create_model` that every system takes from its settings."""
    options: dict[str, Any] = {"pretrained": {"no": False, "imagenet": True}.get(config.pretrained, Path(config.pretrained))}
    if config.gate:
        options["gate"] = True
    return {**options, **size_options(config.arch, config)}


def size_options(arch: str, config: TrainConfig) -> dict[str, Any]:
    """What timm has to be told to build a backbone of one image size, a vision transformer, for images of another."""
    known = timm.get_pretrained_cfg(arch) if timm.is_model(arch.split(".")[0]) else None
    if known is None or not known.fixed_input_size or known.input_size[-1] == config.image_size:
        return {}
    return {"img_size": config.image_size}


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
        classification = cross_entropy(output.logits, labels)
        triplet = self.triplet(output.embedding.float(), labels, modality)
        return classification + self.triplet_weight * triplet, {"classification": classification, "triplet": triplet}


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -log softmax(logits)_y over the batch, that of all ranks if there are several; logits [B, C], labels int64 [B].

    >>> round(cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3])).item(), 4)
    1.3863
    """
    if several_ranks():
        return global_mean(F.cross_entropy(logits.float(), labels, reduction="none"))
    return F.cross_entropy(logits.float(), labels)
