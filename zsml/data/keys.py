"""Numbers and random streams that depend on a key alone: the same on every machine, in every process, in any order."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stable_hash(*key: object) -> int:
    """A number in [0, 2^56) for a key of strings and integers.

    >>> stable_hash("tree", 3) == stable_hash("tree", 3) != stable_hash("tree", 4)
    True
    """
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest(), "little")


def numpy_stream(*key: object) -> np.random.RandomState:
    """RandomState and not the newer Generator, because numpy promises that its streams never change."""
    return np.random.RandomState(stable_hash(*key) % 2**32)


def torch_stream(*key: object) -> torch.Generator:
    """A CPU generator of torch."""
    return torch.Generator().manual_seed(stable_hash(*key))
