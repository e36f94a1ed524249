"""The embedding network: a trunk, a linear bottleneck, and the classifiers that train it."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.models.conditional import modality_tag
from zsml.models.gate import FeatureGate
from zsml.models.preprocessing import Preprocessing

IMAGENET_CLASSES = 1000
SMALLEST_SIDE = 3  # pixels; below it the first max-pool of the SE trunks has nothing to pool
TRAINABLE = ("all", "norms", "head")


class ModelOutput(NamedTuple):
    """What a model returns.

    embedding: float [B, D], the bottleneck output (the features, where there is no bottleneck) before any normalisation;
    logits: [B, C] over the training classes; imagenet_logits: [B, 1000]. Logits are None where the model has no such head.
    """

    embedding: Tensor
    logits: Tensor | None
    imagenet_logits: Tensor | None


class EmbeddingModel(nn.Module):
    """Images to retrieval embeddings and class logits; build one with `create_model`.

        f = trunk(images, modality);  h = W f + b;  logits = V h (+ c);  imagenet_logits = U h + d

    images: float [B, 3, H, W], ImageNet-normalised; modality: int64 [B], 0 sketch and 1 photo, needed by conditional
    trunks and by a gate (`.conditional`), ignored by the others. f: [B, F], h: [B, D], logits: [B, C]. With gate=True
    f = gate(trunk(images), modality), a `FeatureGate`; with bottleneck=False h = f.

    A modality value other than 0 or 1 raises InputError on a CPU; on a GPU and in compiled or exported graphs, where
    looking would stall the device, the embedding of that row is NaN.

    Attributes: arch, num_classes, embedding_dim, conditional, config (a JSON-able dict: `create_model(**config)` builds
    the same architecture anew), card (where the weights of a published model came from, see
    `zsml.models.io.read_card`; None of others), preprocessing (what is done to images before, `Preprocessing`; None where it is
    not known). Both are saved with the model.

    Source: Liu et al., SAKE, ICCV 2019.
    """

    card: dict[str, Any] | None = None
    preprocessing: Preprocessing | None = None

    def __init__(
        self,
        trunk: nn.Module,
        config: dict[str, Any],
        *,
        conditional: bool,
        features: int,
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.arch: str = config["arch"]
        self.num_classes: int = config["num_classes"]
        self.embedding_dim: int = config["embedding_dim"]
        self.num_features = features
        self.conditional = conditional or config.get("gate", False)
        self.fixed_size = fixed_size
        self._trunk_sees_modality = conditional
        self._trainable, self._frozen = "all", False
        dim, classes = self.embedding_dim, self.num_classes
        self.trunk = trunk
        self.gate = FeatureGate(features) if config.get("gate") else None
        self.bottleneck = nn.Linear(features, dim) if config.get("bottleneck", True) else None
        self.classifier = nn.Linear(dim, classes, bias=config["classifier_bias"]) if classes else None
        self.imagenet_classifier = nn.Linear(dim, IMAGENET_CLASSES) if config["imagenet_head"] else None

    def forward(self, images: Tensor, modality: Tensor | None = None) -> ModelOutput:
        return self.heads(self.features(images, modality))

    def features(self, images: Tensor, modality: Tensor | None = None) -> Tensor:
        """The trunk's pooled features f [B, F], before the bottleneck; `heads` makes the output of them.

        Raises what calling the model raises.
        """
        self._check_images(images)
        tag = None
        if self.conditional:
            self._check_modality(images, modality)
            tag = modality_tag(modality, images.dtype)  # [B, 1]
        features = self.trunk(images, tag) if self._trunk_sees_modality else self.trunk(images)  # [B, F]
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise InputError(
                f"arch {self.arch} gives features of shape {list(features.shape)}, not one vector of "
                f"{self.num_features} per image; try create_model(..., global_pool='avg') or another arch"
            )
        return features if self.gate is None else self.gate(features, tag)

    def heads(self, features: Tensor) -> ModelOutput:
        """Embedding and logits of features [B, F], as `features` returns them."""
        embedding = features if self.bottleneck is None else self.bottleneck(features)  # [B, D]
        return ModelOutput(
            embedding,
            None if self.classifier is None else self.classifier(embedding),
            None if self.imagenet_classifier is None else self.imagenet_classifier(embedding),
        )

    def _check_images(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a tensor, got {type(images).__name__}")
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point (ImageNet-normalised), got {images.dtype}")
        shape = list(images.shape)
        if images.ndim != 4 or shape[1] != 3 or shape[0] == 0:
            raise InputError(f"images must have shape [B, 3, H, W] with B >= 1, got {shape}")
        if min(shape[2:]) < SMALLEST_SIDE:
            raise InputError(f"images must be at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, got shape {shape}")
        if self.fixed_size is not None and tuple(shape[2:]) != self.fixed_size:
            height, width = self.fixed_size
            raise InputError(
                f"images must be {height} x {width} for {self.arch}, got shape {shape}; resize them, or build the "
                "model for another size with create_model(..., img_size=...)"
            )

    def _check_modality(self, images: Tensor, modality: Tensor | None) -> None:
        if modality is None:
            raise InputError(f"modality is needed by {self.arch}: int64 [B], 0 for a sketch and 1 for a photo; got None")
        if not isinstance(modality, Tensor):
            raise TypeError(f"modality must be an int64 tensor, got {type(modality).__name__}")
        if modality.is_floating_point() or modality.is_complex():
            raise TypeError(f"modality must be an integer tensor, got {modality.dtype}")
        if modality.ndim != 1 or modality.shape[0] != images.shape[0]:
            raise InputError(f"modality must have one entry per image, shape [{images.shape[0]}], got {list(modality.shape)}")
        if modality.device != images.device:
            raise InputError(f"modality is on {modality.device} but images are on {images.device}; move one of them")
        if modality.device.type == "cpu" and not torch.compiler.is_compiling():
            wrong = modality[(modality != 0) & (modality != 1)]
            if wrong.numel():
                raise InputError(f"modality must be 0 (sketch) or 1 (photo), got {sorted(set(wrong.tolist()))[:5]}")

    def save_pretrained(self, folder: str | os.PathLike[str], report: str | os.PathLike[str] | None = None) -> None:
        """Write a folder that others can use: model.safetensors, config.json and README.md, the model's card.

        report: the folder that `zsml evaluate` wrote of this very model; its numbers go into the card, each with its
        protocol and commit. Raises InputError where that is of other weights, or the folder cannot be written.

        >>> import tempfile
        >>> from zsml.models import EmbeddingModel, create_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     create_model("resnet18", num_classes=0, embedding_dim=8).save_pretrained(folder)
        ...     EmbeddingModel.from_pretrained(folder).embedding_dim
        8
        """
        from zsml.models.sharing import save_pretrained

        save_pretrained(self, folder, report)

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, download: bool = False, revision: str | None = None
    ) -> EmbeddingModel:
        """The model in a folder, or in a repository owner/name of the Hugging Face Hub, in eval mode on the CPU.

        download: fetch the repository over the network; without it, it must have been downloaded before. revision: branch,
        tag or commit of the repository. Nothing in the files is run. Raises InputError where the model cannot be had.
        """
        from zsml.models.sharing import from_pretrained

        return from_pretrained(name, download=download, revision=revision)

    def push_to_hub(self, repository: str, report: str | os.PathLike[str] | None = None, *, private: bool = True) -> str:
        """Upload what `save_pretrained` writes to a repository owner/name of the Hub, made if missing; returns the commit's URL.

        Credentials are those of `hf auth login`. Raises InputError where the repository cannot be written.
        """
        from zsml.models.sharing import push_to_hub

        return push_to_hub(self, repository, report, private=private)

    def new_parameters(self) -> list[nn.Parameter]:
        """The parameters that no ImageNet weight file holds: gate, bottleneck, classifiers and the trunk's tag weights."""
        return [p for name, p in self.named_parameters() if _is_new(name)]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All other parameters: the trunk without its tag weights."""
        return [p for name, p in self.named_parameters() if not _is_new(name)]

    def trainable(self, what: str) -> None:
        """Choose what training may change, from now on.

        what: "all"; "norms": normalisation layers, tag weights, gate, bottleneck and classifiers; "head": gate,
        bottleneck and classifiers alone. With "head" the trunk runs as at test time whatever `train()` says, so that
        its BatchNorm statistics stay as they are; with "norms" they follow the images.

        Raises InputError for another word.
        """
        if what not in TRAINABLE:
            raise InputError(f"trainable must be one of {', '.join(TRAINABLE)}, got {what!r}")
        self._trainable = what
        self._settle()

    def freeze_backbone(self, frozen: bool) -> None:
        """Hold the backbone parameters constant, or let those train again that `trainable` leaves.

        A frozen trunk runs as at test time whatever `train()` says: its BatchNorm statistics stay as they are. The tag
        weights inside it still train.
        """
        self._frozen = bool(frozen)
        self._settle()

    def _settle(self) -> None:
        norms = {id(p) for m in self.trunk.modules() if _is_norm(m) for p in m.parameters(recurse=False)}
        for name, parameter in self.named_parameters():
            if not name.startswith("trunk."):
                trains = True
            elif _is_new(name):
                trains = self._trainable != "head"
            elif self._trainable == "norms":
                trains = not self._frozen and id(parameter) in norms
            else:
                trains = not self._frozen and self._trainable == "all"
            parameter.requires_grad_(trains)
        self.train(self.training)

    def train(self, mode: bool = True) -> EmbeddingModel:
        super().train(mode)
        if self._frozen or self._trainable == "head":
            self.trunk.eval()
        return self


def _is_new(name: str) -> bool:
    return not name.startswith("trunk.") or ".fc_tag." in name


def _is_norm(module: nn.Module) -> bool:
    """Whether it is a normalisation layer: torch's and timm's, and ConvNeXt V2's global response norm, say so in their name."""
    return "norm" in type(module).__name__.lower()
