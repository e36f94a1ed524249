"""Miners that plug into pytorch-metric-learning's losses, without needing that library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.losses.normalise import unit_rows
from zsml.ops import hardest_pairs
from zsml.ops._check import embeddings as check_rows
from zsml.ops._check import references as check_refs
from zsml.ops.modality_triplet import TERMS, check_terms

__all__ = ["ModalityHardMiner"]


class ModalityHardMiner(nn.Module):
    """Batch-hard triplets within and across modalities, as index tensors (anchor, positive, negative).

    For each term, every anchor that has both partners gives one triplet of its farthest positive and nearest negative,

    * ``within``: same-modality positive, same-modality negative,
    * ``hybrid``: cross-modality positive, same-modality negative,
    * ``cross``: cross-modality positive, cross-modality negative,

    by Euclidean distance; term after term, anchors ascending within each. Called as that library calls its miners, so
    ``TripletMarginLoss()(embeddings, labels, miner(embeddings, labels))`` works, with one modality as with its
    ``BatchHardMiner`` but without a B x B matrix in the miner. No gradient flows through the choice.

    How many triplets there are depends on the labels, so the result cannot have a fixed length: on a GPU the call waits for the
    device, and neither a CUDA graph nor a compiled full graph can hold it. :class:`zsml.losses.ModalityTripletLoss` can, and
    never forms the distances that such a loss computes for all pairs.

    Source: batch-hard triplets, Hermans et al. 2017 (arXiv 1703.07737); modality-aware terms, MATHM (arXiv 2112.07966).

    Args:
        terms: one or more of "within", "hybrid", "cross".
        normalize: L2-normalise the embeddings first, as that library's default distance does; pass False with a loss whose
            distance does not.

    Attributes:
        num_triplets: triplets that the last call returned.

    Raises:
        InputError: unknown, repeated or no terms.

    >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    >>> miner = ModalityHardMiner(terms="within")
    >>> miner(x, torch.tensor([0, 0, 1, 2]))
    (tensor([0, 1]), tensor([1, 0]), tensor([3, 3]))
    """

    def __init__(self, terms: Sequence[str] = ("within", "hybrid", "cross"), normalize: bool = True):
        super().__init__()
        self.terms = check_terms(terms)
        self.normalize = bool(normalize)
        self.num_triplets = 0

    @torch.no_grad()
    def forward(
        self,
        embeddings: Tensor,  # [B, D]
        labels: Tensor,  # [B]
        ref_emb: Tensor | None = None,  # [M, D]
        ref_labels: Tensor | None = None,  # [M]
        *,
        modality: Tensor | None = None,  # [B]
        ref_modality: Tensor | None = None,  # [M]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mine a batch, or the partners of a batch among references.

        Args:
            embeddings: [B, D] floating point.
            labels: [B] int64 class ids.
            ref_emb: [M, D]; positives and negatives are then rows of it, and none of them is taken for the anchor itself.
            ref_labels: [M] int64, with ``ref_emb``.
            modality: [B] int64; None means one modality, so that only "within" finds triplets.
            ref_modality: [M] int64, given exactly when ``ref_emb`` and ``modality`` are.

        Returns:
            anchor, positive, negative: int64 [T] each, on the device of the embeddings; rows of ``embeddings``, and of
            ``ref_emb`` (or of ``embeddings`` again). T is 0 where no anchor has both partners.

        Raises:
            ValueError, TypeError: as :func:`zsml.ops.hardest_pairs`.
        """
        check_rows(embeddings, "embeddings")
        if embeddings.shape[0] == 0:
            raise InputError(f"embeddings must have shape [B, D] with B >= 1, got {list(embeddings.shape)}")
        if isinstance(ref_emb, Tensor) and ref_emb.dtype == torch.int64 and ref_emb.dim() == 1:
            raise TypeError("ref_emb must be floating-point rows [M, D], got int64 ids; if they are modalities, pass modality=")
        check_refs(embeddings, modality, ref_emb, ref_labels, ref_modality, None, names=("embeddings", "ref_emb"))
        # detach: torch would otherwise carry a forward-mode tangent along, which the choice has none of.
        x, refs = embeddings.detach(), None if ref_emb is None else ref_emb.detach()
        if self.normalize:
            x, refs = unit_rows(x), None if refs is None else unit_rows(refs)
        _, index = hardest_pairs(x, labels, modality, refs=refs, ref_labels=ref_labels, ref_modality=ref_modality)  # [4, B]
        roles = torch.tensor([TERMS[term] for term in self.terms], device=index.device)  # [T, 2]
        positive, negative = index[roles[:, 0]], index[roles[:, 1]]  # [T, B]
        term, anchor = ((positive >= 0) & (negative >= 0)).nonzero(as_tuple=True)
        self.num_triplets = len(anchor)
        return anchor, positive[term, anchor], negative[term, anchor]

    def extra_repr(self) -> str:
        return f"terms={self.terms!r}, normalize={self.normalize!r}"
