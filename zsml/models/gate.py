"""A gate on pooled features that is told the modality, for backbones that are not."""

from __future__ import annotations

from torch import Tensor, nn

from zsml.models.conditional import ConditionalSE

REDUCTION = 16


class FeatureGate(nn.Module):
    """Rescale features by a gate that sees them and the modality tag y (0 sketch, 1 photo); the identity at the start.

        z = relu(W1 f + b1);  out = f * 2 sigmoid(W2 z + b2 + w_tag y)

    f, out: float [B, F]; tag: float [B, 1]; W1: [F / 16, F]; W2: [F, F / 16]; w_tag: [F, 1]. W2, b2 and w_tag start at
    zero, where 2 sigmoid(0) = 1: a pretrained backbone begins as it is, for both modalities.

    Source: the gate of Liu et al., SAKE, ICCV 2019, behind the backbone instead of inside it, so that any can have it.

    >>> import torch
    >>> f = torch.randn(2, 32)
    >>> torch.equal(FeatureGate(32)(f, torch.tensor([[0.0], [1.0]])), f)
    True
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.se = ConditionalSE(features, min(REDUCTION, features))
        nn.init.zeros_(self.se.fc2.weight)
        nn.init.zeros_(self.se.fc2.bias)

    def forward(self, features: Tensor, tag: Tensor) -> Tensor:
        return 2 * self.se(features[:, :, None, None], tag)[:, :, 0, 0]
