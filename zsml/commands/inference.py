"""What the commands that use a trained model have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsml.commands._common import Json
from zsml.engine.config import flag
from zsml.errors import InputError

if TYPE_CHECKING:
    import torch

    from zsml.engine.embed import Run


@dataclass
class Inference:
    """What the commands that use a trained model have in common."""

    folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder that `zsml train --out` wrote, or one of its checkpoints."""
    root: Path | None = None
    """Folder of the images, if not where it was in training."""
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

        for name, least in {"batch_size": 1, "workers": 0, "examples": 0}.items():
            value = getattr(self, name, None)
            if value is not None and value < least:
                raise InputError(f"{flag(name)} must be {least} or more, got {value}")
        device = resolve_device(self.device)
        resolve_amp(self.amp, device)
        opened = open_run(self.folder, device)
        changes = {"amp": self.amp, "workers": self.workers, "strict_images": self.strict_images}
        if self.root is not None:
            changes["root"] = self.root
        opened.config = replace(opened.config, **changes)
        return opened, device
