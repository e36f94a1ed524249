"""`zsml demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zsml.commands._common import Json
from zsml.engine.tables import demo_table


@dataclass
class Demo:
    """Train on generated images and retrieve classes never seen, in a few minutes.

    Example: zsml demo --out runs/demo
    """

    out: Path | None = None
    """Folder of the run and the report; default: runs/demo, or the next free name."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.demo import demo

        return demo(self.out, device=self.device)

    def text(self, result: dict[str, Any]) -> str:
        return demo_table(result)
