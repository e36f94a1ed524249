"""`zsml train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tyro.conf import OmitArgPrefixes

from zsml.commands._common import Json
from zsml.engine.config import TrainConfig
from zsml.errors import InputError


@dataclass
class Train:
    """Train a system on the seen classes of a data set.

    Example: zsml train mathm --data folder --root PATH --arch cse_resnet50 --epochs 40 --out runs/x
    """

    ranks: ClassVar[bool] = True  # one of several processes that torchrun started may run it

    settings: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    config: Path | None = None
    """TOML file with any of these settings; flags win over it."""
    resume: Path | None = None
    """Run to go on with, from its newest checkpoint and with its settings."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.train import train
        from zsml.systems import find_system

        if self.resume is not None and self.settings.out != self.resume:
            raise InputError(f"--out {self.settings.out} and --resume {self.resume} are two folders; leave --out away")
        return train(self.settings, find_system(self.settings.system), resume=self.resume is not None)

    def text(self, result: dict[str, Any]) -> str:
        return f"{result['epochs']} epochs, {result['steps']} steps\nnow: zsml evaluate {result['run']}"
