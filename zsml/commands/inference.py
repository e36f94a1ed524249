"""What the commands that use a trained model have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsml.commands._common import Json
from zsml.engine.config import TrainConfig, flag
from zsml.errors import InputError

if TYPE_CHECKING:
    import torch

    from zsml.engine.embed import Run

OVERRIDES = (
    "data",
    "root",
    "lists",
    "unseen",
    "image_size",
    "test_transform",
    "variant",
)  # settings of the run that flags may replace


@dataclass
class Inference:
    """What the commands that use a trained model have in common."""

    folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder that `zsml train --out` wrote, one of its checkpoints, or a model that `zsml import` wrote."""
    weights: Literal["auto", "best", "last"] = "auto"
    """Which model of a run: the one its --selection chose, or the last; auto: the chosen one if there is any."""
    data: str | None = None
    """Data set, if not that of the training."""
    root: Path | None = None
    """Folder of the images, if not where it was in training."""
    lists: Path | None = None
    """Folder of the published list files, if not where it was in training."""
    unseen: tuple[str, ...] = ()
    """Classes to test on, if not those kept out of training (folder, synthetic)."""
    image_size: int | None = None
    """Side of the square images in pixels, if not that of the training."""
    test_transform: str | None = None
    """What is done to images, by name, if not what the training or the system says."""
    variant: Literal["paper", "released"] | None = None
    """Of a model without a run: whether settings are the paper's or the published code's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "off"
    """Mixed precision."""
    workers: int | None = None
    """Image-loading processes; default: one per core, on a CPU one per 4 cores, at most 8."""
    batch_size: int = 64
    """Images embedded at once."""
    strict_images: FlagCreatePairsOff[bool] = False
    """Stop at an image that cannot be decoded instead of skipping and counting it."""
    json: Json = False
    """Print the result as JSON."""

    def open(self) -> tuple[Run, torch.device]:
        from zsml.engine.device import resolve_amp, resolve_device
        from zsml.engine.embed import open_run
        from zsml.models.io import WEIGHTS, read_card

        for name, least in {"batch_size": 1, "workers": 0, "examples": 0}.items():
            value = getattr(self, name, None)
            if value is not None and value < least:
                raise InputError(f"{flag(name)} must be {least} or more, got {value}")
        device = resolve_device(self.device)
        resolve_amp(self.amp, device)
        changes = {"amp": self.amp, "workers": self.workers, "strict_images": self.strict_images}
        changes |= {name: value for name in OVERRIDES if (value := getattr(self, name)) not in (None, ())}
        if (self.folder / WEIGHTS).is_file() and not (self.folder / "state.json").is_file():
            card = read_card(self.folder) or {}
            if "selection" not in card or not (self.folder.parent / "checkpoints").is_dir():
                return self._open_alone(card, changes, device), device
            opened = open_run(self.folder.parent, device, "best")  # the one a run keeps by --selection
        else:
            opened = open_run(self.folder, device, self.weights)
        other = self.data is not None and self.data != opened.config.data
        if other:  # what chose the training's split has no meaning for another data set
            changes = {"unseen": (), "lists": None, "samples_per_class": None, **changes}
        opened.config = replace(opened.config, embedding_dim=opened.model.embedding_dim, **changes)
        if other or self.test_transform is not None:
            opened.config.validate(starting=False)
        opened.model.preprocessing = opened.config.preprocessing
        return opened, device

    def _open_alone(self, card: dict[str, Any], changes: dict[str, Any], device: torch.device) -> Run:
        """A model without a run is used as it and the system it is of say, on the data set named by the flags."""
        from zsml.engine.embed import open_model
        from zsml.engine.log import say
        from zsml.models.io import read_preprocessing
        from zsml.systems import find_system

        if self.data is None:
            raise InputError("--data is missing: a model without a run knows no data set; name one, and its --root")
        if self.weights != "auto":
            raise InputError(f"--weights {self.weights} has no meaning for a model without a run, which is one; leave it out")
        name = card.get("system", "mathm")
        if "system" not in card:
            say(f"note: {self.folder} does not say which system its model is of; it is used as {name} would be")
        settings = find_system(name).settings_for(self.data, self.variant or "paper")
        known = read_preprocessing(self.folder)
        if known is not None:
            settings = {**settings, "image_size": known.image_size, "test_transform": known.transform}
        config = replace(TrainConfig(), **{**settings, "system": name, "pretrained": "no", **changes})
        opened = open_model(self.folder, config, device)
        opened.config = replace(config, arch=opened.model.arch, embedding_dim=opened.model.embedding_dim)
        opened.config.validate(starting=False)
        if known is not None:  # any mean and deviation, not only those that have a name
            opened.config = replace(opened.config, normalize=known.normalize)
        opened.model.preprocessing = opened.config.preprocessing
        return opened
