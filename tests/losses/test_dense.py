"""The hand-written versions the benchmark times compute the same loss, and the same gradient, as the fused one."""

from __future__ import annotations

import pytest
import torch

from zsml.bench.peers_pairs import chunked, dense
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
