"""The register tile, the packing that feeds it, and the frame of reference it works in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)


def largest_allowed_error(a, b):
    """Of a chain of fused multiply-adds over k, in the precision of a: depth x eps x sum |a| |b|."""
    return len(a) * np.finfo(a.dtype).eps * (np.abs(a).T.astype(float) @ np.abs(b).astype(float))


@given(depth=st.integers(0, 300), seed=SEEDS)
def test_tile_is_exact_on_integers(internals, isa, dtype, depth, seed):
    rows, cols = internals.tile_shape(isa, dtype)
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-50, 51, (depth, width)).astype(dtype) for width in (rows, cols))
    np.testing.assert_array_equal(internals.tile(isa, a, b), a.astype(float).T @ b.astype(float))


@given(depth=st.integers(1, 600), seed=SEEDS)
def test_tile_is_close_on_floats(internals, isa, dtype, depth, seed):
    rows, cols = internals.tile_shape(isa, dtype)
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((depth, width)).astype(dtype) for width in (rows, cols))
    exact = a.astype(np.longdouble).T @ b.astype(np.longdouble)
    assert (np.abs(internals.tile(isa, a, b) - exact) <= largest_allowed_error(a, b)).all()


def test_tile_puts_every_row_and_lane_in_its_place(internals, isa, dtype):
    rows, cols = internals.tile_shape(isa, dtype)
    b = np.arange(1, rows * cols + 1, dtype=dtype).reshape(rows, cols)
    np.testing.assert_array_equal(internals.tile(isa, np.eye(rows, dtype=dtype), b), b)
    a = np.arange(1, rows * cols + 1, dtype=dtype).reshape(cols, rows)
    np.testing.assert_array_equal(internals.tile(isa, a, np.eye(cols, dtype=dtype)), a.T)


@given(depth=st.integers(1, 200), seed=SEEDS)
def test_equal_rows_give_bit_equal_products_wherever_they_are(internals, isa, dtype, depth, seed):
    rows, cols = internals.tile_shape(isa, dtype)
    rng = np.random.default_rng(seed)
    a, b = (np.repeat(rng.standard_normal((depth, 1)).astype(dtype), width, axis=1) for width in (rows, cols))
    product = internals.tile(isa, a, b)
    assert (product == product[0, 0]).all()


def test_tile_needs_panels_of_its_own_shape(internals, isa, dtype):
    rows, cols = internals.tile_shape(isa, dtype)
    with pytest.raises(ValueError, match="tile_shape"):
        internals.tile(isa, np.zeros((3, rows + 1), dtype), np.zeros((3, cols), dtype))


@given(
    count=st.integers(0, 40),
    depth=st.integers(1, 9),
    width=st.sampled_from([1, 6, 8, 14, 16, 32]),
    exponent=st.integers(-3, 3),
    seed=SEEDS,
)
def test_pack_lays_rows_out_and_marks_what_must_not_be_chosen(internals, dtype, count, depth, width, exponent, seed):
    rng = np.random.default_rng(seed)
    first = int(rng.integers(0, 5))
    x = rng.integers(-9, 10, (first + count + 3, depth)).astype(dtype)
    bad = rng.random(len(x)) < 0.2
    x[bad, rng.integers(0, depth, bad.sum())] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
    shift, scale = rng.integers(-4, 5, depth).astype(dtype), 2.0**exponent
    panels, norm = internals.pack(x, width, scale, shift, first, count)

    framed = x.astype(float) * scale - shift  # exact: small integers times a power of two
    framed[bad] = 0
    length = np.where(bad, np.nan, (framed**2).sum(1))
    padded = np.zeros((-(-count // width) * width, depth))
    padded[:count] = framed[first : first + count]
    np.testing.assert_array_equal(panels, padded.reshape(-1, width, depth).transpose(0, 2, 1))
    np.testing.assert_array_equal(norm[:count], length[first : first + count])
    assert np.isnan(norm[count:]).all()


@given(count=st.integers(0, 70), depth=st.integers(1, 9), power=st.integers(-40, 38), seed=SEEDS)
def test_largest_coordinate_looks_at_finite_rows_only(internals, dtype, count, depth, power, seed):
    rng = np.random.default_rng(seed)
    x = (rng.uniform(-1, 1, (count, depth)) * 10.0**power).astype(dtype)
    finite = rng.random(count) < 0.7
    x[~finite, 0] = rng.choice([np.nan, np.inf, -np.inf], (~finite).sum())
    largest, flags = internals.largest_coordinate(x)
    np.testing.assert_array_equal(flags.astype(bool), finite)
    assert largest == (np.abs(x[finite]).max() if finite.any() else 0)


@given(
    count=st.integers(2, 40),
    depth=st.integers(1, 9),
    power=st.integers(-44, 37),
    offset=st.sampled_from([0, 1e2, 1e4]),
    seed=SEEDS,
)
def test_frame_scales_by_a_power_of_two_and_shifts_only_far_from_the_origin(internals, dtype, count, depth, power, offset, seed):
    rng = np.random.default_rng(seed)
    signs = np.where(np.arange(count) % 2, 1, -1)[:, None]  # both sides of the offset, so that the mean is near it
    x = ((offset + signs * rng.uniform(0.5, 1, (count, depth))) * 10.0**power / max(offset, 1)).astype(dtype)
    scale, shift = internals.choose_frame(x)
    assert np.frexp(scale)[0] == 0.5 and np.isfinite(1 / scale)
    scaled = x.astype(float) * float(scale)
    largest = np.abs(scaled).max()
    assert largest < 2**9 and (largest >= 1 or np.abs(x).max() < 2**7 * np.finfo(dtype).tiny)
    if offset == 0 and count % 2 == 0:
        assert (shift == 0).all()
    if offset and np.abs(x).max() > np.finfo(dtype).tiny * 1e8:
        assert (np.abs(scaled - shift).max(0) <= 4 * scaled.std(0).max() + 1e-6).all()


def test_frame_of_integers_keeps_them_exact(internals, dtype):
    x = (np.random.default_rng(3).integers(-3, 4, (50, 6)) + 4096).astype(dtype)
    scale, shift = internals.choose_frame(x)
    assert (shift != 0).all()
    np.testing.assert_array_equal(shift / scale, np.round(shift / scale))


def test_frame_without_a_usable_row_changes_nothing(internals, dtype):
    for x in (np.full((3, 2), np.nan, dtype), np.zeros((0, 2), dtype), np.zeros((4, 2), dtype)):
        scale, shift = internals.choose_frame(x)
        assert scale == 1 and (shift == 0).all()


@given(depth=st.integers(0, 200), gap=st.sampled_from([1.0, 1e-3, 1e-6]), power=st.integers(-12, 12), seed=SEEDS)
def test_squared_distance_does_not_cancel(internals, dtype, depth, gap, power, seed):
    rng = np.random.default_rng(seed)
    a = (rng.standard_normal(depth) * 10.0**power).astype(dtype)
    b = (a + gap * rng.standard_normal(depth) * 10.0**power).astype(dtype)
    exact = ((a.astype(np.longdouble) - b.astype(np.longdouble)) ** 2).sum()
    assert abs(internals.squared_distance(a, b, 1.0) - exact) <= (depth / 16 + 8) * np.finfo(dtype).eps * exact
