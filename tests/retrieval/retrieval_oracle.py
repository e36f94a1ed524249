"""The definitions of the metrics, spelled out slowly in plain Python: the oracle of this folder's tests."""

from __future__ import annotations

import itertools
import math

import numpy as np


def distance(kind: str, q: np.ndarray, g: np.ndarray) -> float:
    """One distance, float64; for "hamming" q and g are uint8 codes."""
    if kind == "hamming":
        return float(sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(q, g, strict=True)))
    q, g = q.astype(np.float64), g.astype(np.float64)
    if kind == "euclidean":
        return math.sqrt(math.fsum((q - g) ** 2))
    lengths = math.sqrt(math.fsum(q * q)) * math.sqrt(math.fsum(g * g))
    return 1 - math.fsum(q * g) / lengths if lengths else 1.0


def average_precision(relevance: list[bool], interpolation=None, k=None, denominator="min_k_r") -> float:
    """AP of a ranked list of relevances, of its first k places if k is given."""
    total = sum(relevance)
    if total == 0:
        return math.nan
    top = relevance if k is None else relevance[:k]
    precision = [sum(top[: i + 1]) / (i + 1) for i in range(len(top))]
    if interpolation == "voc":
        precision = [max(precision[i:]) for i in range(len(top))]
    terms = [p for p, hit in zip(precision, top, strict=True) if hit]
    if k is None:
        return sum(terms) / total
    if denominator == "hits":
        return sum(terms) / len(terms) if terms else 0.0
    return sum(terms) / min(k, total)


def precision(relevance: list[bool], k: int, cutoff="k") -> float:
    total = sum(relevance)
    if total == 0:
        return math.nan
    places = min(k, len(relevance) if cutoff == "k" else total)
    return sum(relevance[:places]) / places


def curve(relevance: list[bool]) -> list[float]:
    """Largest precision at any rank whose recall reaches 0, 0.01, ..., 1."""
    total, levels = sum(relevance), []
    points = [(sum(relevance[:i]), sum(relevance[:i]) / i) for i in range(1, len(relevance) + 1)]
    for percent in range(101):
        levels.append(max(p for hits, p in points if 100 * hits >= percent * total))
    return levels


def rankings(distances: list[float]) -> list[list[int]]:
    """Every order that sorts the distances, each as often as the others."""
    everything = itertools.permutations(range(len(distances)))
    return [list(order) for order in everything if all(distances[a] <= distances[b] for a, b in itertools.pairwise(order))]


def evaluate(query, query_labels, gallery, gallery_labels, *, kind="euclidean", precision_at=(), map_at=(), **options) -> dict:
    """{"ap": [Q], "precision": {k: [Q]}, "map_at": {k: [Q]}, "curve": [valid, 101]} with ties in gallery order."""
    interpolation = options.get("interpolation", "voc")
    denominator = options.get("truncated_denominator", "min_k_r")
    cutoff = options.get("precision_cutoff", "k")
    out: dict = {"ap": [], "precision": {k: [] for k in precision_at}, "map_at": {k: [] for k in map_at}, "curve": []}
    for q, label in zip(query, query_labels, strict=True):
        d = [distance(kind, q, g) for g in gallery]
        order = sorted(range(len(d)), key=lambda i: (d[i], i))
        relevance = [bool(gallery_labels[i] == label) for i in order]
        out["ap"].append(average_precision(relevance, interpolation))
        for k in map_at:
            out["map_at"][k].append(average_precision(relevance, interpolation, k, denominator))
        for k in precision_at:
            out["precision"][k].append(precision(relevance, k, cutoff))
        if any(relevance):
            out["curve"].append(curve(relevance))
    return out
