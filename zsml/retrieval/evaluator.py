"""Evaluation of embeddings that arrive in batches, on one process or sharded over many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from zsml.errors import InputError
from zsml.ops._arrays import as_tensor
from zsml.ops.rank_relevant import hamming_rank_relevant, rank_relevant
from zsml.retrieval.checks import check_pair
from zsml.retrieval.class_lists import ClassLists
from zsml.retrieval.metrics import BLOCK, RetrievalResult, Totals, evaluate_retrieval
from zsml.retrieval.protocol import Protocol, make_protocol

__all__ = ["RetrievalEvaluator"]


PROTOCOL_OPTIONS = {field.name for field in fields(Protocol)} - {"name", "described", "normalize", "mirror"} | {"preset"}


class Side(NamedTuple):
    """Embeddings or codes [n, D] with labels int64 [n]."""

    rows: Tensor
    labels: Tensor


class RetrievalEvaluator:
    """Collect embeddings batch by batch, then evaluate all queries against the whole gallery.

    Under ``torch.distributed`` every rank updates with its own share, in any split, some even with nothing, and all ranks get
    the result for the whole: each compares all queries with its part of the gallery, and the counts around the relevant items,
    which are integers, are summed over the ranks. No rank holds more of the gallery than its own part and one class. The gallery
    order that decides ties is that of the ranks, one after the other. Sharded, real-valued distances are compared in float64.

    Args:
        query_modality, gallery_modality: which items ask and which are searched, by default sketches (0) and photos (1). If they
            are equal, every item asks and every item, itself included, is searched.
        group: the process group, the default one if None.
        **protocol: what :func:`zsml.metrics.evaluate_retrieval` takes: preset, distance, precision_at, map_at, interpolation,
            ties, truncated_denominator, precision_cutoff, average.

    Raises:
        TypeError, InputError: as that function, at once for the protocol; on every rank if widths or dtypes differ between ranks.

    >>> evaluator = RetrievalEvaluator(map_at=(1,))
    >>> evaluator.update(torch.tensor([[0.0], [9.0]]), torch.tensor([0, 1]), 0)
    >>> evaluator.update(torch.tensor([[1.0], [2.0], [8.0]]), torch.tensor([0, 1, 1]), 1)
    >>> evaluator.compute().map
    1.0
    """

    def __init__(
        self, *, query_modality: int = 0, gallery_modality: int = 1, group: dist.ProcessGroup | None = None, **protocol: Any
    ) -> None:
        unknown = set(protocol) - PROTOCOL_OPTIONS
        if unknown:
            raise TypeError(f"no such option: {', '.join(sorted(unknown))}; choose from {', '.join(sorted(PROTOCOL_OPTIONS))}")
        make_protocol(protocol.get("preset"), **{name: value for name, value in protocol.items() if name != "preset"})
        for name, value in (("query_modality", query_modality), ("gallery_modality", gallery_modality)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int (0 sketch, 1 photo), got {value!r}")
        self.modalities = (query_modality, gallery_modality)
        self.options = protocol
        self.group = group
        self.reset()

    def reset(self) -> None:
        """Forget everything collected."""
        self._parts: tuple[list[Side], list[Side]] = ([], [])

    def update(self, embeddings: Tensor, labels: Tensor, modality: Tensor | int) -> None:
        """Add a batch.

        Args:
            embeddings: real-valued [n, D], or codes uint8 [n, W] for ``distance="hamming"``; n may be 0. A tensor, or an array
                with ``__dlpack__`` (NumPy, CuPy).
            labels: int64 [n].
            modality: int64 [n], or one number for all; items of other modalities than the two are ignored.

        Raises:
            TypeError, InputError: not tensors of these shapes, or another width than before.
        """
        embeddings = as_tensor(embeddings, "embeddings")
        if not isinstance(embeddings, Tensor) or embeddings.dim() != 2:
            raise InputError(f"embeddings must be a tensor [n, D], got {_shape(embeddings)}")
        if (self.options.get("distance") == "hamming") != (embeddings.dtype == torch.uint8):
            wanted = (
                "packed codes, uint8" if self.options.get("distance") == "hamming" else "real-valued (codes: distance='hamming')"
            )
            raise TypeError(f"embeddings must be {wanted}, got {embeddings.dtype}")
        count = embeddings.shape[0]
        labels, modality = _ids("labels", labels), _ids("modality", modality)
        modality = modality.expand(count) if modality.dim() == 0 else modality
        for name, ids in (("labels", labels), ("modality", modality)):
            if ids.dim() != 1 or ids.shape[0] != count or ids.is_floating_point() or ids.dtype == torch.bool:
                raise InputError(f"{name} must be {count} integers, one per row of embeddings, got {ids.dtype} {list(ids.shape)}")
        for known in (*self._parts[0][:1], *self._parts[1][:1]):
            if known.rows.shape[1] != embeddings.shape[1] or known.rows.dtype != embeddings.dtype:
                raise InputError(
                    f"embeddings must be {known.rows.dtype} with {known.rows.shape[1]} columns as before, got {embeddings.dtype} "
                    f"with {embeddings.shape[1]}"
                )
        for wanted, parts in zip(self.modalities, self._parts, strict=True):
            chosen = (modality == wanted).to(embeddings.device)
            if chosen.any():
                parts.append(Side(embeddings.detach()[chosen], labels.to(embeddings.device, torch.int64)[chosen]))

    def compute(self) -> RetrievalResult:
        """The scores of everything collected; on every rank those of the whole.

        Raises:
            InputError: no queries or no gallery (on any rank), NaN or infinite embeddings.
        """
        query, gallery = (_joined(parts) for parts in self._parts)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size(self.group) > 1:
            return self._compute_sharded(query, gallery)
        for name, side, modality in (("queries", query, 0), ("gallery", gallery, 1)):
            if side is None:
                raise InputError(f"no {name} yet: update() with items of modality {self.modalities[modality]} first")
        return evaluate_retrieval(query.rows, query.labels, gallery.rows, gallery.labels, **self.options)

    def _compute_sharded(self, query: Side | None, gallery: Side | None) -> RetrievalResult:
        options = dict(self.options)
        protocol = make_protocol(options.pop("preset", None), **options)
        query, gallery = self._agree(query, gallery, protocol.distance)
        sizes = self._objects(len(gallery.labels))
        first = sum(sizes[: dist.get_rank(self.group)])  # global row of the first local one
        queries = Side(*(self._gather(t) for t in query))
        all_labels = self._gather(gallery.labels)
        lists = ClassLists(all_labels.cpu())
        query_labels = queries.labels.cpu()
        places = lists.find(query_labels)
        totals = Totals(query_labels, lists.count(places), len(all_labels), protocol)
        here = torch.arange(len(gallery.labels), device=gallery.rows.device) + first
        for c in places.unique().tolist():
            if c < 0:
                continue
            own = gallery.labels == lists.classes[c].item()
            relevant_rows, relevant_at = self._gather(gallery.rows[own]), self._gather(here[own])
            # The relevant of all ranks and the others of this one, in the order of the whole gallery.
            order = torch.cat([relevant_at, here[~own]]).argsort()
            rows = torch.cat([relevant_rows, gallery.rows[~own]])[order]
            relevant = order < len(relevant_at)
            where = {
                "order": torch.cat([relevant.nonzero()[:, 0], (~relevant).nonzero()[:, 0]]),
                "starts": torch.tensor([0, len(relevant_at), len(rows)], device=rows.device),
            }
            asked = (places == c).nonzero()[:, 0]
            for block in asked.split(max(1, BLOCK // len(relevant_at))):
                batch = queries.rows[block.to(queries.rows.device)]
                zeros = torch.zeros(len(block), dtype=torch.int64, device=rows.device)
                if protocol.distance == "hamming":
                    counts = hamming_rank_relevant(batch, zeros, rows, **where)
                else:
                    counts = rank_relevant(batch.double(), zeros, rows.double(), **where, cosine=protocol.distance == "cosine")
                dist.all_reduce(counts, group=self.group)
                totals.add(block.numpy(), counts.cpu().numpy())
        return totals.result()

    def _agree(self, query: Side | None, gallery: Side | None, distance: str) -> tuple[Side, Side]:
        """Both sides checked, empty ones with the width of the others; all ranks raise if one has to."""
        mine = [None if side is None else (side.rows.shape[1], side.rows.dtype) for side in (query, gallery)]
        problem = None
        try:
            for side in (query, gallery):
                if side is not None:
                    check_pair(side.rows, side.rows, distance)
        except (TypeError, ValueError) as error:
            problem = str(error)
        everyone = self._objects((mine, problem, sorted(map(str, self.options.items()))))
        problems = [f"rank {rank}: {problem}" for rank, (_, problem, _) in enumerate(everyone) if problem]
        if problems:
            raise InputError("; ".join(problems))
        for rank, (_, _, options) in enumerate(everyone):
            if options != everyone[0][2]:
                raise InputError(
                    f"all ranks must have the same options, got {everyone[0][2]} on rank 0 and {options} on rank {rank}"
                )
        kinds = {kind for sides, _, _ in everyone for kind in sides if kind is not None}
        if len(kinds) > 1:
            raise InputError(f"embeddings must have one width and dtype on all ranks, got {sorted(map(str, kinds))}")
        for side, name in enumerate(("queries", "gallery")):
            if all(sides[side] is None for sides, _, _ in everyone):
                raise InputError(f"no {name} on any rank: update() with items of modality {self.modalities[side]} first")
        ((width, dtype),) = kinds
        device = next((side.rows.device for side in (query, gallery) if side is not None), self._device())
        empty = Side(torch.empty(0, width, dtype=dtype, device=device), torch.empty(0, dtype=torch.int64, device=device))
        return query or empty, gallery or empty

    def _device(self) -> torch.device:
        on_gpu = dist.get_backend(self.group) == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    def _objects(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(found, value, group=self.group)
        return found

    def _gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, rank after rank; ranks may have different numbers of them."""
        sizes = self._objects(len(rows))
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded, group=self.group)
        return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])


def _joined(parts: Sequence[Side]) -> Side | None:
    return Side(*(torch.cat(column) for column in zip(*parts, strict=True))) if parts else None


def _ids(name: str, value: object) -> Tensor:
    value = as_tensor(value, name)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be integers, one per row of embeddings, got {type(value).__name__}") from error


def _shape(value: object) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
