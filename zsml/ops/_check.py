"""Argument checks shared by the public ops: each message names the argument, what came and what is accepted."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable

import torch
from torch import Tensor

from zsml.errors import InputError


def embeddings(t: Tensor, name: str) -> None:
    """A non-empty floating-point matrix."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor [rows, D], got {type(t).__name__}")
    if t.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {t.layout}; use {name}.to_dense()")
    if t.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {t.dtype}")
    if t.dim() != 2:
        raise InputError(f"{name} must have shape [rows, D], got {list(t.shape)}")
    if t.shape[1] == 0:
        raise InputError(f"{name} must have at least one column, got shape {list(t.shape)}")
    if name == "x" and t.shape[0] == 0:
        raise InputError(f"{name} must have at least one row, got shape {list(t.shape)}: the batch is empty")


def no_forward_mode(op: str, *tensors: Tensor | None) -> None:
    """Refuse a tangent, which torch would drop without a word from an op that has only a backward formula."""
    if torch.compiler.is_compiling():
        return
    for t in tensors:
        if t is not None and torch.autograd.forward_ad.unpack_dual(t).tangent is not None:
            raise NotImplementedError(f"{op} has no forward-mode derivative; use backward() or torch.autograd.grad")


def ids(t: Tensor | None, name: str, rows: Tensor) -> None:
    """One int64 id per row, on the device of the rows."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be an int64 tensor [{rows.shape[0]}], got {type(t).__name__}")
    if t.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {t.dtype}; use {name}.long()")
    if t.dim() != 1 or t.shape[0] != rows.shape[0]:
        raise InputError(f"{name} must have shape [{rows.shape[0]}], one id per row, got {list(t.shape)}")
    if t.device != rows.device:
        raise InputError(f"{name} is on {t.device} but the embeddings are on {rows.device}; move it there")


def classes(labels: Tensor, count: int) -> None:
    """Class ids from 0 to count - 1, one row of centers each."""
    # Reading values would stall a GPU and break a compiled graph.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= count:
            raise InputError(f"labels must lie in 0 to {count - 1}, one row of centers each, got {low} to {high}")


def references(
    x: Tensor,
    modality: Tensor | None,
    refs: Tensor | None,
    ref_labels: Tensor | None,
    ref_modality: Tensor | None,
    exclude: Tensor | None,
    names: tuple[str, str] = ("x", "refs"),
) -> None:
    """A reference set that goes with the anchors x, or nothing of one; names: what the caller knows x and refs as."""
    x_name, name = names
    if refs is None:
        for other, value in (("ref_labels", ref_labels), ("ref_modality", ref_modality), ("exclude", exclude)):
            if value is not None:
                raise InputError(f"{other} is given but {name} is not; pass {name}=[M, D] or drop {other}")
        return
    embeddings(refs, name)
    if refs.shape[1] != x.shape[1]:
        raise InputError(f"{name} must have the width of {x_name}, {x.shape[1]}, got shape {list(refs.shape)}")
    if refs.device != x.device:
        raise InputError(f"{name} is on {refs.device} but {x_name} is on {x.device}; move it there")
    if ref_labels is None:
        raise InputError(f"ref_labels is missing: {name} needs one int64 label per row")
    ids(ref_labels, "ref_labels", refs)
    if (modality is None) != (ref_modality is None):
        missing = "modality" if modality is None else "ref_modality"
        raise InputError(f"{missing} is missing: modality and ref_modality go together (or leave both out)")
    if ref_modality is not None:
        ids(ref_modality, "ref_modality", refs)
    if exclude is not None:
        ids(exclude, "exclude", x)
        # Reading values would stall a GPU and break a compiled graph; there an impossible row simply excludes nothing.
        if exclude.device.type == "cpu" and not torch.compiler.is_compiling() and exclude.numel():
            low, high = int(exclude.min()), int(exclude.max())
            if low < -1 or high >= refs.shape[0]:
                raise InputError(f"exclude must hold rows of {name} (0 to {refs.shape[0] - 1}) or -1, got {low} to {high}")


def candidates(
    x: Tensor,
    labels: Tensor,
    modality: Tensor | None,
    refs: Tensor | None,
    ref_labels: Tensor | None,
    ref_modality: Tensor | None,
    exclude: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """(x, refs, modality, ref_modality) as an op takes them: of one dtype, and zeros for a modality left out."""
    references(x, modality, refs, ref_labels, ref_modality, exclude)
    if refs is not None:
        dtype = torch.promote_types(x.dtype, refs.dtype)
        x, refs = x.to(dtype), refs.to(dtype)
    if modality is None:
        modality = torch.zeros_like(labels)
        ref_modality = None if ref_labels is None else torch.zeros_like(ref_labels)
    return x, refs, modality, ref_modality


def is_number(value: object) -> bool:
    """A finite real number, NumPy's too; True and False are not numbers."""
    if torch.compiler.is_compiling():  # the second number that a process compiles with is a symbol there, without a value
        return True
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def positive(value: float, name: str) -> None:
    """A finite number above 0."""
    if not (is_number(value) and value > 0):
        raise InputError(f"{name} must be a positive number, got {value!r}")


def choice(value: str, name: str, accepted: Iterable[str]) -> None:
    """One of some names."""
    if not isinstance(value, str) or value not in accepted:
        raise InputError(f"{name} must be one of {list(accepted)}, got {value!r}")
