"""hardest_pairs on batches that hypothesis makes up: the kernels against the plain-torch reference and the definition."""

from __future__ import annotations

from types import SimpleNamespace

import hypothesis.extra.numpy as npst
import numpy as np
import torch
from hardest_pairs_oracle import assert_hardest, brute_force, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from zsml.ops import hardest_pairs
from zsml.ops._register import references

# The fixture only picks a device and an implementation, so it may serve all examples.
SETTINGS = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
IDS = st.integers(-2, 2) | st.sampled_from([-(2**63), 2**63 - 1])
WHOLE = st.integers(-3, 3)
FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
FLOAT16 = st.floats(width=16, allow_nan=True, allow_infinity=True)
FLOAT64 = st.floats(-1e100, 1e100).filter(lambda value: value == 0 or abs(value) > 1e-100)


@st.composite
def batches(draw: st.DrawFn, values: st.SearchStrategy, dtype: torch.dtype) -> SimpleNamespace:
    """Up to 20 anchors; half of the time up to 40 references, then perhaps one to skip per anchor."""
    width = draw(st.integers(1, 6))
    with_modality = draw(st.booleans())

    def rows(count: int) -> Tensor:
        drawn = draw(npst.arrays(np.float64, (count, width), elements=values, fill=st.nothing() if count < 8 else None))
        return torch.from_numpy(drawn).to(dtype)

    def ids(count: int) -> Tensor:
        return torch.from_numpy(draw(npst.arrays(np.int64, count, elements=IDS)))

    anchors = draw(st.integers(1, 20))
    modality = ids(anchors) if with_modality else None
    batch = SimpleNamespace(x=rows(anchors), labels=ids(anchors), modality=modality)
    batch.refs = batch.ref_labels = batch.ref_modality = batch.exclude = None
    if draw(st.booleans()):
        count = draw(st.integers(0, 40))
        batch.refs, batch.ref_labels, batch.ref_modality = rows(count), ids(count), ids(count) if with_modality else None
        if draw(st.booleans()):
            batch.exclude = torch.from_numpy(draw(npst.arrays(np.int64, anchors, elements=st.integers(-1, count - 1))))
    return batch


def moved(batch: SimpleNamespace, device: torch.device) -> SimpleNamespace:
    batch = SimpleNamespace(**{name: None if t is None else t.to(device) for name, t in vars(batch).items()})
    names = ("refs", "ref_labels", "ref_modality", "exclude")
    batch.options = {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
    return batch


@SETTINGS
@given(batch=batches(WHOLE, torch.float32), seed=st.integers(0, 1000))
def test_whole_numbers_give_the_bits_of_the_reference(kernel_device, batch, seed):
    batch = moved(batch, kernel_device)
    x, refs = batch.x.requires_grad_(), None if batch.refs is None else batch.refs.requires_grad_()
    pairs = run(batch)
    zeros = [None if t is None else torch.zeros_like(t) for t in (batch.labels, batch.ref_labels)]
    modality, ref_modality = zeros if batch.modality is None else (batch.modality, batch.ref_modality)
    with torch.no_grad():
        distance, index = references["hardest_pairs"](
            x, batch.labels, modality, refs, batch.ref_labels, ref_modality, batch.exclude, 0
        )
        assert torch.equal(pairs.index, index)
        assert torch.equal(pairs.distance, distance)
        weight = torch.randn(4, len(x), generator=torch.Generator().manual_seed(seed)).to(kernel_device)
        expected = references["hardest_pairs_backward"](weight, x, refs, distance, index, True, refs is not None)
    for t, gradient in zip((x, refs), expected, strict=True):
        if t is not None:
            (ours,) = torch.autograd.grad(pairs.distance, t, weight, retain_graph=True)
            torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-5)


@SETTINGS
@given(batch=batches(FLOAT32, torch.float32))
def test_any_float32(device, batch):
    """NaN, infinities, subnormals, and 1e38 beside 1e-38."""
    batch = moved(batch, device)
    assert_hardest(run(batch), batch, brute_force(batch), exact=False)


@SETTINGS
@given(batch=batches(FLOAT16, torch.float16))
def test_any_float16(device, batch):
    batch = moved(batch, device)
    assert_hardest(run(batch), batch, brute_force(batch), exact=False)


@SETTINGS
@given(batch=batches(FLOAT64, torch.float64))
def test_float64_of_any_size_whose_square_exists(device, batch):
    batch = moved(batch, device)
    assert_hardest(run(batch), batch, brute_force(batch), exact=False)


@SETTINGS
@given(batch=batches(WHOLE, torch.float32), seed=st.integers(0, 1000))
def test_order_of_references_matters_only_for_ties(device, batch, seed):
    """Distances are those of any permutation of the candidates, and of a batch cut into single anchors."""
    batch = moved(batch, device)
    if batch.refs is None:
        return
    expected = run(batch).distance
    order = torch.randperm(len(batch.refs), generator=torch.Generator().manual_seed(seed)).to(device)
    options = {name: t if name == "exclude" else t[order] for name, t in batch.options.items()}
    if batch.exclude is not None:
        place = torch.cat([order.argsort(), order.new_tensor([-1])])  # the last is where -1 points
        options["exclude"] = place[batch.exclude]
    assert torch.equal(hardest_pairs(batch.x, batch.labels, batch.modality, **options).distance, expected)
    for i in range(len(batch.x)):
        one = slice(i, i + 1)
        modality = None if batch.modality is None else batch.modality[one]
        options = {name: t[one] if name == "exclude" else t for name, t in batch.options.items()}
        assert torch.equal(hardest_pairs(batch.x[one], batch.labels[one], modality, **options).distance, expected[:, one])
