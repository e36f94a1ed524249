"""Batch-hard triplet losses that keep sketches and photos apart: mining and distances in one fused op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsml.ops import hardest_pairs
from zsml.ops._check import references as check_refs
from zsml.ops.modality_triplet import TERMS, check_settings, loss_of_batch

from ._settings import batch, described
from .gather import Ranks, agree, gather_candidates, global_sum, no_anchors
from .normalise import unit_rows


class ModalityTripletLoss(nn.Module):
    r"""Batch-hard triplet loss over pairs within and across modalities.

    With the hardest distances of :func:`zsml.ops.hardest_pairs`, each term t in ``terms`` averages over all B anchors

    .. math:: L_t = \frac1B \sum_i \varphi(d^{+}_{t,i} - d^{-}_{t,i} + \text{margin})

    where :math:`\varphi` is relu (``beta=None``) or softplus, :math:`\log(1 + e^{\beta z}) / \beta`. The terms pair

    * ``within``: same-modality positive with same-modality negative,
    * ``hybrid``: cross-modality positive with same-modality negative,
    * ``cross``: cross-modality positive with cross-modality negative.

    ``weighting=None`` returns the mean of the :math:`L_t`. With the hardness of a term
    :math:`g_t = \frac1B \sum_i \sigma(\beta (d^+ - d^- + \text{margin}))` and :math:`w_t = \overline{g} / \max(g_t, 0.1)`,
    ``"adaptive"`` returns :math:`\sum_t w_t L_t` with the weights detached (the paper) and
    ``"released"`` :math:`(\sum_t w_t) \cdot \overline{L_t}` with gradients through them (the published code).

    An anchor without a partner for a term contributes 0 and still counts in the mean.

    Source: batch-hard triplets, Hermans et al. 2017 (arXiv 1703.07737, eq. 5); modality-aware terms and their weights,
    MATHM (arXiv 2112.07966).

    Args:
        terms: any of "within", "hybrid", "cross".
        margin: distance units of the (normalised) embeddings.
        normalize: L2-normalise the embeddings first (in float32 for half-precision input).
        beta: sharpness of the softplus, 1 / distance unit; None for relu.
        weighting: None, "adaptive" or "released"; the last two need ``beta``.
        gather: mine among the batches of all ranks of ``torch.distributed`` (:mod:`zsml.losses.gather`): every rank returns the
            loss of the whole batch, and its rows receive the gradient of that.

    Raises:
        ValueError: unknown term or weighting, non-finite margin, beta not positive, weighting without beta.

    >>> loss = ModalityTripletLoss(terms=("cross",), margin=0.2)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> loss(x, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])).item()
    0.0
    """

    def __init__(
        self,
        terms: Sequence[str] = ("within", "hybrid", "cross"),
        margin: float = 0.2,
        normalize: bool = True,
        beta: float | None = None,
        weighting: str | None = None,
        gather: bool = False,
    ):
        super().__init__()
        self.terms = check_settings(terms, margin, beta, weighting)
        self.margin = float(margin)
        self.normalize = bool(normalize)
        self.beta = None if beta is None else float(beta)
        self.weighting = weighting
        self.gather = bool(gather)

    def forward(
        self,
        embeddings: Tensor,  # [B, D]
        labels: Tensor,  # [B]
        modality: Tensor | None = None,  # [B]
        *,
        ref_emb: Tensor | None = None,  # [M, D]
        ref_labels: Tensor | None = None,  # [M]
        ref_modality: Tensor | None = None,  # [M]
        exclude: Tensor | None = None,  # [B]
    ) -> Tensor:
        """The loss of a batch, a float32 (float64 for float64 embeddings) scalar.

        Partners come from the batch itself, or from ``ref_emb`` where given (a memory bank), of which ``exclude`` names one row
        per anchor to skip (-1: none); checks as in :func:`zsml.ops.hardest_pairs`. With ``gather`` they come from the batches, or
        the ``ref_emb``, of all ranks; some ranks may have no rows.
        """
        ranks = None
        if self.gather:
            ranks = agree(self, embeddings, labels, modality, ref_emb, ref_labels, ref_modality, exclude)
        else:
            batch(embeddings)
            check_refs(embeddings, modality, ref_emb, ref_labels, ref_modality, exclude, names=("embeddings", "ref_emb"))
        if ranks is None and all(given is None for given in (ref_emb, ref_labels, ref_modality, exclude)):
            return loss_of_batch(embeddings, labels, modality, self.terms, self.margin, self.beta, self.weighting, self.normalize)
        if self.normalize:
            embeddings = unit_rows(embeddings)
            ref_emb = None if ref_emb is None else unit_rows(ref_emb)
        refs = (ref_emb, ref_labels, ref_modality, exclude)
        if ranks is not None:
            refs = gather_candidates(ranks, embeddings, labels, modality, *refs)
        positive, negative = zip(*(TERMS[term] for term in self.terms), strict=True)
        # A missing partner is -inf as a positive, +inf as a negative: the violation is -inf, and phi and its slope are 0.
        distance = _hardest(embeddings, labels, modality, *refs)  # [4, B]
        violation = distance[list(positive)] - distance[list(negative)] + self.margin  # [T, B]
        per_term = _mean(self._phi(violation), ranks)  # [T]
        if self.weighting is None:
            return per_term.mean()
        hardness = _mean(torch.sigmoid(self.beta * violation), ranks)  # [T]
        weight = hardness.mean() / hardness.clamp(min=0.1)  # [T]
        if self.weighting == "released":
            return weight.sum() * per_term.mean()
        return (weight.detach() * per_term).sum()

    def _phi(self, violation: Tensor) -> Tensor:
        return F.relu(violation) if self.beta is None else F.softplus(violation, beta=self.beta)

    def extra_repr(self) -> str:
        return described(self, "terms", "margin", "normalize", "beta", "weighting", "gather")


class MATHMLoss(ModalityTripletLoss):
    r"""Modality-aware triplet hard mining: all three terms, softplus, weighted by how hard each term still is.

    :class:`ModalityTripletLoss` with ``terms=("within", "hybrid", "cross")``; for ``weighting="adaptive"``
    :math:`L = \sum_t w_t L_t`, :math:`w_t = \overline{g} / \max(g_t, 0.1)`, weights detached.

    Source: Huang et al., MATHM (arXiv 2112.07966); ``weighting="released"`` is what the published code computes.

    >>> loss = MATHMLoss()
    >>> x = torch.nn.functional.normalize(torch.randn(8, 16), dim=1).requires_grad_()
    >>> value = loss(x, torch.tensor([0, 0, 1, 1] * 2), torch.tensor([0] * 4 + [1] * 4))
    >>> value.backward(); x.grad.shape
    torch.Size([8, 16])
    """

    def __init__(
        self,
        margin: float = 0.2,
        beta: float = 20.0,
        normalize: bool = True,
        weighting: str | None = "adaptive",
        gather: bool = False,
    ):
        super().__init__(tuple(TERMS), margin=margin, normalize=normalize, beta=beta, weighting=weighting, gather=gather)


def _hardest(
    x: Tensor,
    labels: Tensor,
    modality: Tensor | None,
    refs: Tensor | None,
    ref_labels: Tensor | None,
    ref_modality: Tensor | None,
    exclude: Tensor | None,
) -> Tensor:
    """The distances of hardest_pairs, [4, B]; B may be 0, on a rank without rows."""
    if x.shape[0] == 0:
        return no_anchors((4, 0), x, refs)
    return hardest_pairs(
        x, labels, modality, refs=refs, ref_labels=ref_labels, ref_modality=ref_modality, exclude=exclude
    ).distance


def _mean(per_anchor: Tensor, ranks: Ranks | None) -> Tensor:
    """Over the anchors, those of all ranks: [T] of [T, B]."""
    if ranks is None:
        return per_anchor.mean(dim=1)
    return global_sum(per_anchor.sum(dim=1)) / ranks.total
