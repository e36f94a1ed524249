"""The fused triplet loss against its plain-torch stand-in, the composed loss and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zsml.losses import ModalityTripletLoss
from zsml.ops import modality_triplet as op
from zsml.ops.modality_triplet import TERMS, modality_triplet

SUBSETS = [("within",), ("hybrid",), ("cross",), ("within", "cross"), tuple(TERMS)]
WEIGHTINGS = [(None, None), (20.0, None), (20.0, "adaptive"), (5.0, "released")]


def batch(count: int, width: int = 7, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 4, (count,), generator=generator), torch.randint(0, 3, (count,), generator=generator)


def bits(terms: tuple[str, ...]) -> int:
    return sum(1 << list(TERMS).index(term) for term in terms)


def by_references(loss: ModalityTripletLoss, x: Tensor, labels: Tensor, modality: Tensor | None) -> Tensor:
    """The composed path: the batch itself as references, each anchor's own row excluded."""
    own = torch.arange(len(x), device=x.device)
    return loss(x, labels, modality, ref_emb=x, ref_labels=labels, ref_modality=modality, exclude=own)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("beta", "weighting"), WEIGHTINGS)
@pytest.mark.parametrize("terms", SUBSETS)
def test_equals_the_composed_loss(device, terms, beta, weighting, normalize):
    loss = ModalityTripletLoss(terms, margin=0.3, normalize=normalize, beta=beta, weighting=weighting)
    for count in (1, 2, 13, 129):
        x, labels, modality = (t.to(device) for t in batch(count, dtype=torch.float64, seed=count))
        fused, composed = x.clone().requires_grad_(), x.clone().requires_grad_()
        value, expected = loss(fused, labels, modality), by_references(loss, composed, labels, modality)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        (3 * value).backward()
        (3 * expected).backward()
        torch.testing.assert_close(fused.grad, composed.grad, rtol=1e-10, atol=1e-13)


# Of kernel and stand-in: values and distances, and gradients relative to the largest coordinate of their row.
VALUES = {torch.float64: {"rtol": 1e-12, "atol": 1e-14}, torch.float32: {"rtol": 2e-5, "atol": 1e-6}}
GRADIENTS = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # of half: 2 roundings


