"""Normalising inside the losses: any length, rows of zeros, and arguments that are not embeddings."""

from __future__ import annotations

import pytest
import torch

from zsml.errors import InputError
from zsml.losses import MATHMLoss, ModalityTripletLoss

LABELS, MODALITY = torch.arange(12) // 4, torch.arange(12) % 2


def batch() -> torch.Tensor:
    return torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [2.0**100, 2.0**-100, 2.0**124, 2.0**-120])
def test_the_length_of_embeddings_does_not_matter(scale: float) -> None:
    assert torch.equal(MATHMLoss()(batch() * scale, LABELS, MODALITY), MATHMLoss()(batch(), LABELS, MODALITY))
    torch.testing.assert_close(
        MATHMLoss()(batch().double() * 1e200, LABELS, MODALITY), MATHMLoss()(batch().double(), LABELS, MODALITY)
    )


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
