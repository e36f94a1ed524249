"""The backward pass of hardest_pairs without torch, against its formula and against differences of distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs_oracle import draw_batch

SEEDS = st.integers(0, 2**32 - 1)


def formula(grad, x, refs, distance, index):
    """d d(i, j) / d x_i = (x_i - r_j) / d(i, j) and its opposite for r_j, summed over the pairs in float64."""
    x, refs = x.astype(np.float64), refs.astype(np.float64)
    grad_x, grad_refs = np.zeros_like(x), np.zeros_like(refs)
    for role in range(4):
        for i, j in enumerate(index[role]):
            if j >= 0 and distance[role, i] > 0:
                flow = float(grad[role, i]) * (x[i] - refs[j]) / float(distance[role, i])
                grad_x[i] += flow
                grad_refs[j] -= flow
    return grad_x, grad_refs


@given(anchors=st.integers(1, 80), candidates=st.integers(0, 40), depth=st.integers(1, 40), self_pairs=st.booleans(), seed=SEEDS)
def test_gradient_matches_the_formula(internals, dtype, anchors, candidates, depth, self_pairs, seed):
    rng = np.random.default_rng(seed)
    batch = draw_batch(rng, dtype, anchors, candidates, depth, self_pairs=self_pairs)
    batch.x[rng.integers(0, anchors)] = batch.x[0]  # a pair at distance 0, which has no direction
    if rng.random() < 0.3:
        batch.x[-1, 0] = np.nan  # no partner, and nobody's partner
    distance, index = internals.search("portable", *batch)
    grad = rng.standard_normal((4, anchors)).astype(dtype)
    expected_x, expected_refs = formula(grad, batch.x, batch.refs, distance, index)
    slack = 8 * (4 * anchors + 8) * np.finfo(dtype).eps
    for threads in (1, 3):
        if self_pairs:
            grad_x, nothing = internals.gradient(grad, batch.x, None, distance, index, threads)
            assert nothing is None
            np.testing.assert_allclose(grad_x, expected_x + expected_refs, rtol=0, atol=slack)
        else:
            grad_x, grad_refs = internals.gradient(grad, batch.x, batch.refs, distance, index, threads)
            np.testing.assert_allclose(grad_x, expected_x, rtol=0, atol=slack)
            np.testing.assert_allclose(grad_refs, expected_refs, rtol=0, atol=slack)


@pytest.mark.parametrize("self_pairs", [True, False])
def test_gradient_is_the_slope_of_the_distances(internals, self_pairs):
    rng = np.random.default_rng(11)
    batch = draw_batch(rng, np.float64, 12, 9, 5, self_pairs=self_pairs)
    distance, index = internals.search("portable", *batch)
    grad = np.where(index >= 0, rng.standard_normal((4, 12)), 0)

    def total(x, refs):
        found, chosen = internals.search("portable", *batch._replace(x=x, refs=x if self_pairs else refs))
        np.testing.assert_array_equal(chosen, index)  # the step is too small to change a winner
        return (grad * np.where(index >= 0, found, 0)).sum()

    grad_x, grad_refs = internals.gradient(grad, batch.x, None if self_pairs else batch.refs, distance, index)
    for which, analytic in (("x", grad_x), ("refs", grad_refs)):
        if analytic is None:
            continue
        for at in np.ndindex(analytic.shape):
            slope = 0.0
            for sign in (1, -1):
                moved = {"x": batch.x.copy(), "refs": batch.refs.copy()}
                moved[which][at] += sign * 1e-6
                slope += sign * total(**moved) / 2e-6
            assert abs(slope - analytic[at]) < 1e-7, f"{which}{at}: {analytic[at]}, measured {slope}"


def test_threads_do_not_change_a_bit(internals, dtype):
    rng = np.random.default_rng(12)
    batch = draw_batch(rng, dtype, 500, 40, 70)
    distance, index = internals.search("portable", *batch)
    grad = rng.standard_normal((4, 500)).astype(dtype)
    alone = internals.gradient(grad, batch.x, batch.refs, distance, index, 1)
    for threads in (2, 5):
        for one, other in zip(alone, internals.gradient(grad, batch.x, batch.refs, distance, index, threads), strict=True):
            np.testing.assert_array_equal(one, other)
