"""Average precision and precision at k from the counts around the relevant items, in float64.

N gallery items of which R are relevant, r_1 < ... < r_R their ranks (1 = nearest). The precision at the p-th of them is p / r_p;
interpolated ("voc") it is the largest at that or any later rank, which is always attained at a relevant one:

    AP   = (1 / R) sum_p q_p                 with q_p = p / r_p  or  max_{s >= p} s / r_s
    AP@k = (1 / d) sum_{p: r_p <= k} q_p     interpolated inside the first k; d = min(k, R) or the number of terms
    P@k  = |{p: r_p <= c}| / c               c = min(k, N) or min(k, R)

All functions take queries with the same R at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zsml.ops.rank_relevant import NEARER, TIED, TIED_BEFORE
from zsml.retrieval.protocol import Protocol

RECALL_LEVELS = 101  # of the precision-recall curve: recall 0, 0.01, ..., 1


class Scores(NamedTuple):
    """The numbers of n queries with R relevant items each.

    table: float64 [n, 1 + P + M], AP, then P@k and AP@k for each cut-off of the protocol.
    best, worst: float64 [n], AP in the best and the worst order of equally distant items.
    curve: float64 [101], interpolated precision at recall 0, 0.01, ..., 1, ties in gallery order, summed over the queries.
    """

    table: np.ndarray
    best: np.ndarray
    worst: np.ndarray
    curve: np.ndarray


def score(counts: np.ndarray, size: int, protocol: Protocol) -> Scores:
    """Scores from what :func:`zsml.ops.rank_relevant.rank_relevant` counts.

    Args:
        counts: int32 [3, n, R], R >= 1.
        size: N.

    >>> counts = np.array([[[0, 1, 1]], [[0, 0, 0]], [[0, 0, 0]]])  # ranks 1, 3, 4
    >>> score(counts, 5, Protocol(precision_at=(3,), map_at=(3,))).table.round(4).tolist()
    [[0.8333, 0.6667, 0.5556]]
    """
    place = np.arange(1, counts.shape[2] + 1)
    ranks = place + counts[NEARER] + counts[TIED_BEFORE]  # [n, R]
    table, interpolated = _in_order(ranks, size, protocol)
    best = worst = table[:, 0]
    if counts[TIED].any():
        best = _in_order(place + counts[NEARER], size, protocol)[0][:, 0]
        worst = _in_order(place + counts[NEARER] + counts[TIED], size, protocol)[0][:, 0]
        if protocol.ties == "expected":
            table = _over_tie_orders(counts, size, protocol)
    return Scores(table, best, worst, _curve(interpolated))


def random_order_ap(relevant: int, size: int) -> float:
    """Expected AP, without interpolation, of ``size`` items in random order: one run of ties holding them all.

    >>> random_order_ap(1, 2)
    0.75
    """
    j = np.arange(1, size + 1)
    return float(((1 + (j - 1) * (relevant - 1) / max(size - 1, 1)) / j).sum()) / size


def _in_order(ranks: np.ndarray, size: int, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """(table, interpolated precision [n, R]) where every item has its own rank; ranks ascend."""
    relevant = ranks.shape[1]
    precision = np.arange(1, relevant + 1) / ranks
    interpolated = _running_max_from_right(precision)
    voc = protocol.interpolation == "voc"

    columns = [(interpolated if voc else precision).mean(axis=1)]
    for k in protocol.precision_at:
        cut = _precision_cut(k, relevant, size, protocol)
        columns.append((ranks <= cut).sum(axis=1) / cut)
    for k in protocol.map_at:
        inside = ranks <= k
        kept = np.where(inside, precision, 0.0)
        if voc:  # nothing beyond k counts, so the maximum is over the places inside alone
            kept = np.where(inside, _running_max_from_right(kept), 0.0)
        hits = inside.sum(axis=1)
        denominator = min(k, relevant) if protocol.truncated_denominator == "min_k_r" else np.maximum(hits, 1)
        columns.append(kept.sum(axis=1) / denominator)
    return np.stack(columns, axis=1), interpolated


def _over_tie_orders(counts: np.ndarray, size: int, protocol: Protocol) -> np.ndarray:
    """The table averaged over all orders of equally distant items, without interpolation, in closed form.

    A run of n equal distances holding r relevant items, after N0 items with R0 relevant ones, contributes for its j-th place,
    j = 1..n (McSherry and Najork, "Computing information retrieval performance measures efficiently in the presence of tied
    scores", 2008)

        E[p at rank N0 + j, relevant] = (r / n) (R0 + 1 + (j - 1) (r - 1) / (n - 1)) / (N0 + j)

    Summed over the first m places, with H the harmonic numbers and h = H(N0 + m) - H(N0):

        (r / n) ((R0 + 1) h + (r - 1) / (n - 1) (m - (N0 + 1) h))

    Everything is held per relevant item, [n, R], and each carries the r-th part of its run.
    """
    relevant = counts.shape[2]
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, size + 1))])
    nearer, tied = counts[NEARER].astype(np.int64), counts[TIED].astype(np.int64)
    # Runs differ in one of the two; where they do not, no other item is between or among them, and they can count as one.
    starts = np.ones(nearer.shape, dtype=bool)
    starts[:, 1:] = (nearer[:, 1:] != nearer[:, :-1]) | (tied[:, 1:] != tied[:, :-1])
    at = np.arange(relevant)
    r0 = np.maximum.accumulate(np.where(starts, at, 0), axis=1)
    stops = np.concatenate([starts[:, 1:], np.ones((len(starts), 1), dtype=bool)], axis=1)
    end = np.minimum.accumulate(np.where(stops, at + 1, relevant)[:, ::-1], axis=1)[:, ::-1]
    r = end - r0
    n, n0 = r + tied, r0 + nearer

    def share(m: np.ndarray) -> np.ndarray:
        """Sum over the first m places of the run, divided by r."""
        h = np.where(m == 1, 1.0 / (n0 + 1), harmonic[n0 + m] - harmonic[n0])
        return ((r0 + 1) * h + (r - 1) / np.maximum(n - 1, 1) * (m - (n0 + 1) * h)) / n

    columns = [share(n).sum(axis=1) / relevant]
    for k in protocol.precision_at:
        cut = _precision_cut(k, relevant, size, protocol)
        columns.append((np.clip(cut - n0, 0, n) / n).sum(axis=1) / cut)
    for k in protocol.map_at:
        m = np.clip(k - n0, 0, n)
        if protocol.truncated_denominator == "min_k_r":
            columns.append(np.where(m > 0, share(m), 0.0).sum(axis=1) / min(k, relevant))
            continue
        whole = m == n
        sure = np.where(whole, share(n), 0.0).sum(axis=1)
        hits = whole.sum(axis=1)
        divided = (m > 0) & ~whole  # the one run that the cut-off divides, if it has relevant items
        value = sure / np.maximum(hits, 1)
        for row in np.flatnonzero(divided.any(axis=1)):
            c = int(divided[row].argmax())
            value[row] = _divided_run(sure[row], *(int(x[row, c]) for x in (n0, n, r0, r, m)))
        columns.append(value)
    return np.stack(columns, axis=1)


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


def _curve(interpolated: np.ndarray) -> np.ndarray:
    """Interpolated precision at recall 0, 0.01, ..., 1, summed over the rows.

    >>> _curve(np.array([[1.0, 0.5]]))[[0, 50, 51, 100]].tolist()
    [1.0, 1.0, 0.5, 0.5]
    """
    relevant, steps = interpolated.shape[1], RECALL_LEVELS - 1
    needed = (np.arange(RECALL_LEVELS) * relevant + steps - 1) // steps  # relevant items that reach the level, rounded up
    return interpolated[:, np.maximum(needed, 1) - 1].sum(axis=0)


def _precision_cut(k: int, relevant: int, size: int, protocol: Protocol) -> int:
    """Number of items that P@k looks at."""
    return min(k, size if protocol.precision_cutoff == "k" else relevant)


def _running_max_from_right(x: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(x[:, ::-1], axis=1)[:, ::-1]
