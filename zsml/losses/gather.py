"""Losses over the batches of all ranks of ``torch.distributed``: own anchors against everybody's rows.

With ``gather=True`` a loss mines the anchors of its own rank among the rows of all ranks, adds up what it sums over anchors
(:func:`global_sum`) and applies its last formula to these sums. So every rank returns the loss of the whole batch, and when each
calls backward, the gradient that arrives at its own rows is that of one process with the whole batch:

* :func:`gather_rows` gives a row to all ranks; its gradient is the sum of what all ranks send back for it;
* :func:`global_sum` has the identity as its gradient, since every rank differentiates the same sum.

DistributedDataParallel averages the gradients of parameters over ranks, where one process has their sum: there call
``(loss * world_size).backward()``.

First of all the ranks exchange one small header (:func:`agree`). If the input of one is bad, or they do not fit together, all of
them raise the same InputError; if one does not come, the others raise after collectives.TIMEOUT. None is left waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.ops import _check

from .collectives import GatherRows, GlobalSum, all_rows, finish

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The numbers of a header: first what has to be the same on all ranks, with the words for it, then what may differ.
SAME = {
    "width": "the width of embeddings",
    "dtype": "the dtype of embeddings",
    "ref_dtype": "the dtype of ref_emb",
    "device": "the kind of device",
    "has_refs": "whether ref_emb is given",
    "has_modality": "whether modality is given",
    "wants_gradient": "whether the candidates want gradients",
}
FIELDS = (*SAME, "rows", "refs", "failed")
TEXT_BYTES = 400  # the words that go with it: the loss, or what is wrong with the input


class Ranks(NamedTuple):
    """How the rows of a batch lie over the ranks."""

    rank: int  # this one
    rows: list[int]  # of embeddings, rank by rank
    refs: list[int]  # of ref_emb

    @property
    def total(self) -> int:
        """Anchors on all ranks."""
        return sum(self.rows)


class Candidates(NamedTuple):
    """Every rank's rows, rank after rank, and for each own anchor the row that is not its partner (-1: none)."""

    rows: Tensor  # [M, D]
    labels: Tensor  # [M]
    modality: Tensor | None  # [M]
    exclude: Tensor | None  # [B]


@torch.compiler.disable
def agree(
    loss: nn.Module,
    embeddings: Tensor,  # [B, D]
    labels: Tensor | None = None,  # [B]; None: the loss takes none
    modality: Tensor | None = None,  # [B]
    ref_emb: Tensor | None = None,  # [M, D]
    ref_labels: Tensor | None = None,  # [M]
    ref_modality: Tensor | None = None,  # [M]
    exclude: Tensor | None = None,  # [B]
    check: Callable[[], None] | None = None,
    name: str = "embeddings",
) -> Ranks:
    """Check the own batch, tell all ranks, and learn what they have; B may be 0 on some ranks.

    ``check`` raises where the loss by itself has something against the batch; ``name`` is what the loss calls its rows.

    Every rank has to call it, with the same loss. On CUDA with NCCL alone it waits for the device; a process group made for both,
    ``init_process_group("cpu:gloo,cuda:nccl")``, spares that.

    Raises:
        InputError: on every rank, if one has bad input or they differ in what has to be the same; names the rank. Without a
            process group: on this one, naming gather.
        RuntimeError: a rank did not come within :data:`zsml.losses.collectives.TIMEOUT`, or is gone.
    """
    cause, header, text = None, dict.fromkeys(FIELDS, 0), repr(loss)
    try:
        _check_batch(name, embeddings, labels, modality, ref_emb, ref_labels, ref_modality, exclude)
        if check is not None:
            check()
        header |= _describe(embeddings, modality, ref_emb)
    except Exception as error:  # of any kind: the other ranks must hear of it
        cause, text = error, str(error)
        header["failed"] = 1
    everyone, texts = _exchange(header, text, cause)
    _compare("the loss and its settings", texts)
    for key, words in SAME.items():
        _compare(words.replace("embeddings", name), [_say(key, other[key]) for other in everyone])
    if not any(other["rows"] for other in everyone):
        raise InputError(f"gather: {name} must have at least one row on some rank, the batch is empty")
    return Ranks(dist.get_rank(), [other["rows"] for other in everyone], [other["refs"] for other in everyone])


@torch.compiler.disable
def refuse(error: Exception) -> None:
    """In the place of :func:`agree`, where something is wrong on this rank: all ranks raise InputError with its message."""
    _exchange(dict.fromkeys(FIELDS, 0) | {"failed": 1}, str(error), error)


def gather_candidates(
    ranks: Ranks,
    embeddings: Tensor,  # [B, D]
    labels: Tensor,  # [B]
    modality: Tensor | None = None,  # [B]
    ref_emb: Tensor | None = None,  # [M, D]
    ref_labels: Tensor | None = None,  # [M]
    ref_modality: Tensor | None = None,  # [M]
    exclude: Tensor | None = None,  # [B], rows of the own ref_emb
) -> Candidates:
    """What own anchors are compared with: ref_emb of all ranks where given, else the embeddings of all ranks."""
    if ref_emb is None:
        sizes = ranks.rows
        rows, ids = embeddings, [labels] if modality is None else [labels, modality]
        exclude = torch.arange(len(labels), device=labels.device) + sum(sizes[: ranks.rank])
    else:
        sizes = ranks.refs
        rows, ids = ref_emb, [ref_labels] if ref_modality is None else [ref_labels, ref_modality]
        if exclude is not None:
            exclude = torch.where(exclude >= 0, exclude + sum(sizes[: ranks.rank]), exclude)
    ids = gather_ids(torch.stack(ids, dim=1), sizes)  # [M, 1 or 2]
    labels, modality = ids[:, 0].contiguous(), ids[:, 1].contiguous() if ids.shape[1] == 2 else None
    return Candidates(gather_rows(rows, sizes), labels, modality, exclude)


