"""Reading weight files that somebody else wrote, without ever running code from them."""

from __future__ import annotations

import os
import pickle
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zsml.errors import InputError

# Trainers store their best score as a NumPy scalar; a weights-only load accepts that much more than tensors.
# Files from before NumPy 2 name the same function in numpy.core.
_make_scalar = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS = [
    (_make_scalar, "numpy.core.multiarray.scalar"),
    (_make_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bhilqBHILQefd"),
]
_allowing = threading.Lock()  # torch keeps one list for the whole process


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote to path, tensors on the CPU: containers, numbers, strings and tensors only.

    Raises InputError where there is no such file or it holds anything else; code in it is never run.
    """
    if is_safetensors(path):
        raise InputError(
            f"{path} is a safetensors file, not a checkpoint written by torch.save; what zsml itself saved is read by "
            "zsml.models.load_model(folder)"
        )
    _check_archive(path)
    try:
        with _allowing, torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails anywhere in the unpickler, with any exception
        called = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if called:
            raise InputError(
                f"{path} was not read: loading it would run {printable(called[1])}, and only tensors and plain values are taken "
                "from files of others; ask for a file that holds the state_dict alone"
            ) from None  # torch's own message would advise to load it all the same
        raise InputError(f"{path} is damaged or not a checkpoint written by torch.save") from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than its own size: torch.save does not compress, and memory is finite."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # where torch looks, too
            return  # of the form before torch 1.6, or damaged
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # a damaged archive fails anywhere in its directory, with any exception
        raise InputError(f"{path} is damaged or not a checkpoint written by torch.save") from error
    if unpacked > path.stat().st_size:
        raise InputError(
            f"{path} was not read: it would unpack from {path.stat().st_size:,} to {unpacked:,} bytes, and torch.save writes "
            "nothing compressed"
        )


def tensors_by_name(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file held: bare, under "state_dict" or under "model"; "module." before all names is cut."""
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(dict.get(content, wrapper), dict):
            content = dict.get(content, wrapper)  # not .get: an OrderedDict in a file may bring attributes of its own
            break
    if not isinstance(content, dict) or not len(content):
        what = "an empty dict" if content == {} else f"one {type(content).__name__}"
        raise InputError(f"{path} holds no weights by name but {what}")
    content = dict(dict.items(content))
    wrong = [repr(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        raise InputError(f"{path} holds no plain weights by name; these entries are no tensors: {', '.join(wrong)}")
    odd = [key for key, value in content.items() if not _is_dense(value)]
    if odd:
        raise InputError(
            f"{path} holds tensors without a number per element (sparse, quantised, nested or meta): "
            f"{', '.join(printable(key) for key in odd)}"
        )
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {key[len(prefix) :]: value for key, value in content.items()}


def printable(name: str) -> str:
    """A name out of a file of others as a message may show it, without control characters that a terminal would obey."""
    return name if name.isprintable() else ascii(name)


def _is_dense(value: Tensor) -> bool:
    """Whether a tensor has its numbers in memory, one per element."""
    return value.layout is torch.strided and value.device.type == "cpu" and not (value.is_quantized or value.is_nested)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weight file by name: .safetensors, or written by `torch.save` as `tensors_by_name` takes it.

    Raises InputError where the file cannot be read or holds no tensors by name.
    """
    path = Path(path)
    if not is_safetensors(path):
        return tensors_by_name(read_torch_file(path), path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is a damaged safetensors file: {error}") from error


def is_safetensors(path: Path) -> bool:
    """Whether the file starts like one: the header's length in 8 bytes, then JSON. InputError if there is no file."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise InputError(f"{path} is {what}; give the path of a weight file")
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8
