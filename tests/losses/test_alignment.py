"""GaussianAlignmentLoss against the formula in NumPy, and its expectation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zsml.errors import InputError
from zsml.losses import GaussianAlignmentLoss


def divergence(x: np.ndarray, e: np.ndarray) -> float:
    """Mean of KL(softmax(e) || softmax(x)) over rows, written out in float64."""
    total = 0.0
    for row, target in zip(x.astype(np.float64), e.astype(np.float64), strict=True):
        q, p = np.exp(row) / np.exp(row).sum(), np.exp(target) / np.exp(target).sum()
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(x)


def rows(seed: int, shape: tuple[int, int] = (7, 5)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_formula():
    x, e = rows(0), rows(1)
    torch.testing.assert_close(GaussianAlignmentLoss()(x, target=e).item(), divergence(x.numpy(), e.numpy()), rtol=1e-12, atol=0)


def test_golden_values():
    """Worked by hand: KL from softmax((1, 0)) to the uniform distribution is log 2 - H(p), and of a vector to itself 0."""
    p = 1 / (1 + math.exp(-1))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    uniform, target = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss = GaussianAlignmentLoss()
    assert loss(uniform, target=target).item() == pytest.approx(math.log(2) - entropy, rel=1e-12)
    assert loss(target, target=target).item() == 0
    assert loss(target + 3, target=target).item() == pytest.approx(0, abs=1e-15)  # a softmax does not see a shift


def test_the_gradient_is_the_difference_of_the_softmaxes_over_the_batch():
    x, e = rows(0).requires_grad_(), rows(1).requires_grad_()
    GaussianAlignmentLoss()(x, target=e).backward()
    expected = (x.detach().softmax(1) - e.detach().softmax(1)) / len(x)
    torch.testing.assert_close(x.grad, expected)
    assert e.grad is None


def test_fresh_standard_normal_vectors_at_every_call():
    loss, x = GaussianAlignmentLoss(), torch.zeros(20_000, 16)
    torch.manual_seed(0)
    first, second = loss(x), loss(x)
    assert first != second
    torch.manual_seed(0)
    assert loss(x) == first and loss(x) == second
    drawn = np.random.default_rng(0).standard_normal((20_000, 16))
    assert first.item() == pytest.approx(divergence(x.numpy(), drawn), rel=0.01)


def test_it_brings_two_modalities_to_one_distribution():
    """Sketches and photos that start apart end with the mean softmax of Gaussian vectors, which is uniform."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(32, 8) + 3 * torch.eye(8)[0], torch.randn(32, 8) - 3 * torch.eye(8)[1]]).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    loss = GaussianAlignmentLoss()

    def gap() -> float:
        q = x.detach().softmax(1)
        return float((q[:32].mean(0) - q[32:].mean(0)).abs().sum())

    before = gap()
    for _ in range(200):
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
    assert before > 0.5 and gap() < 0.1 * before


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"embeddings": [1.0]}, TypeError, "embeddings must be a torch.Tensor"),
        ({"embeddings": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "embeddings must be float16"),
        ({"embeddings": torch.zeros(3)}, InputError, r"embeddings must have shape \[rows, D\]"),
        ({"embeddings": torch.zeros(0, 3)}, InputError, r"embeddings must have shape \[B, D\] with B >= 1"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, InputError, r"labels must have shape \[2\]"),
        ({"modality": torch.zeros(2)}, TypeError, "modality must be int64"),
        ({"target": torch.zeros(2, 4)}, InputError, r"target must have the shape of embeddings, \[2, 3\].*got \[2, 4\]"),
        ({"target": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "target must be float16"),
    ],
)
def test_what_it_refuses(given, error, message):
    with pytest.raises(error, match=message):
        GaussianAlignmentLoss()(**{"embeddings": torch.zeros(2, 3), **given})
