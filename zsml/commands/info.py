"""`zsml info`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zsml.commands._common import Json
from zsml.engine.tables import info_table


@dataclass
class Info:
    """Show what runs on this machine: kernels, versions, devices.

    Example: zsml info --json
    """

    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        import zsml

        return zsml.info()

    def text(self, result: dict[str, Any]) -> str:
        return info_table(result)
