"""Drawing the features of all modalities towards one distribution, without pairs or classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.ops import _check

from ._settings import batch, described
from .gather import agree, global_sum


class GaussianAlignmentLoss(nn.Module):
    r"""Distribution alignment: the softmax of every embedding is drawn towards that of a fresh Gaussian vector.

    .. math:: L = \frac1B \sum_i \mathrm{KL}\big(\mathrm{softmax}(e_i) \,\|\, \mathrm{softmax}(x_i)\big)
                = \frac1B \sum_i \sum_k p_{ik} (\log p_{ik} - \log q_{ik}), \qquad e_i \sim \mathcal N(0, I_D)

    with p and q the two softmaxes over the D coordinates. Sketches and photos have the same target, so both modalities come to
    lie alike. The e are drawn anew at every call, from torch's global generator of the device, and carry no gradient.

    Source: SBKA (arXiv 2312.10320) and before it ClusterRetri (arXiv 2301.06685), as in their published code.

    Args:
        gather: the mean is over the rows of all ranks of ``torch.distributed`` (:mod:`zsml.losses.gather`).

    >>> loss = GaussianAlignmentLoss()
    >>> round(loss(torch.tensor([[0.0, 0.0]]), target=torch.tensor([[1.0, 0.0]])).item(), 4)
    0.1109
    """

    def __init__(self, gather: bool = False):
        super().__init__()
        self.gather = bool(gather)

    def forward(
        self,
        embeddings: Tensor,  # [B, D]
        labels: Tensor | None = None,  # [B]
        modality: Tensor | None = None,  # [B]
        *,
        target: Tensor | None = None,  # [B, D]
    ) -> Tensor:
        """The loss of a batch, a float32 (float64 for float64 embeddings) scalar.

        labels and modality make no difference; ``target`` takes the place of the random e. With ``gather`` some ranks may have
        no rows.

        Raises:
            InputError: a shape or device that does not fit, an empty batch; TypeError: a wrong dtype.
        """
        if self.gather:
            if labels is None and isinstance(embeddings, Tensor):
                labels = embeddings.new_zeros(embeddings.shape[:1], dtype=torch.int64)
            rows = agree(self, embeddings, labels, modality, check=lambda: _check_target(target, embeddings)).total
        else:
            batch(embeddings)
            for name, value in (("labels", labels), ("modality", modality)):
                if value is not None:
                    _check.ids(value, name, embeddings)
            _check_target(target, embeddings)
            rows = embeddings.shape[0]
        x = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        e = torch.randn_like(x) if target is None else target.detach().to(x.dtype)
        log_p, log_q = e.log_softmax(dim=1), x.log_softmax(dim=1)  # [B, D]
        total = (log_p.exp() * (log_p - log_q)).sum()
        return (global_sum(total) if self.gather else total) / rows

    def extra_repr(self) -> str:
        return described(self, "gather")


def _check_target(target: Tensor | None, embeddings: Tensor) -> None:
    if target is None:
        return
    _check.embeddings(target, "target")
    if target.shape != embeddings.shape or target.device != embeddings.device:
        raise InputError(
            f"target must have the shape of embeddings, {list(embeddings.shape)}, and be on {embeddings.device}, "
            f"got {list(target.shape)} on {target.device}"
        )
