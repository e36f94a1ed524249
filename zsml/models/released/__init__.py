"""Checkpoints that the published systems share: `load_released` reads them, `layouts` says how each is laid out."""

from zsml.models.released.layouts import LAYOUTS
from zsml.models.released.load import load_released

SYSTEMS = tuple(LAYOUTS)

__all__ = ["LAYOUTS", "SYSTEMS", "load_released"]
