"""The hand-written versions the benchmark times compute the same loss, and the same gradient, as the fused one."""

from __future__ import annotations

import pytest
import torch

from zsml.bench.peers_pairs import chunked, dense, metric_learning, published
from zsml.losses import MATHMLoss


@pytest.mark.parametrize("peer", [dense, chunked], ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [(24, 8, 3), (120, 64, 15), (300, 17, 299)], ids=str)
def test_same_value_and_gradient(peer, size):
    B, D, classes = size
    generator = torch.Generator().manual_seed(B)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    labels, modality = torch.randint(0, classes, (B,), generator=generator), torch.randint(0, 2, (B,), generator=generator)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = MATHMLoss()(ours, labels, modality), peer(theirs, labels, modality)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("peer", [published, metric_learning], ids=lambda f: f.__name__)
def test_those_that_need_every_partner_to_exist(peer):
    """Four sketches and four photos of every class: no anchor is without a partner, which these do not provide for."""
    if peer is metric_learning:
        pytest.importorskip("pytorch_metric_learning")
    x = torch.randn(48, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, modality = torch.arange(48) // 8, torch.arange(48) % 2
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = MATHMLoss()(ours, labels, modality), peer(theirs, labels, modality)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(v, t)[0] for v, t in ((value, ours), (expected, theirs))]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-10)
