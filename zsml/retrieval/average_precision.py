"""Average precision and precision at k of one query, from integer ranks only, in float64.

N gallery items of which R are relevant, r_1 < ... < r_R their ranks (1 = nearest). The precision at the i-th
of them is i / r_i; interpolated ("voc") it is the largest at that or any later rank, which is always attained
at a relevant one:

    AP   = (1 / R) sum_i p_i                 with p_i = i / r_i  or  max_{j >= i} j / r_j
    AP@k = (1 / d) sum_{i: r_i <= k} p_i     interpolated inside the first k; d = min(k, R) or the number of terms
    P@k  = |{i: r_i <= c}| / c               c = min(k, N) or min(k, R)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zsml.retrieval.protocol import Protocol

RECALL_LEVELS = 101  # of the precision-recall curve: recall 0, 0.01, ..., 1


class Scores(NamedTuple):
    """The numbers of one query: AP, then one number for each cut-off of the protocol."""

    ap: float
    precision: list[float]
    map_at: list[float]


def scores_in_order(ranks: np.ndarray, size: int, protocol: Protocol) -> Scores:
    """Scores where every item has its own rank.

    Args:
        ranks: int64 [R], ascending, 1-based; R >= 1.
        size: N.

    >>> scores_in_order(np.array([1, 3, 4]), 5, Protocol(precision_at=(3,), map_at=(3,)))
    Scores(ap=0.8333333333333334, precision=[0.6666666666666666], map_at=[0.5555555555555555])
    """
    relevant = len(ranks)
    precision = np.arange(1, relevant + 1) / ranks  # [R]
    voc = protocol.interpolation == "voc"

    def total(hits: int) -> float:
        inside = precision[:hits]
        return float((_running_max_from_right(inside) if voc else inside).sum())

    def hits_within(k: int) -> int:
        return int(np.searchsorted(ranks, k, side="right"))

    map_at = []
    for k in protocol.map_at:
        hits = hits_within(k)
        denominator = min(k, relevant) if protocol.truncated_denominator == "min_k_r" else max(hits, 1)
        map_at.append(total(hits) / denominator)
    cuts = [precision_cut(k, relevant, size, protocol) for k in protocol.precision_at]
    return Scores(total(relevant) / relevant, [hits_within(cut) / cut for cut in cuts], map_at)


def scores_over_tie_orders(distances: np.ndarray, relevance: np.ndarray, protocol: Protocol) -> Scores:
    """Scores averaged over all orders of equally distant items, without interpolation, in closed form.

    A run of n equal distances holding r relevant items, after N0 items with R0 relevant ones, contributes for
    its j-th place, j = 1..n (McSherry and Najork, "Computing information retrieval performance measures
    efficiently in the presence of tied scores", 2008)

        E[p at rank N0 + j, relevant] = (r / n) (R0 + 1 + (j - 1) (r - 1) / (n - 1)) / (N0 + j)

    Args:
        distances: [N], ascending.
        relevance: bool [N], in the same order, at least one True.
    """
    starts = np.flatnonzero(np.concatenate([[True], distances[1:] != distances[:-1]]))
    cumulative = np.concatenate([[0], np.cumsum(relevance)])
    ends = np.append(starts[1:], len(distances))
    inside = cumulative[ends] - cumulative[starts]  # r of each run
    runs = inside > 0
    before, n, r0, r = starts[runs], (ends - starts)[runs], cumulative[starts[runs]], inside[runs]
    relevant = int(cumulative[-1])

    j = np.arange(1, n.sum() + 1) - np.repeat(np.cumsum(n) - n, n)  # place within the run
    rank = np.repeat(before, n) + j
    later = np.repeat((r - 1) / np.maximum(n - 1, 1), n)
    expected = np.repeat(r / n, n) * (np.repeat(r0 + 1, n) + (j - 1) * later) / rank

    def hits_within(k: int) -> float:
        return float((r * np.clip(k - before, 0, n) / n).sum())

    map_at = []
    for k in protocol.map_at:
        if protocol.truncated_denominator == "min_k_r":
            map_at.append(float(expected[rank <= k].sum()) / min(k, relevant))
            continue
        whole = before + n <= k
        sure = float(expected[np.repeat(whole, n)].sum())
        cut = np.flatnonzero((before < k) & ~whole)  # the one run that the cut-off divides, if it has relevant items
        if len(cut):
            c = cut[0]
            map_at.append(_divided_run(sure, int(before[c]), int(n[c]), int(r0[c]), int(r[c]), k - int(before[c])))
        else:
            map_at.append(sure / max(int(r[whole].sum()), 1))
    cuts = [precision_cut(k, relevant, len(distances), protocol) for k in protocol.precision_at]
    return Scores(float(expected.sum()) / relevant, [hits_within(cut) / cut for cut in cuts], map_at)


def curve_in_order(ranks: np.ndarray) -> np.ndarray:
    """Interpolated precision at recall 0, 0.01, ..., 1: float64 [101].

    >>> curve_in_order(np.array([1, 4]))[[0, 50, 51, 100]].tolist()
    [1.0, 1.0, 0.5, 0.5]
    """
    relevant = len(ranks)
    precision = _running_max_from_right(np.arange(1, relevant + 1) / ranks)
    steps = RECALL_LEVELS - 1
    needed = (np.arange(RECALL_LEVELS) * relevant + steps - 1) // steps  # relevant items that reach the level, rounded up
    return precision[np.maximum(needed, 1) - 1]


def random_order_ap(relevant: int, size: int) -> float:
    """Expected AP, without interpolation, of ``size`` items in random order: one run of ties holding them
    all.

    >>> random_order_ap(1, 2)
    0.75
    """
    j = np.arange(1, size + 1)
    return float(((1 + (j - 1) * (relevant - 1) / max(size - 1, 1)) / j).sum()) / size


def precision_cut(k: int, relevant: int, size: int, protocol: Protocol) -> int:
    """Number of items that P@k looks at."""
    return min(k, size if protocol.precision_cutoff == "k" else relevant)


def _running_max_from_right(x: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(x[::-1])[::-1]


def _divided_run(sure: float, before: int, n: int, r0: int, r: int, m: int) -> float:
    """E[sum of precisions / hits] where the cut-off keeps the first m of a run's n places.

    The number h of its r relevant items among those m is hypergeometric; given h, the same formula as above
    holds with (m, h) in place of (n, r), and the denominator is r0 + h.
    """
    h = np.arange(max(0, r - (n - m)), min(r, m) + 1)
    odds = (r - h[:-1]) * (m - h[:-1]) / ((h[:-1] + 1) * (n - r - m + h[:-1] + 1))  # P(h + 1) / P(h)
    log_weight = np.concatenate([[0.0], np.cumsum(np.log(odds))])
    weight = np.exp(log_weight - log_weight.max())
    j = np.arange(1, m + 1)
    first = (1 / (before + j)).sum()
    second = ((j - 1) / (before + j)).sum()
    total = sure + h / m * ((r0 + 1) * first + (h - 1) / max(m - 1, 1) * second)
    return float((weight * total / np.maximum(r0 + h, 1)).sum() / weight.sum())
