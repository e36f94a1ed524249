"""`zsml systems`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from zsml.commands._common import Json
from zsml.engine.tables import settings_table, systems_table


@dataclass
class Systems:
    """List the published systems; of one, show what it sets and reads.

    Example: zsml systems sake --data sketchy
    """

    name: Positional[str] = ""
    """System to show; without, all are listed."""
    data: str = "folder"
    """Data set whose published settings to show."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.systems import SYSTEMS, find_system

        chosen = [find_system(self.name)] if self.name else SYSTEMS.values()
        listed = [
            {"name": system.name, "summary": system.summary, "source": system.source, "protocol": system.protocol}
            for system in chosen
        ]
        if not self.name:
            return {"systems": listed}
        return {"systems": listed, "data": self.data, "settings": _settings(chosen[0], self.data)}

    def text(self, result: dict[str, Any]) -> str:
        if "settings" not in result:
            return systems_table(result["systems"])
        return f"{systems_table(result['systems'])}\n\n{settings_table(result['settings'])}"


def _settings(system: Any, data: str) -> list[dict[str, Any]]:
    """Every setting the system reads or sets: its value on a data set, and with the published code's differences."""
    from zsml.data.load import READERS
    from zsml.engine.config import TrainConfig, flag
    from zsml.engine.config_file import merged
    from zsml.errors import InputError, not_known

    if data not in READERS:
        raise InputError(f"--data {not_known(data, READERS)}")
    common, paper, released = TrainConfig(), system.settings_for(data), system.settings_for(data, "released")
    values = {name: merged(layer) for name, layer in (("paper", paper), ("released", released))}
    names = dict.fromkeys((*paper, *released, *system.settings))
    return [
        {
            "setting": flag(name),
            "value": getattr(values["paper"], name),
            "released": getattr(values["released"], name),
            "default": getattr(common, name),
        }
        for name in names
        if name != "variant"
    ]
