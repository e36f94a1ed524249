"""What commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tyro.conf import FlagCreatePairsOff

from zsml.errors import InputError

Json = FlagCreatePairsOff[bool]


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Names --out where a result cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from error
