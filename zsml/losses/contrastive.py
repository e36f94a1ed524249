"""Contrastive losses over all pairs of a batch, kept to one modality or across: a streaming softmax in one fused op."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zsml.ops import _check
from zsml.ops.supcon import PAIRS, supcon

from ._settings import batch, described
from .gather import agree, gather_candidates, global_sum, no_anchors
from .normalise import unit_rows


class _Contrastive(nn.Module):
    """What the losses share: the settings, and the sums over anchors of zsml.ops.supcon."""

    per_pair: bool

    def __init__(self, temperature: float = 0.07, pairs: str = "all", normalize: bool = True, gather: bool = False):
        super().__init__()
        _check.positive(temperature, "temperature")
        _check.choice(pairs, "pairs", PAIRS)
        self.temperature = float(temperature)
        self.pairs = pairs
        self.normalize = bool(normalize)
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

        Candidates come from the batch itself, or from ``ref_emb`` where given (a memory bank), of which ``exclude`` names one
        row per anchor to skip (-1: none); checks as in :func:`zsml.ops.supcon`. With ``gather`` they come from the batches, or
        the ``ref_emb``, of all ranks; some ranks may have no rows.
        """
        ranks = None
        if self.gather:
            ranks = agree(self, embeddings, labels, modality, ref_emb, ref_labels, ref_modality, exclude)
        else:
            batch(embeddings)
            _check.references(embeddings, modality, ref_emb, ref_labels, ref_modality, exclude, names=("embeddings", "ref_emb"))
        if self.normalize:
            embeddings = unit_rows(embeddings)
            ref_emb = None if ref_emb is None else unit_rows(ref_emb)
        refs = (ref_emb, ref_labels, ref_modality, exclude)
        if ranks is not None:
            refs = gather_candidates(ranks, embeddings, labels, modality, *refs)
        loss, positives = self._per_anchor(embeddings, labels, modality, *refs)  # [B]
        total, terms = loss.sum(), (positives if self.per_pair else positives > 0).sum()  # how many terms the sum has
        if ranks is not None:
            total, terms = global_sum(total), global_sum(terms)
        return total / terms.clamp(min=1)

    def _per_anchor(
        self,
        x: Tensor,
        labels: Tensor,
        modality: Tensor | None,
        refs: Tensor | None,
        ref_labels: Tensor | None,
        ref_modality: Tensor | None,
        exclude: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """(loss [B], positives [B]); B may be 0, on a rank without rows."""
        if x.shape[0] == 0:
            return no_anchors((0,), x, refs), torch.zeros_like(labels)
        return supcon(
            x,
            labels,
            modality,
            temperature=self.temperature,
            pairs=self.pairs,
            per_pair=self.per_pair,
            refs=refs,
            ref_labels=ref_labels,
            ref_modality=ref_modality,
            exclude=exclude,
        )

    def extra_repr(self) -> str:
        return described(self, "temperature", "pairs", "normalize", "gather")


class SupConLoss(_Contrastive):
    r"""Supervised contrastive loss: every other sample of the class is a positive, all other samples compete with it.

    With :math:`s_{ij} = \langle x_i, x_j \rangle / \tau`, the other samples A(i) of anchor i, and P(i) those of its class,

    .. math:: L = \frac{1}{|\{i : P(i) \ne \emptyset\}|} \sum_{i : P(i) \ne \emptyset}
                  \Big( \log \sum_{a \in A(i)} e^{s_{ia}} - \frac{1}{|P(i)|} \sum_{p \in P(i)} s_{ip} \Big)

    An anchor without a positive is left out of the mean; without any the loss is 0, with zero gradient. ``pairs`` keeps A(i)
    to the anchor's own modality ("within") or to the others ("cross": sketches against photos and photos against sketches).

    Source: Khosla et al. 2020 (arXiv 2004.11362), eq. 2, "out".

    Args:
        temperature: :math:`\tau`, in units of the inner product.
        pairs: "all", "within" or "cross".
        normalize: L2-normalise the embeddings first (in float32 for half-precision input): s are cosines over temperature.
        gather: candidates are the batches of all ranks of ``torch.distributed`` (:mod:`zsml.losses.gather`): every rank returns
            the loss of the whole batch, and its rows receive the gradient of that.

    Raises:
        ValueError: temperature not a positive number, unknown ``pairs``.

    >>> loss = SupConLoss(temperature=1.0, pairs="cross")
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    >>> round(loss(x, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])).item(), 4)
    0.3133
    """

    per_pair = False


class NTXentLoss(_Contrastive):
    r"""Normalised-temperature cross-entropy: each positive pair by itself against the anchor's negatives.

    With :math:`s_{ij} = \langle x_i, x_j \rangle / \tau`, over all pairs of an anchor i and a positive p (same class), N(i) the
    samples of other classes,

    .. math:: L = \frac{1}{\sum_i |P(i)|} \sum_i \sum_{p \in P(i)}
                  -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n \in N(i)} e^{s_{in}}}

    Unlike :class:`SupConLoss`, positives do not compete with each other. Without any positive pair the loss is 0, with zero
    gradient. ``pairs`` keeps positives and negatives to the anchor's own modality ("within") or to the others ("cross").

    Source: SimCLR (arXiv 2002.05709), eq. 1, with several positives as in pytorch-metric-learning's loss of this name.

    Args:
        temperature: :math:`\tau`, in units of the inner product.
        pairs: "all", "within" or "cross".
        normalize: L2-normalise the embeddings first (in float32 for half-precision input): s are cosines over temperature.
        gather: candidates are the batches of all ranks of ``torch.distributed`` (:mod:`zsml.losses.gather`): every rank returns
            the loss of the whole batch, and its rows receive the gradient of that.

    Raises:
        ValueError: temperature not a positive number, unknown ``pairs``.

    >>> loss = NTXentLoss(temperature=1.0)
    >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> round(loss(x, torch.tensor([0, 0, 1])).item(), 4)
    0.3133
    """

    per_pair = True
