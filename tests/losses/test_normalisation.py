"""Normalising inside the losses: any length, rows of zeros, and arguments that are not embeddings."""

from __future__ import annotations

import pytest
import torch

from zsml.errors import InputError
from zsml.losses import MATHMLoss, ModalityTripletLoss
from zsml.losses.normalise import row_lengths, unit_rows

LABELS, MODALITY = torch.arange(12) // 4, torch.arange(12) % 2


def batch() -> torch.Tensor:
    return torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [2.0**100, 2.0**-100, 2.0**124, 2.0**-120])
def test_the_length_of_embeddings_does_not_matter(scale: float) -> None:
    assert torch.equal(MATHMLoss()(batch() * scale, LABELS, MODALITY), MATHMLoss()(batch(), LABELS, MODALITY))
    torch.testing.assert_close(
        MATHMLoss()(batch().double() * 1e200, LABELS, MODALITY), MATHMLoss()(batch().double(), LABELS, MODALITY)
    )


@pytest.mark.parametrize(("scale", "dtype"), [(1e-40, torch.float32), (1e-310, torch.float64), (1e-39, torch.bfloat16)])
def test_subnormal_embeddings_are_directions_too(scale: float, dtype: torch.dtype) -> None:
    x = (batch().double() * scale).to(dtype)
    as_large = x.double() * (2.0**512 if dtype == torch.float64 else 2.0**64)
    near = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(MATHMLoss()(x, LABELS, MODALITY).double(), MATHMLoss()(as_large, LABELS, MODALITY), **near)


def test_it_is_the_normalisation_of_torch() -> None:
    x = batch().requires_grad_()
    y = batch().requires_grad_()
    MATHMLoss()(x, LABELS, MODALITY).backward()
    MATHMLoss(normalize=False)(torch.nn.functional.normalize(y, dim=1), LABELS, MODALITY).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-7)


def test_a_row_of_zeros_has_a_gradient_of_ordinary_size() -> None:
    x = batch()
    x[3] = 0
    x.requires_grad_()
    MATHMLoss()(x, LABELS, MODALITY).backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() < 10


@pytest.mark.parametrize(
    ("ref_emb", "message"),
    [
        ([1], "ref_emb must be a torch.Tensor"),
        (batch().long(), "ref_emb must be float16"),
        (batch()[0], r"ref_emb must have shape \[rows, D\]"),
        (batch().to_sparse(), "ref_emb must be dense"),
    ],
)
def test_bad_references(ref_emb, message: str) -> None:
    with pytest.raises((TypeError, InputError), match=message):
        MATHMLoss()(batch(), LABELS, MODALITY, ref_emb=ref_emb, ref_labels=LABELS, ref_modality=MODALITY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": "a"}, "margin must be a finite number, got 'a'"),
        ({"margin": None}, "margin must be a finite number, got None"),
        ({"beta": "a"}, "beta must be a positive number"),
        ({"terms": None}, "terms must be one or more of"),
    ],
)
def test_bad_settings(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModalityTripletLoss(**options)


def test_unit_rows_and_their_lengths() -> None:
    x = batch().double()
    x[2] *= 1e200
    lengths = x.norm(dim=1).clone()
    lengths[2] = (x[2] / 1e200).norm() * 1e200
    torch.testing.assert_close(row_lengths(x), lengths, rtol=1e-14, atol=0)
    torch.testing.assert_close(unit_rows(x), x / lengths[:, None], rtol=1e-14, atol=0)
    x[5] = 0
    x[7, 1] = torch.nan
    assert not unit_rows(x)[5].any() and unit_rows(x)[7].isnan().any() and row_lengths(x)[5] == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_takes_no_gradient(value: float) -> None:
    x = batch().double()
    x[7, 1] = value
    whole, rest = x.clone().requires_grad_(), x[:7].clone().requires_grad_()
    weight = batch().double() + 1
    (unit_rows(whole) * weight).sum().backward()
    (unit_rows(rest) * weight[:7]).sum().backward()
    assert whole.grad[7].eq(0).all() and whole.grad.isfinite().all() and torch.equal(whole.grad[:7], rest.grad)
    # The fused loss and the one over references agree on what such a row does.
    fused, composed = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, own = MATHMLoss(weighting=None), torch.arange(12)
    loss(fused, LABELS, MODALITY).backward()
    loss(composed, LABELS, MODALITY, ref_emb=composed, ref_labels=LABELS, ref_modality=MODALITY, exclude=own).backward()
    assert fused.grad[7].eq(0).all() and fused.grad.abs().sum() > 0
    torch.testing.assert_close(composed.grad, fused.grad, rtol=1e-10, atol=1e-13)
    small = batch().double()[:4, :3].requires_grad_()
    assert torch.autograd.gradcheck(unit_rows, small) and torch.autograd.gradcheck(row_lengths, small)
    for dtype in (torch.float16, torch.bfloat16):
        half = batch().to(dtype).requires_grad_()
        assert unit_rows(half).dtype == row_lengths(half).dtype == torch.float32
        unit_rows(half).sum().backward()
        assert half.grad.dtype == dtype


def test_normalising_keeps_the_result_alone_for_backward() -> None:
    """Of a million class centres every further copy would be as large as they are."""
    kept = []
    x = torch.randn(64, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        unit_rows(x)
    assert sorted(kept) == [64, 64 * 32]
