"""hardest_pairs by its definition, in numpy's longest float, and the batches the native tests draw."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WITHIN_POS, WITHIN_NEG, CROSS_POS, CROSS_NEG = range(4)


class Batch(NamedTuple):
    """The arguments of ``select`` and ``search`` after the instruction set."""

    x: np.ndarray  # [B, D]
    labels: np.ndarray  # [B]
    modality: np.ndarray  # [B]
    refs: np.ndarray  # [M, D]
    ref_labels: np.ndarray  # [M]
    ref_modality: np.ndarray  # [M]
    exclude: np.ndarray  # [B]


def draw_batch(rng, dtype, anchors, candidates, depth, *, classes=3, modalities=2, values="normal", self_pairs=False) -> Batch:
    """Random ids and rows; values "whole" are integers in [-3, 3], so that every sum is exact and ties abound."""

    def rows(count):
        if values == "whole":
            return rng.integers(-3, 4, (count, depth)).astype(dtype)
        return rng.standard_normal((count, depth)).astype(dtype)

    x, labels, modality = rows(anchors), rng.integers(0, classes, anchors), rng.integers(0, modalities, anchors)
    if self_pairs:
        return Batch(x, labels, modality, x, labels, modality, np.arange(anchors))
    exclude = rng.integers(-1, candidates + 2, anchors)  # some name no candidate at all
    ref_labels, ref_modality = rng.integers(0, classes, candidates), rng.integers(0, modalities, candidates)
    return Batch(x, labels, modality, rows(candidates), ref_labels, ref_modality, exclude)


def all_distances(batch: Batch) -> np.ndarray:
    """Euclidean distances [B, M] in long double; NaN where either row is not finite."""
    x, refs = batch.x.astype(np.longdouble), batch.refs.astype(np.longdouble)
    x, refs = (np.where(np.isfinite(t).all(1, keepdims=True), t, np.nan) for t in (x, refs))
    return np.sqrt(((x[:, None] - refs[None]) ** 2).sum(-1))


def allowed(batch: Batch, role: int) -> np.ndarray:
    """Which pairs [B, M] may be chosen in a role."""
    same_label = batch.labels[:, None] == batch.ref_labels
    same_modality = batch.modality[:, None] == batch.ref_modality
    fits = (same_label == (role in (WITHIN_POS, CROSS_POS))) & (same_modality == (role < CROSS_POS))
    usable = np.isfinite(batch.refs).all(1) & np.isfinite(batch.x).all(1)[:, None]
    return fits & usable & (np.arange(len(batch.refs)) != batch.exclude[:, None])


def hardest(values: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Extreme of ``values`` [B, M] per role and the lowest candidate that reaches it: ([4, B], [4, B])."""
    best = np.empty((4, len(batch.x)), values.dtype)
    index = np.full((4, len(batch.x)), -1)
    for role in range(4):
        sign = 1 if role in (WITHIN_POS, CROSS_POS) else -1
        masked = np.where(allowed(batch, role), sign * values, -np.inf)
        if masked.shape[1]:
            best[role] = sign * masked.max(1)
            index[role] = np.where(allowed(batch, role).any(1), masked.argmax(1), -1)
        else:
            best[role] = -sign * np.inf
    return best, index


def assert_hardest(batch: Batch, distance: np.ndarray, index: np.ndarray) -> None:
    """Each chosen pair is allowed, hardest up to the rounding of the search, and its distance right up to that of one sum."""
    eps = float(np.finfo(distance.dtype).eps)
    slack = 32 * eps  # relative; the search promises 3e-5 in float32, and keeps 4e-6
    d = all_distances(batch)
    best, expected = hardest(d, batch)
    finite = np.isfinite(batch.x).all(1)
    assert np.isnan(distance[:, ~finite]).all() and (index[:, ~finite] == -1).all()
    distance, index, best, expected, d = distance[:, finite], index[:, finite], best[:, finite], expected[:, finite], d[finite]
    np.testing.assert_array_equal(index < 0, expected < 0)
    np.testing.assert_array_equal(distance[index < 0], best[index < 0].astype(distance.dtype))
    for role, i in zip(*np.nonzero(index >= 0), strict=True):
        j = index[role, i]
        assert allowed(batch, role)[finite][i, j], f"role {role}, anchor {i}: candidate {j} is not allowed"
        assert abs(d[i, j] - best[role, i]) <= slack * best[role, i], (
            f"role {role}, anchor {i}: {d[i, j]} chosen, {best[role, i]} is harder"
        )
        with np.errstate(over="ignore"):
            exact = d[i, j].astype(distance.dtype)
        tiny = float(np.finfo(distance.dtype).smallest_subnormal)
        assert distance[role, i] == exact or abs(float(distance[role, i]) - float(exact)) <= 16 * eps * float(exact) + tiny
