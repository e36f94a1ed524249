"""What one training run is made of: a dataclass behind the flags of `zsml train` and the keys of a TOML file."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from zsml.errors import InputError


@dataclass
class TrainConfig:
    """Settings of the run; the defaults are the setting MATHM was published with."""

    system: Positional[str] = "mathm"
    """Which published system to train: mathm or baseline."""

    # data
    data: str = "folder"
    """Data set: folder (root/{sketch,photo}/<class>/*), synthetic, sketchy, sketchy2 or tuberlin."""
    root: Path | None = None
    """Folder that holds the images (synthetic needs none)."""
    lists: Path | None = None
    """Folder that holds the published list files (sketchy*, tuberlin); default: under --root."""
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
    strict_images: bool = False
    """Stop at an image that cannot be decoded instead of skipping it."""

    # model
    arch: str = "cse_resnet50"
    """Backbone: cse_resnet50 (conditional squeeze-and-excitation), se_resnet50, resnet50, or any other timm backbone."""
    embedding_dim: int = 512
    """Width D of the embedding."""
    pretrained: str = "no"
    """Start from: no (random weights), imagenet (timm's weights, downloaded when not cached), or a weights file."""

    # optimisation
    epochs: int = 40
    """Length of the training."""
    batches_per_epoch: int = 200
    """Batches drawn per epoch."""
    classes_per_batch: int = 16
    """Classes P in a batch."""
    samples_per_modality: int = 4
    """Images K of each class in a batch, of sketches and of photos: P * 2 K images in all."""
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

    # loss
    triplet_weight: float = 1.0
    """Weight of the triplet loss beside the cross-entropy."""
    margin: float = 0.2
    """Margin of the triplets, in embedding distance."""
    beta: float = 20.0
    """Sharpness of the softplus; 0 takes relu."""
    weighting: Literal["adaptive", "released", "mean"] = "adaptive"
    """Weights of the triplet terms: as in the paper, as in the published code, or equal."""

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

    def dataset_options(self) -> dict[str, Any]:
        """The keyword arguments of `load_dataset` that choose the split; the same ones serve training and evaluation."""
        options: dict[str, Any] = {"image_size": self.image_size, "seed": self.split_seed, "strict": self.strict_images}
        if self.data in ("folder", "synthetic"):
            options["unseen"] = self.unseen_classes
        elif self.lists is not None:
            options["lists"] = self.lists
        if self.samples_per_class is not None:
            options["samples_per_class"] = self.samples_per_class
        return options

    def validate(self) -> None:
        """Check every setting by itself and with the others, before any work.

        Raises:
            InputError: listing everything that is wrong, one line per flag.

        >>> TrainConfig(data="synthetic", epochs=0).validate()
        Traceback (most recent call last):
        ...
        zsml.errors.InputError: --epochs must be 1 or more, got 0
        """
        problems = [*self._wrong_numbers(), *self._wrong_names(), *self._wrong_combinations()]
        if problems:
            raise InputError("\n".join(problems))

    def _wrong_numbers(self) -> list[str]:
        at_least = {
            "epochs": 1, "batches_per_epoch": 1, "classes_per_batch": 2, "samples_per_modality": 1, "accumulate": 1,
            "image_size": 32, "embedding_dim": 1, "weight_decay": 0, "frozen_epochs": 0, "warmup_epochs": 0,
            "triplet_weight": 0, "margin": 0, "beta": 0, "workers": 0, "evaluate_every": 0, "backbone_lr_factor": 0,
            "seed": 0, "split_seed": 0, "samples_per_class": 2,
        }  # fmt: skip
        problems = []
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):  # nan fails both
                problems.append(f"{flag(name)} must be {least} or more, got {value}")
        if not 0 < self.lr < float("inf"):
            problems.append(f"--lr must be above 0, got {self.lr}")
        return problems

    def _wrong_names(self) -> list[str]:
        from zsml.data.load import READERS
        from zsml.data.transforms import TRANSFORMS

        problems = []
        for name, choices in (
            ("data", READERS),
            ("transform", TRANSFORMS),
            ("weighting", ("adaptive", "released", "mean")),
        ):
            value = getattr(self, name)
            if value not in choices:
                problems.append(f"{flag(name)} {value!r} is not known; choose from {', '.join(choices)}")
        return problems

    def _wrong_combinations(self) -> list[str]:
        from zsml.engine.device import resolve_amp, resolve_device

        problems = []
        if self.data != "synthetic" and self.root is None:
            problems.append(f"--root is missing: --data {self.data} needs the folder that holds the images")
        if self.data not in ("folder", "synthetic") and self.unseen:
            problems.append(f"--unseen has no meaning for --data {self.data}, whose lists fix the split; leave it out")
        if self.data in ("folder", "synthetic") and self.lists is not None:
            problems.append(f"--lists has no meaning for --data {self.data}; leave it out")
        if self.data != "synthetic" and self.samples_per_class is not None:
            problems.append(f"--samples-per-class has no meaning for --data {self.data}; leave it out")
        for name in ("root", "lists"):
            path = getattr(self, name)
            if path is not None and not path.is_dir():
                problems.append(f"{flag(name)} {str(path)!r} is not a folder")
        if self.pretrained not in ("no", "imagenet") and not Path(self.pretrained).is_file():
            problems.append(f"--pretrained {self.pretrained!r} is neither no, imagenet nor a file")
        if self.batches_per_epoch >= 1 and self.accumulate >= 1 and self.batches_per_epoch % self.accumulate:
            problems.append(
                f"--batches-per-epoch ({self.batches_per_epoch}) must be a multiple of --accumulate ({self.accumulate})"
            )
        if self.epochs >= 1 and self.frozen_epochs > self.epochs:
            problems.append(f"--frozen-epochs ({self.frozen_epochs}) must not exceed --epochs ({self.epochs})")
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            problems.append("--tensorboard needs a package that is not installed: pip install tensorboard")
        try:
            resolve_amp(self.amp, resolve_device(self.device))
        except InputError as error:
            problems.append(str(error))
        return problems


def flag(name: str) -> str:
    """The command-line spelling of a setting.

    >>> flag("batches_per_epoch")
    '--batches-per-epoch'
    """
    return "--" + name.replace("_", "-")
