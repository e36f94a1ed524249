"""The whole search and its gradient without torch, on every instruction set, against the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pairs_oracle import CROSS_NEG, CROSS_POS, WITHIN_NEG, WITHIN_POS, all_distances, assert_hardest, draw_batch, hardest

COUNTS = st.one_of(st.integers(1, 70), st.sampled_from([13, 14, 15, 31, 32, 33, 127, 128, 129]))
SEEDS = st.integers(0, 2**32 - 1)


@given(
    anchors=COUNTS, candidates=COUNTS, depth=st.integers(1, 70), classes=st.integers(1, 9), self_pairs=st.booleans(), seed=SEEDS
)
def test_search_matches_the_definition(internals, isa, dtype, anchors, candidates, depth, classes, self_pairs, seed):
    rng = np.random.default_rng(seed)
    batch = draw_batch(rng, dtype, anchors, candidates, depth, classes=classes, self_pairs=self_pairs)
    assert_hardest(batch, *internals.search(isa, *batch))


@given(
    anchors=COUNTS,
    candidates=COUNTS,
    depth=st.integers(1, 20),
    offset=st.sampled_from([0, 1000, 4096]),
    scale=st.sampled_from([1.0, 2.0**60, 2.0**-60]),
    seed=SEEDS,
)
def test_ties_of_exact_distances_go_to_the_lowest_index(internals, isa, dtype, anchors, candidates, depth, offset, scale, seed):
    batch = draw_batch(np.random.default_rng(seed), dtype, anchors, candidates, depth, values="whole")
    batch = batch._replace(x=(batch.x + offset) * dtype(scale), refs=(batch.refs + offset) * dtype(scale))
    distance, index = internals.search(isa, *batch)
    np.testing.assert_array_equal(index, hardest(all_distances(batch), batch)[1])
    assert_hardest(batch, distance, index)


@given(anchors=COUNTS, depth=st.integers(1, 300), seed=SEEDS)
def test_threads_do_not_change_a_bit(internals, isa, dtype, anchors, depth, seed):
    batch = draw_batch(np.random.default_rng(seed), dtype, anchors, 90, depth)
    alone = internals.search(isa, *batch, threads=1)
    for threads in (2, 3, 8):
        for one, other in zip(alone, internals.search(isa, *batch, threads=threads), strict=True):
            np.testing.assert_array_equal(one, other)


def test_instruction_sets_agree(internals, dtype):
    rng = np.random.default_rng(1)
    for depth in (1, 3, 123, 512):
        batch = draw_batch(rng, dtype, 129, 200, depth, classes=7)
        answers = [internals.search(isa, *batch) for isa in ("portable", "avx2", "avx512") if internals.available(isa)]
        for distance, index in answers:
            np.testing.assert_array_equal(distance, answers[0][0])
            np.testing.assert_array_equal(index, answers[0][1])


def test_several_chunks_of_candidates(internals, isa, dtype):
    batch = draw_batch(np.random.default_rng(2), dtype, 5, 150, 20000)  # 8 MiB hold a part of the candidates
    assert_hardest(batch, *internals.search(isa, *batch, threads=2))


@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("gap", [1e-1, 1e-2])
def test_near_duplicates_far_from_the_origin(internals, isa, dtype, offset, gap):
    rng = np.random.default_rng(4)
    batch = draw_batch(rng, dtype, 60, 60, 16, self_pairs=True)
    x = (offset + batch.x).astype(dtype)
    x[1::2] = (x[::2] + gap * rng.standard_normal(x[::2].shape)).astype(dtype)
    batch = batch._replace(x=x, refs=x)
    assert_hardest(batch, *internals.search(isa, *batch))


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-5, 1e-3, 1e-1])
def test_doubtful_winners_are_measured_again(internals, isa, dtype, gap):
    """Clusters far apart, so that no shift helps: inside one, |a|^2 + |b|^2 - 2 a.b is all rounding."""
    rng = np.random.default_rng(5)
    centres = 100 * rng.standard_normal((8, 24))
    x = (centres[np.arange(96) % 8] + gap * rng.standard_normal((96, 24))).astype(dtype)
    modality, exclude = rng.integers(0, 2, 96), np.arange(96)
    for labels in (np.arange(96) % 8, np.arange(96) // 8, np.zeros(96, int)):
        batch = draw_batch(rng, dtype, 96, 96, 24)._replace(x=x, refs=x, labels=labels, ref_labels=labels)
        batch = batch._replace(modality=modality, ref_modality=modality, exclude=exclude)
        distance, index = internals.search(isa, *batch)
        assert_hardest(batch, distance, index)
        if gap == 0.0 and (labels == np.arange(96) // 8).all():
            np.testing.assert_array_equal(index[WITHIN_NEG], hardest(all_distances(batch), batch)[1][WITHIN_NEG])


@pytest.mark.parametrize("power", [-30, -19, 19, 30])
def test_huge_and_tiny_embeddings_neither_overflow_nor_vanish(internals, isa, dtype, power):
    batch = draw_batch(np.random.default_rng(6), dtype, 50, 80, 32)
    batch = batch._replace(x=batch.x * dtype(10.0**power), refs=batch.refs * dtype(10.0**power))
    distance, index = internals.search(isa, *batch)
    assert np.isfinite(distance[index >= 0]).all() and (distance[index >= 0] > 0).all()
    assert_hardest(batch, distance, index)


@pytest.mark.parametrize("share", [0.15, 0.4, 0.65, 0.99])  # of the exponents that the type has
def test_one_outlier_does_not_blind_the_search_to_the_rest(internals, isa, dtype, share):
    batch = draw_batch(np.random.default_rng(7), dtype, 40, 40, 5, self_pairs=True)
    batch.x[17, 2] = 10.0 ** (share * np.log10(np.finfo(dtype).max))
    assert_hardest(batch, *internals.search(isa, *batch))


@given(data=st.data(), anchors=st.integers(1, 6), candidates=st.integers(0, 6), depth=st.integers(1, 3), seed=SEEDS)
def test_any_float_at_all(internals, isa, dtype, data, anchors, candidates, depth, seed):
    batch = draw_batch(np.random.default_rng(seed), dtype, anchors, candidates, depth, classes=2)
    floats = st.one_of(st.floats(width=np.finfo(dtype).bits), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0]))
    x, refs = (data.draw(hnp.arrays(dtype, rows.shape, elements=floats)) for rows in (batch.x, batch.refs))
    batch = batch._replace(x=x, refs=refs)
    with np.errstate(over="ignore"):
        assert_hardest(batch, *internals.search(isa, *batch))


def test_no_candidates_and_no_finite_anchor(internals, isa, dtype):
    batch = draw_batch(np.random.default_rng(8), dtype, 5, 0, 4)
    batch.x[2, 1] = np.nan
    distance, index = internals.search(isa, *batch)
    assert (index == -1).all() and np.isnan(distance[:, 2]).all()
    assert (distance[[WITHIN_POS, CROSS_POS]][:, [0, 1, 3, 4]] == -np.inf).all()
    assert (distance[[WITHIN_NEG, CROSS_NEG]][:, [0, 1, 3, 4]] == np.inf).all()


def test_any_int64_is_a_label(internals, isa, dtype):
    batch = draw_batch(np.random.default_rng(9), dtype, 40, 50, 6, classes=4, modalities=3)
    ids = np.array([-(2**63), -1, 2**32, 2**63 - 1])  # equal in their low 32 bits, some of them
    strange = batch._replace(**{name: ids[getattr(batch, name)] for name in ("labels", "modality", "ref_labels", "ref_modality")})
    for one, other in zip(internals.search(isa, *batch), internals.search(isa, *strange), strict=True):
        np.testing.assert_array_equal(one, other)