@pytest.mark.parametrize("special", [False, True], ids=["finite", "special rows"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("beta", "weighting"), WEIGHTINGS)
@pytest.mark.parametrize("normalize", [True, False])
def test_kernel_equals_its_stand_in(device, dtype, beta, weighting, normalize, special):
    """Special: rows of zeros, NaN, infinite, tiny, huge, equal and opposite ones."""
    x, labels, modality = (t.to(device) for t in batch(60, 33, dtype, seed=5))
    if special:
        top = torch.finfo(dtype).max / 4 if normalize else 100.0
        x[3], x[4, 2], x[5, 1], x[6], x[7] = 0, torch.nan, torch.inf, x[6] * (top / x[6].abs().max()), x[8]
        x[9], x[10] = -x[8], x[10] * torch.finfo(dtype).tiny * 8
    arguments = (x, labels, modality, bits(tuple(TERMS)), 0.2, beta or 0.0, op.WEIGHTINGS.index(weighting), normalize, 0)
    ours, expected = torch.ops.zsml.modality_triplet(*arguments), op.reference(*arguments)
    assert ours[0].isnan() == expected[0].isnan() == special  # then two anchors are not finite
    clear = torch.arange(60, device=device) != (3 if special else -1)  # zeros are as far from every unit row, but for rounding
    assert torch.equal(ours[3][:, clear], expected[3][:, clear])
    for a, b in zip((*ours[:3], *ours[4:]), (*expected[:3], *expected[4:]), strict=True):
        near = VALUES[torch.float64 if dtype == torch.float64 else torch.float32]
        torch.testing.assert_close(a, b, equal_nan=True, **near)
    slope = batch(4, 60, ours[1].dtype)[0].to(device)
    grad = torch.ops.zsml.modality_triplet_backward(slope.new_tensor(2.0), x, slope, *ours[2:])
    truth = op.backward_reference(slope.new_tensor(2.0), x, slope, *ours[2:])
    assert grad.dtype == dtype and grad.isfinite().all() and truth.isfinite().all()
    scale = truth.double().abs().amax(dim=1, keepdim=True)
    assert ((grad.double() - truth.double()).abs() <= GRADIENTS[dtype] * scale).all()
    if special:
        assert grad[[4, 5]].eq(0).all()  # what is not finite takes and gives nothing


def test_gradient_is_that_of_finite_differences(device):
    x, labels, modality = (t.to(device) for t in batch(9, 4, torch.float64, seed=2))
    for beta, weighting in ((20.0, None), (3.0, "released")):
        torch.autograd.gradcheck(
            lambda x, beta=beta, weighting=weighting: modality_triplet(x, labels, modality, beta=beta, weighting=weighting),
            x.clone().requires_grad_(),
        )


def test_scaled_losses_keep_the_gradients_of_half_precision(device):
    """A loss scaled by 2 ** 14 must not have lost small gradients on the way."""
    x, labels, modality = (t.to(device) for t in batch(64, 16, torch.float16))
    small, large = x.clone().requires_grad_(), x.clone().requires_grad_()
    modality_triplet(small.float(), labels, modality, beta=20.0).backward()
    (modality_triplet(large, labels, modality, beta=20.0) * 2**14).backward()
    torch.testing.assert_close(large.grad.float() / 2**14, small.grad.float(), rtol=3e-3, atol=1e-7)


def test_same_on_any_number_of_threads():
    x, labels, modality = batch(1500, 24)
    before = torch.get_num_threads()
    try:
        seen = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            own = x.clone().requires_grad_()
            value = modality_triplet(own, labels, modality, beta=20.0, weighting="adaptive")
            value.backward()
            seen.append((value.detach(), own.grad))
    finally:
        torch.set_num_threads(before)
    for value, grad in seen[1:]:
        assert torch.equal(value, seen[0][0]) and torch.equal(grad, seen[0][1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(0, 3)}, "x must have at least one row"),
        ({"x": torch.zeros(4, 3).int()}, "x must be float16"),
        ({"labels": torch.zeros(3).long()}, r"labels must have shape \[4\]"),
        ({"modality": torch.zeros(4)}, "modality must be int64"),
        ({"terms": ()}, "terms must be one or more of"),
        ({"terms": None}, "terms must be one or more of"),
        ({"terms": "inside"}, r"terms must be one or more of .*, got \['inside'\]"),
        ({"terms": ("cross", "inside")}, "terms must be one or more of"),
        ({"terms": (["cross"],)}, "terms must be one or more of"),
        ({"terms": ("cross", "within", "cross")}, "terms must not repeat"),
        ({"margin": torch.nan}, "margin must be a finite number, got nan"),
        ({"margin": "0.2"}, "margin must be a finite number"),
        ({"beta": -1.0}, "beta must be a positive number or None"),
        ({"beta": 0}, "beta must be a positive number or None"),
        ({"beta": torch.nan}, "beta must be a positive number or None"),
        ({"weighting": "harder", "beta": 1.0}, "weighting must be one of .*, got 'harder'"),
        ({"weighting": "adaptive"}, "weighting='adaptive' needs beta"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"x": torch.randn(4, 3), "labels": torch.arange(4), "modality": torch.zeros(4).long()} | change
    with pytest.raises((ValueError, TypeError), match=message):
        modality_triplet(**arguments)


def test_one_term_may_come_by_name():
    x, labels, modality = batch(20)
    by_name, in_a_list = (modality_triplet(x, labels, modality, terms=terms) for terms in ("cross", ["cross"]))
    assert torch.equal(by_name, in_a_list)
