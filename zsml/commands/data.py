"""`zsml data`: what a data set holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from zsml.commands._common import Json
from zsml.engine.config import TrainConfig
from zsml.engine.tables import split_table


@dataclass
class Data:
    """Show classes, counts and split of a data set.

    `zsml data affinity|check|prepare NAME` do more with one; each has its own --help.

    Example: zsml data folder --root PATH --unseen 2 --sheet sheet.png

    """

    data: Positional[str]
    """Data set: folder, synthetic, sketchy, sketchy2, tuberlin, quickdraw or annotations."""
    root: Path | None = None
    """Folder that holds the images (synthetic needs none)."""
    lists: Path | None = None
    """Folder that holds the published list files; default: under --root."""
    unseen: tuple[str, ...] = ()
    """Classes to test on: their names, or one number of classes to draw (folder, synthetic)."""
    split_seed: int = 0
    """Seed of that draw."""
    sheet: Path | None = None
    """Also write a contact sheet of example images to this PNG file."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.describe import describe

        config = TrainConfig(data=self.data, root=self.root, lists=self.lists, unseen=self.unseen, split_seed=self.split_seed)
        config.validate()
        return describe(config, self.sheet)

    def text(self, result: dict[str, Any]) -> str:
        return split_table(result) + (f"\ncontact sheet: {result['sheet']}" if result["sheet"] else "")
