"""Which classes are unseen and which images are held out, decided by hashes of names: the same everywhere, in any order."""

from __future__ import annotations

from collections.abc import Sequence

from zsml.data.keys import stable_hash
from zsml.errors import InputError


def split_classes(names: Sequence[str], unseen: Sequence[str] | int | None, seed: int) -> tuple[list[str], list[str]]:
    """Sorted seen and unseen class names.

    Args:
        unseen: the names of the unseen classes, or how many to draw with the seed; None draws a fifth of them.

    Raises:
        InputError: an unknown or repeated name, or no class left on one side.

    >>> split_classes(["ant", "bee", "cat"], ["bee"], seed=0)
    (['ant', 'cat'], ['bee'])
    """
    names = sorted(names)
    if len(names) < 2:
        raise InputError(f"only {len(names)} class ({', '.join(names)}): at least 2 are needed, one seen and one unseen")
    if unseen is None:
        unseen = max(1, round(0.2 * len(names)))
    if isinstance(unseen, bool) or not isinstance(unseen, (int, list, tuple)):
        raise TypeError(f"unseen must be a list of class names, a number of classes or None, got {type(unseen).__name__}")
    if isinstance(unseen, int):
        if not 1 <= unseen < len(names):
            raise InputError(f"unseen={unseen} must be from 1 to {len(names) - 1}, as there are {len(names)} classes")
        chosen = set(sorted(names, key=lambda name: stable_hash("unseen", seed, name))[:unseen])
    else:
        chosen = set(unseen)
        unknown = [name for name in unseen if name not in names]
        if unknown:
            raise InputError(f"unseen: there is no class {', '.join(map(repr, unknown))}; the classes are {', '.join(names)}")
        if len(chosen) < len(unseen):
            raise InputError(f"unseen names a class twice: {', '.join(unseen)}")
        if not 1 <= len(chosen) < len(names):
            raise InputError(f"unseen names {len(chosen)} of the {len(names)} classes; at least one must be seen and one unseen")
    return [name for name in names if name not in chosen], [name for name in names if name in chosen]


def held_out_count(number: int, fraction: float) -> int:
    """How many of a class's images are kept out of training: at least one of two or more, unless the fraction is 0."""
    return 0 if fraction == 0 else min(number - 1, max(1, round(fraction * number)))


def check_fraction(val_fraction: float) -> None:
    """Refuse a val_fraction outside [0, 1)."""
    if isinstance(val_fraction, bool) or not isinstance(val_fraction, (int, float)):
        raise TypeError(f"val_fraction must be a number, got {type(val_fraction).__name__}")
    if not 0 <= val_fraction < 1:
        raise InputError(f"val_fraction={val_fraction} must be at least 0 and below 1")
