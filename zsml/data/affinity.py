"""How close each class is to each of the 1,000 ImageNet classes: the table that a distilled teacher's targets are shifted by."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.files import write_atomic

IMAGENET_CLASSES = 1000
LARGEST = 1 << 28  # bytes of a file; the largest published table has 1.8 million

_VALUES = {"1": torch.tensor(1.0), "1/3": torch.tensor(1 / 3), "1/4": torch.tensor(1 / 4)}  # float32, as in a table

# What a pickled dict of arrays names, as NumPy wrote it before version 2 and since.
_make_array = np.empty(0).__reduce__()[0]
_NUMPY = {
    ("numpy.core.multiarray", "_reconstruct"): _make_array,
    ("numpy._core.multiarray", "_reconstruct"): _make_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


@dataclass(frozen=True)
class Affinity:
    """The table with the names of its rows, and where it came from.

    classes: C names. table: float32 [C, 1000], values 0..1; row k, column j says how close class k is to ImageNet class j.
    provenance: how it was made, as plain values.

    Raises InputError for a table of another shape, numbers outside 0..1, or a name that occurs twice.

    >>> Affinity(["pig", "van"], torch.zeros(2, 1000)).rows(["van"]).shape
    torch.Size([1, 1000])
    """

    classes: list[str]
    table: Tensor  # [C, 1000]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.table, Tensor):
            raise TypeError(f"table must be a Tensor, got {type(self.table).__name__}")
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise InputError(f"classes holds {twice!r} twice; each row needs a name of its own")
        if self.table.dtype != torch.float32 or tuple(self.table.shape) != (len(self.classes), IMAGENET_CLASSES):
            raise InputError(
                f"table must be float32 [{len(self.classes)}, {IMAGENET_CLASSES}], one row per class and one column per ImageNet "
                f"class, got {self.table.dtype} {list(self.table.shape)}"
            )
        if not ((self.table >= 0) & (self.table <= 1)).all():  # also refuses nan
            raise InputError("table must hold numbers from 0 to 1")

    def rows(self, classes: Sequence[str]) -> Tensor:
        """The rows of these classes, in their order, float32 [len(classes), 1000]; InputError names every class without one."""
        number = {name: row for row, name in enumerate(self.classes)}
        missing = [name for name in classes if name not in number]
        if missing:
            raise InputError(
                f"no row for {len(missing)} of the {len(classes)} classes: {', '.join(missing)}; "
                f"the table's {len(self.classes)} rows are of other classes"
            )
        return self.table[torch.tensor([number[name] for name in classes], dtype=torch.int64)]

    def summary(self) -> dict[str, Any]:
        """Counts, as plain values: classes, imagenet_classes (near to any), values (how often which), near_to_none (names).

        >>> Affinity(["pig", "van"], torch.eye(2, 1000)).summary()
        {'classes': 2, 'imagenet_classes': 2, 'values': {'1': 2, '1/3': 0, '1/4': 0}, 'near_to_none': []}
        """
        near = self.table > 0
        return {
            "classes": len(self.classes),
            "imagenet_classes": int(near.any(0).sum()),
            "values": {name: int((self.table == value).sum()) for name, value in _VALUES.items()},
            "near_to_none": [name for name, any_near in zip(self.classes, near.any(1).tolist(), strict=True) if not any_near],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file with the arrays affinity [C, 1000], classes [C] and provenance (JSON), whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            affinity=self.table.numpy(),
            classes=np.array(self.classes, dtype=np.str_),
            provenance=np.array(json.dumps(dict(self.provenance), ensure_ascii=False)),
        )
        write_atomic(Path(path), buffer.getvalue())


def read_affinity(path: str | os.PathLike[str], classes: Sequence[str]) -> Tensor:
    """The affinity of each class to each ImageNet class, float32 [C, 1000].

    An .npz file, as :meth:`Affinity.save` writes it, knows the names of its rows, and they are picked by name. The pickles that
    were published with SAKE hold {label: float64 [1000]} and no names: they fit only the classes of that very split, in the
    order of its labels. Nothing but NumPy arrays is ever made from them.

    classes: the C names, in label order.

    Raises InputError (naming --affinity) if there is no such file, for another kind of file, one of another size, a pickle that
    holds or runs anything else, or classes the table has no row for.

    Source: Liu et al., SAKE, ICCV 2019.

    >>> read_affinity("no/such/table.npz", ["pig"])
    Traceback (most recent call last):
    zsml.errors.InputError: --affinity no/such/table.npz is not there; `zsml data affinity` makes such a table
    """
    path = Path(path)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes must be a list of class names")
    if not path.is_file():
        what = "is a folder, not a table" if path.is_dir() else "is not there"
        raise InputError(f"--affinity {path} {what}; `zsml data affinity` makes such a table")
    if path.stat().st_size > LARGEST:
        raise InputError(
            f"--affinity {path} has {path.stat().st_size:,} bytes; no table of {IMAGENET_CLASSES} columns is as large"
        )
    try:
        return (_read_npz if zipfile.is_zipfile(path) else _read_pickle)(path, list(classes))
    except InputError as error:
        raise InputError(f"--affinity {path}: {error}") from error


def _read_npz(path: Path, classes: list[str]) -> Tensor:
    return load_table(path).rows(classes)


def load_table(path: Path) -> Affinity:
    """An .npz file of :meth:`Affinity.save`; InputError if it is none."""
    expected = f"expected are affinity float32 [C, {IMAGENET_CLASSES}], classes (C names) and provenance, in an .npz file"
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > LARGEST:
            raise InputError(f"it unpacks to {unpacked:,} bytes; no table of {IMAGENET_CLASSES} columns is as large")
        with np.load(path, allow_pickle=False) as file:
            table, names, about = (np.asarray(file[name]) for name in ("affinity", "classes", "provenance"))
        provenance = json.loads(str(about))
    except InputError:
        raise
    except Exception as error:  # a damaged archive fails in zip, zlib or NumPy's header, each with its own exceptions
        raise InputError(f"not a table ({error}); {expected}") from error
    if table.dtype != np.float32 or names.dtype.kind != "U" or names.ndim != 1 or not isinstance(provenance, dict):
        raise InputError(
            f"affinity is {table.dtype} {list(table.shape)} and classes {names.dtype} {list(names.shape)}; {expected}"
        )
    return Affinity(names.tolist(), torch.from_numpy(table), provenance)


def _read_pickle(path: Path, classes: list[str]) -> Tensor:
    content = _unpickle(path)
    if not isinstance(content, dict) or not all(type(label) is int for label in content):
        raise InputError(f"it must hold a dict of label: array [{IMAGENET_CLASSES}], got {_describe(content)}")
    if sorted(content) != list(range(len(classes))):
        raise InputError(
            f"wrong size: it has {len(content)} rows for the labels {min(content, default='-')}..{max(content, default='-')}, "
            f"and the data has {len(classes)} classes; a table without class names fits only the split that it was made for"
        )
    for label, row in content.items():
        if not isinstance(row, np.ndarray) or row.dtype.kind != "f" or row.shape != (IMAGENET_CLASSES,):
            raise InputError(f"row {label} must be a float array [{IMAGENET_CLASSES}], got {_describe(row)}")
    table = np.stack([content[label] for label in range(len(classes))])
    return Affinity(classes, torch.from_numpy(table.astype(np.float32))).table


class _ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays and plain values, and refuses every other name a pickle asks for before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NUMPY:
            raise InputError(f"not read: loading it would run {module}.{name}, and only a dict of float arrays is taken")
        return _NUMPY[module, name]


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return _ArraysOnly(file).load()
        except InputError:
            raise
        except MemoryError as error:  # a few bytes can ask for any size
            raise InputError("it asks for more memory than there is, and no table is as large") from error
        except Exception as error:  # a damaged pickle fails anywhere, with any exception
            raise InputError("it is neither an .npz table nor a pickled dict of arrays") from error


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, dict):
        return f"a dict whose keys are {', '.join(sorted({type(key).__name__ for key in value}))}"
    return f"one {type(value).__name__}"
