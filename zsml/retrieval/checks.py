"""What every public call of this room asks of embeddings and labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.ops._arrays import as_tensor
from zsml.ops.hamming import check_codes

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDEST = 2.0**30  # longest over shortest row whose squares float32 holds side by side
MAX_NAMED = 8  # rows listed in a message


def check_embeddings(name: str, x: Tensor, least: int = 1) -> Tensor:
    """``x`` as a detached tensor, if it is finite, real and [rows, D] with at least ``least`` rows; an array is not copied."""
    x = as_tensor(x, name)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch tensor of shape [rows, D], got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {x.layout}; use {name}.to_dense()")
    if x.dtype not in REAL:
        hint = "; packed codes need distance='hamming'" if x.dtype == torch.uint8 else ""
        raise TypeError(f"{name} must be a real-valued tensor (float16, bfloat16, float32, float64), got {x.dtype}{hint}")
    if x.dim() != 2:
        raise InputError(f"{name} must have shape [rows, D], got {list(x.shape)}")
    if x.shape[0] < least or x.shape[1] == 0:
        raise InputError(f"{name} must have at least {least} row(s) and 1 column, got {list(x.shape)}")
    if not torch.linalg.vector_norm(x.detach(), dim=1).isfinite().all():  # one fast pass; only trouble is worth a second
        bad = (~torch.isfinite(x).all(dim=1)).nonzero().flatten().tolist()  # none, if only a length overflowed
        more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        rows = ", ".join(map(str, bad[:MAX_NAMED])) + more
        if bad:
            raise InputError(f"{name} has NaN or infinite values in row(s) {rows}; leave these items out or find their cause")
    return x.detach()


def widened(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype; in float64 if the magnitudes of their rows lie too far apart for float32."""
    dtype = torch.promote_types(query.dtype, gallery.dtype)
    query, gallery = query.to(dtype), gallery.to(dtype)
    if dtype in (torch.float16, torch.float64):  # half precision has not the range
        return query, gallery
    sides = [(x, torch.linalg.vector_norm(x, dim=1)) for x in (query, gallery)]
    lengths = torch.cat([length for _, length in sides])
    longest, shortest = float(lengths.max()), float(lengths.where(lengths > 0, torch.inf).min())
    vanished = any(bool(x[length == 0].any()) for x, length in sides)  # rows whose squares are all 0, but which are not
    if longest > WIDEST * shortest or math.isinf(longest) or vanished:
        query, gallery = query.double(), gallery.double()
    return query, gallery


def check_labels(name: str, labels: Tensor, rows: int | None = None, of: str = "") -> Tensor:
    """``labels`` as int64 on the CPU, if it is an integer [rows] tensor; a list or numpy array will do."""
    labels = as_tensor(labels, name)
    try:
        labels = torch.as_tensor(labels).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a 1-d tensor of integer class ids, got {type(labels).__name__}") from error
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"{name} must be integer class ids, got {labels.dtype}")
    if labels.dim() != 1:
        raise InputError(f"{name} must have shape [rows], got {list(labels.shape)}")
    if rows is not None and labels.shape[0] != rows:
        raise InputError(f"{name} has {labels.shape[0]} entries but {of} has {rows} rows; one class id per row")
    if labels.shape[0] == 0:
        raise InputError(f"{name} is empty")
    return labels.to("cpu", torch.int64)


def check_pair(query: Tensor, gallery: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    query, gallery = as_tensor(query, "query"), as_tensor(gallery, "gallery")
    if isinstance(query, Tensor) and isinstance(gallery, Tensor) and query.device != gallery.device:
        raise InputError(f"query and gallery must be on one device, got {query.device} and {gallery.device}")
    if distance == "hamming":
        check_codes("query", query)
        check_codes("gallery", gallery)
    else:
        query, gallery = check_embeddings("query", query), check_embeddings("gallery", gallery)
    if query.shape[1] != gallery.shape[1]:
        raise InputError(f"query and gallery must have one width, got {query.shape[1]} and {gallery.shape[1]} columns")
    return query, gallery
