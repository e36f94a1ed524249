"""Arrays of other libraries as tensors, on the memory they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsml.errors import InputError


def as_tensor(value: Any, name: str) -> Any:
    """A NumPy or CuPy array, or whatever else exports its memory by ``__dlpack__``, as a tensor on that memory, without a copy.

    Tensors come back as they are, and so does all that is no array: the check that follows says what it wanted instead. A
    read-only array gives a tensor too (torch has none that are read-only); zsml never writes to its inputs.

    Raises:
        TypeError: an array of something that no tensor holds.
        InputError: an array that runs backwards through its memory, or is on a device that torch cannot use.
    """
    if isinstance(value, Tensor) or not hasattr(value, "__dlpack__"):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array, whose mask would be lost; fill or leave out what is masked")
    strides = getattr(value, "strides", None) or ()
    if any(stride < 0 for stride in strides):  # torch would end the whole process
        raise InputError(f"{name} must not have negative strides, got {tuple(strides)}; pass a contiguous copy of it")
    try:
        return torch.from_dlpack(_writable(value) if isinstance(value, np.ndarray) else value)
    except (BufferError, TypeError, ValueError) as error:
        held = getattr(value, "dtype", "elements of an unknown type")
        raise TypeError(f"{name} must hold numbers as torch does, got {type(value).__name__} of {held} ({error})") from error
    except RuntimeError as error:
        raise InputError(f"{name} cannot be taken over from {type(value).__name__}: {error}") from error


class _Writable:
    """Says of an array's memory that it may be written to, and keeps the array alive."""

    def __init__(self, array: np.ndarray):
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def _writable(array: np.ndarray) -> np.ndarray:
    """The array; a read-only one by a view that does not say so, since some versions of NumPy do not export it otherwise."""
    return array if array.flags.writeable or array.dtype.hasobject else np.asarray(_Writable(array))
