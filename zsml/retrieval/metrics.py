"""Exact retrieval evaluation: average precision, precision at k, per class, and against chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.ops.rank_relevant import common_frame, hamming_rank_relevant, pack_gallery, rank_relevant
from zsml.retrieval.average_precision import RECALL_LEVELS, Scores, random_order_ap, score
from zsml.retrieval.checks import check_labels, check_pair, widened
from zsml.retrieval.class_lists import ClassLists
from zsml.retrieval.protocol import Protocol, make_protocol

__all__ = ["RetrievalResult", "chance_map", "evaluate_retrieval"]

BLOCK = 1 << 19  # relevant items whose ranks are held at a time, about 100 bytes each


class _Unset(Enum):
    """Marks an argument that was not given, since None is a value of its own for some."""

    UNSET = "the preset's value, or else the default"

    def __repr__(self) -> str:
        return "UNSET"


UNSET = _Unset.UNSET


@dataclass(frozen=True)
class RetrievalResult:
    """What :func:`evaluate_retrieval` found. All means leave out queries without a relevant gallery item.

    map: mean AP over queries (micro); map_macro: over classes of class means.
    map_best, map_worst: map in the best and the worst order of equally distant items; equal to map where none are.
    ap: float64 [Q] on the CPU, NaN for a query without a relevant item.
    precision, precision_macro, map_at, map_at_macro: {k: mean}.
    per_class: {class id: mean AP of its queries}, NaN for a class absent from the gallery.
    num_queries, num_valid_queries, gallery_size: counts; valid = with at least one relevant item.
    pr_curve: float64 [101], mean interpolated precision at recall 0, 0.01, ..., 1, equal distances in gallery
    order.
    chance_map: expected map, without interpolation, of a gallery in random order; chance_precision: of any
    P@k.
    protocol: the definitions used.
    """

    map: float
    map_macro: float
    map_best: float
    map_worst: float
    ap: Tensor
    precision: dict[int, float]
    precision_macro: dict[int, float]
    map_at: dict[int, float]
    map_at_macro: dict[int, float]
    per_class: dict[int, float]
    num_queries: int
    num_valid_queries: int
    gallery_size: int
    pr_curve: Tensor
    chance_map: float
    chance_precision: float
    protocol: Protocol

    @property
    def headline(self) -> dict[str, float]:
        """{"mAP": ..., "mAP@200": ..., "P@100": ...} under the mean that the protocol names."""
        by_class = self.protocol.average == "class"
        numbers = {"mAP": self.map_macro if by_class else self.map}
        numbers |= {f"mAP@{k}": v for k, v in (self.map_at_macro if by_class else self.map_at).items()}
        return numbers | {f"P@{k}": v for k, v in (self.precision_macro if by_class else self.precision).items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the AP of each query, ready for ``json.dumps``: keys are strings, NaN is None."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("ap", "protocol")}
        values["pr_curve"] = self.pr_curve.tolist()
        values["protocol"] = asdict(self.protocol) | {"sentence": self.protocol.sentence()}
        return as_plain(values)


@torch.no_grad()
def evaluate_retrieval(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    preset: str | None = None,
    distance: str | _Unset = UNSET,
    precision_at: Sequence[int] | _Unset = UNSET,
    map_at: Sequence[int] | _Unset = UNSET,
    interpolation: str | _Unset | None = UNSET,
    ties: str | _Unset = UNSET,
    truncated_denominator: str | _Unset = UNSET,
    precision_cutoff: str | _Unset = UNSET,
    average: str | _Unset = UNSET,
    block: int = BLOCK,
    progress: Callable[[int], None] | None = None,
) -> RetrievalResult:
    """Rank the gallery for every query and score the rankings; relevant is what has the query's class.

    AP = (1 / R) sum over relevant ranks r_1 < ... < r_R of i / r_i, "voc": of max_{j >= i} j / r_j; see
    :mod:`zsml.retrieval.average_precision` for AP@k, P@k and ties. Exact: all queries, the whole gallery. Only the
    ranks of relevant items are found (:func:`zsml.ops.rank_relevant.rank_relevant`): nothing is sorted, and no
    query-by-gallery matrix is held. Real-valued distances are compared in float32 (float64 for float64 embeddings),
    near duplicates and lengths of very different magnitude in float64; equal means equal after rounding. Arrays of other
    libraries (NumPy, CuPy, anything with ``__dlpack__``) are taken on the memory they have, without a copy.

    Args:
        query: real-valued [Q, D] (compared as given: normalise first where the protocol does), or packed
            codes uint8 [Q, W] with ``distance="hamming"``.
        query_labels: int64 [Q] class ids.
        gallery: [N, D] or [N, W], on the query's device.
        gallery_labels: int64 [N].
        preset: "mathm" | "sake" | "dsn" | "mems" | "sbka" | "zse" | "torchmetrics": the definitions of that
            system's released evaluation, or of that library (:data:`zsml.retrieval.protocol.PRESETS`); arguments
            given besides it win.
        distance: "euclidean" (default) | "cosine" | "hamming".
        precision_at, map_at: cut-offs k; default (100,) and (200,).
        interpolation: "voc" (default) | None.
        ties: "index" (default: lowest gallery index first) | "expected" (mean over all orders;
            interpolation=None only).
        truncated_denominator: of AP@k: "min_k_r" (default) | "hits".
        precision_cutoff: items P@k looks at: "k" (default: the first min(k, N)) | "min_k_r".
        average: the mean that is the headline: "query" (default) | "class"; both are always computed.
        block: ranks of relevant items held at a time; extra memory is about 100 bytes times the larger of this and R,
            and a copy of real-valued galleries.
        progress: called with the number of queries done after each block.

    Raises:
        TypeError: embeddings or labels of the wrong kind.
        InputError: wrong rank or length, nothing to rank, different widths or devices, NaN or infinite rows
            (named), unknown names, cut-offs below 1, ties="expected" with interpolation.

    >>> sketches, photos = torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [2.0], [8.0]])
    >>> result = evaluate_retrieval(sketches, torch.tensor([0, 1]), photos, torch.tensor([0, 1, 1]), map_at=(1,))
    >>> result.map, result.map_at, result.num_valid_queries
    (1.0, {1: 1.0}, 2)
    """
    given = {
        "distance": distance,
        "precision_at": precision_at,
        "map_at": map_at,
        "interpolation": interpolation,
        "ties": ties,
        "truncated_denominator": truncated_denominator,
        "precision_cutoff": precision_cutoff,
        "average": average,
    }
    protocol = make_protocol(preset, **{name: value for name, value in given.items() if value is not UNSET})
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise InputError(f"block must be an int of at least 1, got {block!r}")
    query, gallery = check_pair(query, gallery, protocol.distance)
    query_labels = check_labels("query_labels", query_labels, query.shape[0], "query")
    gallery_labels = check_labels("gallery_labels", gallery_labels, gallery.shape[0], "gallery")

    lists = ClassLists(gallery_labels)
    query_class = lists.find(query_labels)  # [Q], -1: not in the gallery
    totals = Totals(query_labels, lists.count(query_class), gallery.shape[0], protocol)
    where = {"order": lists.order.to(gallery.device), "starts": lists.starts.to(gallery.device)}
    if protocol.distance != "hamming":
        query, gallery = widened(query, gallery)
        cosine = protocol.distance == "cosine"
        frame = common_frame(gallery, query, cosine)
        packed = pack_gallery(gallery, where["order"], frame, cosine)
    for queries in lists.blocks(query_class, block):
        rows, own = queries.to(query.device), query_class[queries].to(query.device)
        if protocol.distance == "hamming":
            counts = hamming_rank_relevant(query[rows], own, gallery, **where)
        else:
            counts = rank_relevant(query[rows], own, gallery, **where, cosine=cosine, frame=frame, packed=packed)
        totals.add(queries.numpy(), counts.cpu().numpy())
        if progress is not None:
            progress(totals.done)
    if progress is not None and totals.done < len(query_labels):  # queries without a relevant item, which nothing was done for
        progress(len(query_labels))
    return totals.result()


def chance_map(query_labels: Tensor, gallery_labels: Tensor) -> float:
    """Expected mAP of galleries in random order: what an untrained system gets. AP without interpolation.

    With R of N items relevant, E[AP] = (1 / N) sum_{j=1}^{N} (1 + (j - 1) (R - 1) / (N - 1)) / j; averaged
    over the queries that have a relevant item, NaN if none has. (Interpolated AP is never below the plain
    one, so its chance level is somewhat higher; it has no closed form.)

    Args:
        query_labels: int64 [Q] class ids.
        gallery_labels: int64 [N].

    Raises:
        TypeError, InputError: not 1-d integer class ids, or none at all.

    >>> chance_map(torch.tensor([0]), torch.tensor([0, 1]))
    0.75
    """
    query_labels = check_labels("query_labels", query_labels)
    gallery_labels = check_labels("gallery_labels", gallery_labels)
    lists = ClassLists(gallery_labels)
    return _chance(lists.count(lists.find(query_labels)), len(gallery_labels))[0]


def _chance(relevant: np.ndarray, size: int) -> tuple[float, float]:
    """(expected mAP, expected precision at any k) of random orders, over the queries with a relevant item."""
    counts, times = np.unique(relevant[relevant > 0], return_counts=True)
    if len(counts) == 0:
        return math.nan, math.nan
    aps = [random_order_ap(int(r), size) for r in counts]
    return float(np.average(aps, weights=times)), float(np.average(counts / size, weights=times))


class Totals:
    """Collects the scores of queries, in any order, and sums them up."""

    def __init__(self, query_labels: Tensor, relevant: np.ndarray, size: int, protocol: Protocol) -> None:
        self.query_labels, self.relevant, self.size, self.protocol = query_labels.numpy(), relevant, size, protocol
        width = 1 + len(protocol.precision_at) + len(protocol.map_at)
        self.table = np.full((len(relevant), width), math.nan)  # [Q, width]
        self.interval = np.full((len(relevant), 2), math.nan)  # best, worst
        self.curve = np.zeros(RECALL_LEVELS)
        self.done = 0

    def add(self, queries: np.ndarray, counts: np.ndarray) -> None:
        """queries [n] and their counts [3, sum of R], query after query; queries of one class stand together."""
        first, at = 0, 0
        while first < len(queries):
            own = self.query_labels[queries[first]]
            n = int((self.query_labels[queries[first:]] == own).sum())
            r = int(self.relevant[queries[first]])
            scores = score(counts[:, at : at + n * r].reshape(3, n, r), self.size, self.protocol)
            self.put(queries[first : first + n], scores)
            first, at = first + n, at + n * r

    def put(self, queries: np.ndarray, scores: Scores) -> None:
        self.table[queries] = scores.table
        self.interval[queries] = np.stack([scores.best, scores.worst], axis=1)
        self.curve += scores.curve
        self.done += len(queries)

    def result(self) -> RetrievalResult:
        protocol, table, width = self.protocol, self.table, self.table.shape[1]
        valid = self.relevant > 0
        micro = table[valid].mean(axis=0) if valid.any() else np.full(width, math.nan)
        best, worst = self.interval[valid].mean(axis=0) if valid.any() else (math.nan, math.nan)
        ids = np.unique(self.query_labels)
        by_class = [table[valid & (self.query_labels == c)] for c in ids]
        means = np.array([rows.mean(axis=0) if len(rows) else np.full(width, math.nan) for rows in by_class])  # [C, width]
        present = ~np.isnan(means[:, 0])
        macro = means[present].mean(axis=0) if present.any() else np.full(width, math.nan)

        def pick(row: np.ndarray) -> tuple[dict[int, float], dict[int, float]]:
            values = row[1:].tolist()
            split = len(protocol.precision_at)
            precision = dict(zip(protocol.precision_at, values[:split], strict=True))
            return precision, dict(zip(protocol.map_at, values[split:], strict=True))

        expected_map, expected_precision = _chance(self.relevant, self.size)
        return RetrievalResult(
            map=float(micro[0]),
            map_macro=float(macro[0]),
            map_best=float(best),
            map_worst=float(worst),
            ap=torch.from_numpy(table[:, 0].copy()),
            precision=pick(micro)[0],
            precision_macro=pick(macro)[0],
            map_at=pick(micro)[1],
            map_at_macro=pick(macro)[1],
            per_class=dict(zip(ids.tolist(), means[:, 0].tolist(), strict=True)),
            num_queries=len(table),
            num_valid_queries=int(valid.sum()),
            gallery_size=self.size,
            pr_curve=torch.from_numpy(self.curve / valid.sum() if valid.any() else np.full(RECALL_LEVELS, math.nan)),
            chance_map=expected_map,
            chance_precision=expected_precision,
            protocol=protocol,
        )


def as_plain(value: Any) -> Any:
    """The same in types JSON knows."""
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
