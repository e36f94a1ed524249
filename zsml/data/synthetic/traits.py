"""What is fixed for a class (Traits) and what differs from one specimen to the next (Vary)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zsml.data.keys import stable_hash


class Traits:
    """The choices that make a class, drawn once from its key and remembered.

    ``pick`` names a structural choice (these tell classes apart, and give the class its name), ``amount`` a
    proportion that all specimens share. Each depends on (key, name) alone, so the order of the calls is free.
    """

    def __init__(self, *key: object):
        self.key = key
        self.picks: dict[str, str] = {}
        self.amounts: dict[str, float] = {}

    def pick(self, name: str, options: Sequence[str]) -> str:
        """One of the options; by custom an adjective, or '' for the ordinary case."""
        if name not in self.picks:
            self.picks[name] = options[stable_hash(*self.key, name) % len(options)]
        return self.picks[name]

    def amount(self, name: str, low: float, high: float) -> float:
        """A number in [low, high)."""
        if name not in self.amounts:
            self.amounts[name] = low + (high - low) * stable_hash(*self.key, name) / 2**56
        return self.amounts[name]


class Vary:
    """The chances that make a specimen."""

    def __init__(self, random: np.random.RandomState, strength: float = 1.0):
        self.random = random
        self.strength = strength

    def near(self, value: float, spread: float = 0.13) -> float:
        """The value, changed by up to the given fraction."""
        return value * (1 + self.strength * spread * (2 * self.random.random_sample() - 1))

    def shift(self, limit: float) -> float:
        """A number in [-limit, limit)."""
        return self.strength * limit * (2 * self.random.random_sample() - 1)

    def count(self, low: int, high: int) -> int:
        """A whole number from low to high, both possible."""
        return int(self.random.randint(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.random.random_sample() < probability)
