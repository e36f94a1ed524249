"""Published systems, one file each: which model, objective, batch, schedule and protocol."""

from __future__ import annotations

from zsml.errors import InputError, not_known
from zsml.systems.base import System
from zsml.systems.baseline import Baseline
from zsml.systems.dsn import DSN
from zsml.systems.mathm import MATHM
from zsml.systems.mems import MEMS
from zsml.systems.sake import SAKE
from zsml.systems.sbka import SBKA

SYSTEMS: dict[str, System] = {system.name: system for system in (MATHM(), Baseline(), SAKE(), DSN(), MEMS(), SBKA())}


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        InputError: there is none; lists those there are, and suggests the nearest.

    >>> find_system("mathm").source
    'Modality-Aware Triplet Hard Mining for Zero-Shot Sketch-Based Image Retrieval, arXiv 2112.07966'
    """
    if name not in SYSTEMS:
        raise InputError(f"system {not_known(name, SYSTEMS)}")
    return SYSTEMS[name]


__all__ = ["DSN", "MATHM", "MEMS", "SAKE", "SBKA", "SYSTEMS", "Baseline", "System", "find_system"]
