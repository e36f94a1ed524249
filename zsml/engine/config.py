"""What one training run is made of: a dataclass behind the flags of `zsml train` and the keys of a TOML file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from zsml.errors import InputError


@dataclass
class TrainConfig:
    """Settings of the run; the defaults are the setting MATHM was published with, and each system lays its own over them."""

    system: Positional[str] = "mathm"
    """Which published system to train; zsml systems lists them."""
    variant: Literal["paper", "released"] = "paper"
    """Where paper and published code differ: what the paper means, or what the code does."""

    # data
    data: str = "folder"
    """Data set: folder (root/{sketch,photo}/<class>/*), synthetic, sketchy, sketchy2, tuberlin, quickdraw or annotations."""
    root: Path | None = None
    """Folder that holds the images (synthetic needs none)."""
    lists: Path | None = None
    """Folder that holds the published list files (of the data sets that have some); default: under --root."""
    unseen: tuple[str, ...] = ()
    """Classes kept out of training and used to test: their names, or one number of classes to draw (folder, synthetic)."""
    split_seed: int = 0
    """Seed of the draw of unseen classes (folder) and of the generated images (synthetic)."""
    samples_per_class: int | None = None
    """Images drawn of each class and modality (synthetic); default: 100."""
    image_size: int = 224
    """Side of the square images, pixels."""
    transform: str = "mathm"
    """Training augmentation, by name (zsml.data.transforms)."""
    test_transform: str = "test"
    """What is done to images outside training, by name."""
    normalize: Literal["auto", "imagenet", "clip", "none"] = "auto"
    """Mean and deviation of pixel values; auto: what the backbone's own weights were trained with; none: values from 0 to 1."""
    strict_images: bool = False
    """Stop at an image that cannot be decoded instead of skipping it."""

    # model
    arch: str = "cse_resnet50"
    """Backbone: cse_resnet50 (conditional squeeze-and-excitation), se_resnet50, resnet50, or any other timm backbone."""
    embedding_dim: int = 512
    """Width D of the embedding."""
    pretrained: str = "no"
    """Start from: no (random weights), imagenet (timm's weights, downloaded when not cached), or a weights file."""
    gate: bool = False
    """Let any backbone see the modality: a gate on its pooled features, the identity at the start."""
    trainable: Literal["all", "norms", "head"] = "all"
    """What of the network is trained: all, its normalisation layers and what is new, or only what is new."""

    # optimisation
    epochs: int = 40
    """Length of the training."""
    batches_per_epoch: int = 200
    """Batches drawn per epoch; 0 (--batch random): one pass, until the sketches or the photos are used up."""
    batch: Literal["classes", "random"] = "classes"
    """A batch is P classes with K images of each modality, or sketches and photos drawn at random."""
    classes_per_batch: int = 16
    """Classes P in a batch (--batch classes)."""
    samples_per_modality: int = 4
    """Images K of each class in a batch, of sketches and of photos: P * 2 K images in all (--batch classes)."""
    sketches_per_batch: int = 32
    """Sketches in a batch (--batch random)."""
    photos_per_batch: int = 64
    """Photos in a batch (--batch random)."""
    drop_last: bool = False
    """Leave out the last batch of a pass if it is not full (--batch random)."""
    accumulate: int = 1
    """Batches whose gradients are summed into one step. Batch-hard losses still mine each batch on its own."""
    lr: float = 1e-4
    """Adam's learning rate for new parameters (head, classifier, modality tags)."""
    backbone_lr_factor: float = 0.1
    """Learning rate of the backbone, as a fraction of --lr."""
    weight_decay: float = 5e-4
    """L2 penalty added to the gradient of every parameter."""
    frozen_epochs: int = 2
    """First epochs in which only new parameters are trained."""
    warmup_epochs: int = 5
    """Epochs of warm-up after that, then as many at the full rate, then the cosine."""

    # objectives: a system reads those that zsml systems shows for it
    triplet_weight: float = 1.0
    """Weight of the triplet loss beside the cross-entropy."""
    margin: float | None = None
    """Margin, of triplets in embedding distance, of a softmax in its own measure; default: as published."""
    beta: float = 20.0
    """Sharpness of the triplets' softplus; 0 takes relu."""
    weighting: Literal["adaptive", "released", "mean"] = "adaptive"
    """Weights of the triplet terms: as in the paper, as in the published code, or equal."""
    teacher: str = ""
    """Weights of the ImageNet teacher: imagenet, a weights file, or random (to try the machinery); default: as --pretrained."""
    teacher_arch: str = ""
    """Architecture of the teacher, if not --arch: for a student whose weights have no classifier of ImageNet's 1000 classes."""
    affinity: Path | None = None
    """Affinity of the seen classes to ImageNet's: .npz of zsml data affinity, or a published .pickle; without: none."""
    affinity_bonus: float = 0.3
    """What full affinity adds to the logit of the distillation's target."""
    distillation_weight: float = 1.0
    """Weight of the distillation loss."""
    distillation_temperature: float = 1.0
    """Temperature the teacher's logits are divided by."""
    contrastive_weight: float = 0.1
    """Weight of the supervised contrastive loss."""
    contrastive_temperature: float = 0.07
    """Temperature of the contrastive loss."""
    memory_weight: float = 1.0
    """Weight of the loss that draws photos to the remembered sketches of their class."""
    memory_size: int = 10
    """Sketches remembered of each class."""
    memory_gradient: bool = True
    """Let the memory's loss train the network; the published code does not."""
    alignment_weight: float = 0.1
    """Weight of the loss that draws features to a Gaussian distribution."""
    teacher_trainable: Literal["head", "none", "all"] = "head"
    """What of the teacher learns from the student."""
    teacher_lr: float | None = None
    """Learning rate of the teacher; default: --lr."""
    teacher_warmup_epochs: int = 10
    """First epochs in which the teacher stays as it is."""
    detach_targets: bool = True
    """Pass no gradient into the targets that student and teacher give each other; the published code does."""
    softmax: Literal["mems", "ems", "cosface", "arcface", "a-softmax"] = "mems"
    """Margin softmax over class centres."""
    scale: float = 32.0
    """Scale of the cosines (cosface, arcface)."""
    annealing_steps: int = 0
    """Batches until the softmax has its full margin; 0: at once."""
    tag_init: Literal["zero", "random"] = "zero"
    """Start of the weights by which gates see the modality: zero leaves the pretrained network as it is."""

    # running
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Mixed precision: auto is bf16 (fp16 on older GPUs) on CUDA and off on the CPU."""
    sync_batchnorm: bool = False
    """On several GPUs (torchrun): BatchNorm over the whole batch, as on one, instead of each GPU's part."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""
    workers: int | None = None
    """Image-loading processes; default: one per core, on a CPU one per 4 cores, at most 8. The result does not depend on it."""
    seed: int = 0
    """Seed of weights, batches and augmentation."""
    selection: Literal["last", "val_accuracy", "val_map"] = "last"
    """Model to keep beside the last: the best by accuracy on held-out sketches of seen classes, or by retrieval among them."""
    evaluate_every: int = 0
    """Measure mAP on the unseen classes every so many epochs, for the log only; 0: never."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs the tensorboard package)."""
    out: Path | None = None
    """Folder of the run: checkpoints, logs, config.toml. Default: runs/<system>."""

    @property
    def run_dir(self) -> Path:
        return self.out if self.out is not None else Path("runs") / self.system

    @property
    def num_workers(self) -> int:
        if self.workers is not None:
            return self.workers
        from zsml.engine.device import resolve_device

        # Shared with the other processes of the training, if torchrun started some; on a CPU they are busy computing.
        cores = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        return min(8, cores if resolve_device(self.device).type == "cuda" else cores // 4)

    @property
    def unseen_classes(self) -> list[str] | int | None:
        """`unseen` in the form `load_dataset` takes: names, a count, or None for its default."""
        if len(self.unseen) == 1 and self.unseen[0].isdecimal():
            return int(self.unseen[0])
        return list(self.unseen) or None

    @property
    def pixel_normalisation(self) -> Any:
        """`normalize` in the form `load_dataset` takes: a name, or the mean and the deviation of the backbone's own weights."""
        if self.normalize != "auto":
            return self.normalize
        from zsml.models import pixel_statistics

        return pixel_statistics(self.arch)

    @property
    def preprocessing(self) -> Any:
        """What is done to images outside training, as models keep it (`zsml.models.Preprocessing`)."""
        from zsml.data.transforms import NORMALIZE
        from zsml.models import Preprocessing

        pixels = self.pixel_normalisation
        mean, std = (NORMALIZE[pixels] or (None, None)) if isinstance(pixels, str) else pixels
        return Preprocessing(self.image_size, self.test_transform, mean, std)

    @property
    def teacher_source(self) -> str:
        """`teacher`, or where that is left open what `pretrained` says; "" if it is random weights."""
        return self.teacher or {"no": ""}.get(self.pretrained, self.pretrained)

    def dataset_options(self) -> dict[str, Any]:
        """The keyword arguments of `load_dataset` that choose the split; the same ones serve training and evaluation."""
        options: dict[str, Any] = {
            "image_size": self.image_size,
            "normalize": self.pixel_normalisation,
            "seed": self.split_seed,
            "strict": self.strict_images,
        }
        if self.data in ("folder", "synthetic"):
            options["unseen"] = self.unseen_classes
        elif self.lists is not None:
            options["lists"] = self.lists
        if self.samples_per_class is not None:
            options["samples_per_class"] = self.samples_per_class
        return options

    def validate(self, *, starting: bool = True) -> None:
        """Check every setting by itself and with the others, before any work.

        starting: also that there are the weights a new training starts from.

        Raises:
            InputError: listing everything that is wrong, one line per flag.

        >>> TrainConfig(data="synthetic", epochs=0).validate()
        Traceback (most recent call last):
        ...
        zsml.errors.InputError: --epochs must be 1 or more, got 0
        """
        from zsml.engine.config_checks import problems_of

        problems = problems_of(self, starting)
        if problems:
            raise InputError("\n".join(problems))


# What describes a batch, by --batch.
BATCH_SETTINGS = {
    "classes": ("classes_per_batch", "samples_per_modality"),
    "random": ("sketches_per_batch", "photos_per_batch", "drop_last"),
}
# Settings that only some systems read; the others refuse them.
SYSTEM_SETTINGS = (
    "warmup_epochs", "triplet_weight", "margin", "beta", "weighting", "teacher", "teacher_arch", "affinity", "affinity_bonus",
    "distillation_weight",
    "distillation_temperature", "contrastive_weight", "contrastive_temperature", "memory_weight", "memory_size",
    "memory_gradient", "alignment_weight", "teacher_trainable", "teacher_lr", "teacher_warmup_epochs", "detach_targets",
    "softmax", "scale", "annealing_steps", "tag_init",
)  # fmt: skip


def flag(name: str) -> str:
    """The command-line spelling of a setting.

    >>> flag("batches_per_epoch")
    '--batches-per-epoch'
    """
    return "--" + name.replace("_", "-")