@torch.compiler.disable
def gather_rows(t: Tensor, sizes: list[int]) -> Tensor:
    """The rows of all ranks, rank after rank: [sum(sizes), ...] of [sizes[rank], ...]; differentiable.

    Backward needs all ranks as well. It adds the gradients of the ranks in their order, so it has the same bits every run.
    """
    return GatherRows.apply(t, tuple(sizes))


@torch.compiler.disable
def gather_ids(t: Tensor, sizes: list[int]) -> Tensor:
    """:func:`gather_rows` of int64 ids [sizes[rank], ...]."""
    return all_rows(t, sizes)


@torch.compiler.disable
def global_sum(t: Tensor) -> Tensor:
    """The sum over ranks of a tensor of one shape; every rank must go on with the same formula, and call backward."""
    return GlobalSum.apply(t)


def global_mean(per_row: Tensor) -> Tensor:
    """The mean over the rows of all ranks of something each row has, [B]; as :func:`global_sum`, for training loops."""
    total = global_sum(torch.stack([per_row.sum(), per_row.new_tensor(len(per_row))]))
    return total[0] / total[1]


def several_ranks() -> bool:
    """Whether this process is one of several in a process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def no_anchors(shape: tuple[int, ...], x: Tensor, candidates: Tensor) -> Tensor:
    """What an op gives on a rank without anchors, with as many elements: none. Still a function of both, or backward would not
    come by here, and the other ranks wait for it."""
    dtype = torch.float64 if torch.float64 in (x.dtype, candidates.dtype) else torch.float32
    return (x[:0].sum().to(dtype) + candidates[:0].sum().to(dtype)).expand(shape)


def _compare(what: str, values: list[str]) -> None:
    for rank, value in enumerate(values):
        if value != values[0]:
            raise InputError(f"gather: all ranks must agree on {what}, got {values[0]} on rank 0, {value} on rank {rank}")


def _exchange(header: dict[str, int], text: str, cause: Exception | None) -> tuple[list[dict[str, int]], list[str]]:
    """The headers and the words of all ranks, in one message of fixed size; raises on every rank if one has failed."""
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "gather=True needs a process group: call torch.distributed.init_process_group() first (torchrun sets what it "
            "needs), or use gather=False"
        )
    encoded = text.encode()[:TEXT_BYTES]
    numbers = [header[name] for name in FIELDS]
    message = torch.tensor([*numbers, len(encoded), *encoded.ljust(TEXT_BYTES)], device=_message_device())
    everything = message.new_empty(dist.get_world_size() * len(message))
    finish(dist.all_gather_into_tensor(everything, message, async_op=True), everything, block=True)
    headers, texts = [], []
    for row in everything.view(-1, len(message)).tolist():
        headers.append(dict(zip(FIELDS, row, strict=False)))
        length, *letters = row[len(FIELDS) :]
        texts.append(bytes(letters[:length]).decode(errors="ignore"))
    bad = [f"rank {rank}: {texts[rank]}" for rank, other in enumerate(headers) if other["failed"]]
    if bad:
        raise InputError("gather: " + "; ".join(bad)) from cause
    return headers, texts


def _message_device() -> torch.device:
    if "cpu:" in dist.get_backend_config():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _check_batch(
    name: str,
    embeddings: Tensor,
    labels: Tensor | None,
    modality: Tensor | None,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
    ref_modality: Tensor | None,
    exclude: Tensor | None,
) -> None:
    _check.embeddings(embeddings, name)
    if labels is not None:
        _check.ids(labels, "labels", embeddings)
    if modality is not None:
        _check.ids(modality, "modality", embeddings)
    _check.references(embeddings, modality, ref_emb, ref_labels, ref_modality, exclude, names=(name, "ref_emb"))
    kind, backends = embeddings.device.type, dist.get_backend_config()
    gloo_on_gpu = kind != "cpu" and f"{kind}:gloo" in backends  # it has no all-to-all there
    if gloo_on_gpu or f"{kind}:" not in backends:
        raise InputError(
            f"{name} are on {kind}, where the process group ({backends}) cannot gather: the CPU takes gloo and GPUs nccl, "
            'init_process_group("cpu:gloo,cuda:nccl") serves both'
        )


def _describe(embeddings: Tensor, modality: Tensor | None, ref_emb: Tensor | None) -> dict[str, int]:
    candidates = embeddings if ref_emb is None else ref_emb
    return {
        "width": embeddings.shape[1],
        "dtype": DTYPES.index(embeddings.dtype),
        "ref_dtype": DTYPES.index(candidates.dtype),
        "device": int(embeddings.device.type == "cuda"),
        "has_refs": int(ref_emb is not None),
        "has_modality": int(modality is not None),
        "wants_gradient": int(torch.is_grad_enabled() and candidates.requires_grad),
        "rows": len(embeddings),
        "refs": 0 if ref_emb is None else len(ref_emb),
    }


def _say(name: str, value: int) -> str:
    """A value of a header in words."""
    if name in ("dtype", "ref_dtype"):
        return str(DTYPES[value])
    if name == "device":
        return ("cpu", "cuda")[value]
    return str(value) if name == "width" else ("no", "yes")[value]
