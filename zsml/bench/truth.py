"""The right answers, by brute force in numpy and float64, and how far a provider's may be from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from zsml.bench.case import Disagrees
from zsml.bench.data import Retrieval
from zsml.bench.peers_evaluate import TOP

BLOCK = 128  # queries at a time
RANKED = 128  # first queries whose nearest codes and rankings are checked
SCORED = 2048  # first queries whose scores are checked
AP_ERROR = 1e-4  # mean over queries: float32 scores may swap neighbours, an interpolation or a tie rule moves it far more
POPCOUNT = np.array([value.bit_count() for value in range(256)], np.uint8)


# ---- codes ------------------------------------------------------------------------------------------------------------------


class Nearest(NamedTuple):
    """The first queries' distances to the gallery and its order by (distance, index)."""

    distances: np.ndarray  # int32 [rows, N]
    order: np.ndarray  # int64 [rows, N]


def nearest(data: Retrieval) -> Nearest:
    """Of the first RANKED queries."""
    distances = hamming(data.query[:RANKED].cpu().numpy(), data.gallery.cpu().numpy())
    return Nearest(distances, distances.argsort(axis=1, kind="stable"))


def hamming(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """int32 [Q, N], a table look-up per byte."""
    total = np.zeros((len(query), len(gallery)), np.int32)
    for byte in range(query.shape[1]):
        total += POPCOUNT[query[:, byte, None] ^ gallery[:, byte]]
    return total


def check_topk(answer: tuple[Any, Any], truth: Nearest, data: Retrieval) -> str:
    """Distances and indices of the k nearest."""
    distances, index = (as_numpy(part)[:RANKED] for part in answer)
    if len(as_numpy(answer[0])) != len(data.query):
        raise Disagrees(f"answers {len(as_numpy(answer[0]))} of {len(data.query)} queries")
    known = _same_ranking(index, truth)
    if not (distances == known).all():
        raise Disagrees("distances are not those of the items named")
    return _tie_remark(index, truth)


def check_rank(answer: list[Any], truth: Nearest, data: Retrieval) -> str:
    """Blocks of whole rankings."""
    count = sum(len(block) for block in answer)
    if count != len(data.query):
        raise Disagrees(f"ranks for {count} of {len(data.query)} queries")
    index = np.concatenate([as_numpy(block[:RANKED]) for block in answer])[:RANKED]
    if index.shape[1] != truth.order.shape[1]:
        raise Disagrees(f"ranks {index.shape[1]} of {truth.order.shape[1]} items")
    _same_ranking(index, truth)
    return _tie_remark(index, truth)


def _same_ranking(index: np.ndarray, truth: Nearest) -> np.ndarray:
    """The true distances of the items named; they must be the smallest there are, in order, and no item named twice."""
    rows, k = index.shape
    known = np.take_along_axis(truth.distances[:rows], index.astype(np.int64), axis=1)
    right = np.take_along_axis(truth.distances[:rows], truth.order[:rows, :k], axis=1)
    wrong = (known != right).any(axis=1)
    if wrong.any():
        raise Disagrees(f"other distances than by brute force for {wrong.sum()} of {rows} queries")
    ordered = np.sort(index, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise Disagrees("an item is named twice for one query")
    return known


def _tie_remark(index: np.ndarray, truth: Nearest) -> str:
    same = (index == truth.order[: len(index), : index.shape[1]]).all()
    return "" if same else "equal distances in no fixed order"


# ---- scores -----------------------------------------------------------------------------------------------------------------


class Scored(NamedTuple):
    """Per query; `worst` and `best` are the VOC APs with the relevant items last and first among equal distances."""

    ap: np.ndarray
    ap_voc: np.ndarray
    worst: np.ndarray
    best: np.ndarray
    top: np.ndarray  # precision at 100
    product: np.ndarray | None  # [rows, N] of embeddings
    nearest: Nearest | None  # of codes


def score(data: Retrieval) -> Scored:
    """Of the first SCORED queries, by sorting the whole gallery."""
    data = data.head(SCORED)
    query, labels, gallery, classes = (tensor.cpu().numpy() for tensor in data)
    codes = gallery.dtype == np.uint8
    if not codes:
        query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    parts = []
    for start in range(0, len(query), BLOCK):
        rows = query[start : start + BLOCK]
        relevant = classes == labels[start : start + BLOCK, None]
        if codes:
            distance = (2 * hamming(rows, gallery)).astype(np.uint16)  # for which numpy has a radix sort
            orders = [distance, distance + relevant, distance + ~relevant]
        else:
            orders = [(gallery**2).sum(axis=1) - 2 * rows @ gallery.T]
        ranked = [np.take_along_axis(relevant, keys.argsort(axis=1, kind="stable"), axis=1) for keys in orders]
        ap_voc = [average_precision(r, voc=True) for r in ranked]
        parts.append((average_precision(ranked[0]), ap_voc[0], ap_voc[codes], ap_voc[2 * codes], ranked[0][:, :TOP].mean(axis=1)))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Scored(*columns, None if codes else query[:TOP] @ gallery.T, nearest(data) if codes else None)


def average_precision(relevant: np.ndarray, voc: bool = False) -> np.ndarray:
    """Of rankings [rows, N] of bool.

    >>> average_precision(np.array([[True, False, True, True, False]])).round(5)
    array([0.80556])
    >>> average_precision(np.array([[True, False, True, True, False]]), voc=True).round(5)
    array([0.83333])
    """
    hits = relevant.cumsum(axis=1)
    precision = hits / np.arange(1, relevant.shape[1] + 1)
    if voc:
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (precision * relevant).sum(axis=1) / hits[:, -1]


def check_evaluation(answer: dict[str, Any], truth: Scored, data: Retrieval) -> str:
    """ap, ap_voc: of every query. ap_voc_ties: the same, equal distances in any order. map, p100: means, checked where not more
    than SCORED queries go into them. product: of the first queries. rank: whole rankings of the first queries.
    """
    asked = len(data.query)
    count = min(asked, SCORED)
    for key, value in answer.items():
        if key == "product":
            rows = min(len(value), len(truth.product), count)
            error = np.abs(as_numpy(value)[:rows] - truth.product[:rows]).max()
        elif key == "rank":
            _same_ranking(as_numpy(value)[:RANKED], truth.nearest)
            continue
        elif key in ("map", "p100"):
            right = truth.ap if key == "map" else truth.top
            error = abs(value - right[:count].mean()) if count == asked else 0.0
        elif len(value) != asked:
            raise Disagrees(f"scores {len(value)} of {asked} queries")
        elif key == "ap_voc_ties":
            error = np.maximum(truth.worst[:count] - value[:count], value[:count] - truth.best[:count]).clip(min=0).max()
        else:
            error = np.abs(value[:count] - getattr(truth, key)[:count]).mean()
        if not error <= AP_ERROR:
            raise Disagrees(f"{key} is off by {error:.1e}")
    return ""


def as_numpy(value: Any) -> np.ndarray:
    """A tensor of any device, or an array."""
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
