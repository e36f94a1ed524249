"""The running winners that are kept while the products are in registers: ``kernel.update`` alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs_oracle import CROSS_NEG, CROSS_POS, WITHIN_NEG, WITHIN_POS, Batch, draw_batch, hardest

AROUND_THE_PANELS = [1, 5, 6, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33, 65]
SEEDS = st.integers(0, 2**32 - 1)


def ranking_values(batch: Batch) -> np.ndarray:
    """What the selection compares: |b|^2 - 2 a.b, [B, M]; exact for the small integers used here."""
    x, refs = batch.x.astype(float), batch.refs.astype(float)
    return (refs**2).sum(1) - 2 * x @ refs.T


def split(rng, total: int) -> list[int]:
    """A random partition of ``total`` into chunks, empty ones among them."""
    cuts = np.sort(rng.integers(0, total + 1, rng.integers(0, 4)))
    return [int(size) for size in np.diff(np.concatenate([[0], cuts, [total]]))]


def spoil(rng, rows: np.ndarray) -> None:
    bad = rng.random(len(rows)) < 0.15
    rows[bad, rng.integers(0, rows.shape[1], bad.sum())] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())


@given(
    anchors=st.sampled_from(AROUND_THE_PANELS),
    candidates=st.sampled_from([0, *AROUND_THE_PANELS]),
    depth=st.integers(1, 20),
    classes=st.integers(1, 4),
    modalities=st.integers(1, 3),
    seed=SEEDS,
)
def test_winners_match_the_definition(internals, isa, dtype, anchors, candidates, depth, classes, modalities, seed):
    rng = np.random.default_rng(seed)
    batch = draw_batch(rng, dtype, anchors, candidates, depth, classes=classes, modalities=modalities, values="whole")
    spoil(rng, batch.refs)
    value, index = internals.select(isa, *batch, split(rng, candidates))
    expected_value, expected_index = hardest(
        ranking_values(batch._replace(refs=np.nan_to_num(batch.refs, posinf=0, neginf=0))), batch
    )
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_array_equal(value, expected_value)


@given(candidates=st.integers(1, 100), depth=st.integers(1, 40), seed=SEEDS)
def test_chunks_do_not_change_a_bit(internals, isa, dtype, candidates, depth, seed):
    rng = np.random.default_rng(seed)
    batch = draw_batch(rng, dtype, 17, candidates, depth)
    whole = internals.select(isa, *batch, [candidates])
    for chunks in (split(rng, candidates), [1] * candidates):
        for one, other in zip(whole, internals.select(isa, *batch, chunks), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("copies", [2, 31, 32, 33, 70])
def test_the_lowest_of_equal_candidates_wins_in_any_lane(internals, isa, dtype, copies):
    rng = np.random.default_rng(copies)
    row = rng.standard_normal((1, 37)).astype(dtype)  # not integers: equal rows must still give bit-equal values
    x, refs = rng.standard_normal((15, 37)).astype(dtype), np.repeat(row, copies, axis=0)
    zeros = np.zeros(15, int)
    for first in range(copies):  # candidates before `first` are unusable, so the lowest usable one sits in every lane once
        spoiled = refs.copy()
        spoiled[:first] = np.nan
        _, index = internals.select(
            isa, x, zeros, zeros, spoiled, np.zeros(copies, int), np.zeros(copies, int), zeros - 1, [copies]
        )
        assert (index[WITHIN_POS] == first).all() and (index[WITHIN_NEG:] == -1).all()


def test_the_excluded_row_is_skipped_in_its_chunk_and_only_there(internals, isa, dtype):
    count, far = 100, 41
    refs = np.zeros((count, 2), dtype)
    refs[far], refs[far + 32] = 5, 4  # the same place in its chunk of 32 as the excluded row
    x, anchor, other = np.zeros((count, 2), dtype), np.zeros(count, int), np.zeros(count, int)
    exclude = np.full(count, far)
    exclude[::3] = -1
    for chunks in ([count], [32, 32, 32, 4], [41, 59], [42, 58], [10] * 10):
        _, index = internals.select(isa, x, anchor, other, refs, anchor, other, exclude, chunks)
        np.testing.assert_array_equal(index[WITHIN_POS], np.where(exclude == far, far + 32, far))


def test_every_role_needs_its_kind_of_partner(internals, isa, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((33, 3)).astype(dtype)
    zeros, none = np.zeros(33, int), np.full(33, -1)
    for label, modality, role in ((0, 0, WITHIN_POS), (1, 0, WITHIN_NEG), (0, 1, CROSS_POS), (1, 1, CROSS_NEG)):
        value, index = internals.select(isa, x, zeros, zeros, x, zeros + label, zeros + modality, none, [33])
        assert (index[role] >= 0).all() and np.isfinite(value[role]).all()
        others = [r for r in range(4) if r != role]
        assert (index[others] == -1).all()
        for r in others:
            assert (value[r] == (-np.inf if r in (WITHIN_POS, CROSS_POS) else np.inf)).all()


def test_candidates_that_are_all_unusable_win_nothing(internals, isa, dtype):
    x, refs = np.ones((20, 4), dtype), np.full((40, 4), np.nan, dtype)
    _, index = internals.select(
        isa, x, np.arange(20), np.zeros(20, int), refs, np.zeros(40, int), np.zeros(40, int), np.full(20, -1), [40]
    )
    assert (index == -1).all()
