"""What the losses over learnable class centres share: the centres, the annealing of the margin, the mean over the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.ops import _check, margin_softmax

from ._settings import batch, described, in_inference_mode, whole
from .gather import agree, global_sum, no_anchors
from .normalise import unit_rows


class CentersLoss(nn.Module):
    """A softmax over centres; a loss says what is measured (``rows``, ``measure``) and the ``target_logit`` of it."""

    measure = "inner"
    scale = 1.0
    settings: tuple[str, ...] = ("num_classes", "embedding_dim", "margin", "annealing_steps", "gather")

    def __init__(self, num_classes: int, embedding_dim: int, margin: float, annealing_steps: int, gather: bool):
        super().__init__()
        self.num_classes = whole(num_classes, "num_classes", 1)
        self.embedding_dim = whole(embedding_dim, "embedding_dim", 1)
        self.margin = margin
        self.annealing_steps = whole(annealing_steps, "annealing_steps", 0)
        self.gather = bool(gather)
        self.centers = nn.Parameter(torch.empty(self.num_classes, self.embedding_dim))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # training forwards so far
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Centres in random directions, of length 1; step 0."""
        with torch.no_grad():
            self.centers.copy_(unit_rows(torch.randn_like(self.centers)))
            self.step.zero_()

    def forward(
        self,
        embeddings: Tensor,  # [B, D]
        labels: Tensor,  # [B], 0 to num_classes - 1
        modality: Tensor | None = None,  # not used: centres are shared by all modalities
    ) -> Tensor:
        """The mean loss of a batch, a float32 (float64 for float64 embeddings or centres) scalar.

        In training mode, save under ``torch.inference_mode()`` (which compiled code cannot see: use eval mode there), it counts
        as one step of the margin's annealing. Checks as in :func:`zsml.ops.margin_softmax`.
        """
        ranks = None
        if self.gather:  # some ranks may have no rows
            ranks = agree(self, embeddings, labels, check=lambda: self._check(embeddings, labels))
        else:
            batch(embeddings)
            self._check(embeddings)
        x, centers = self.rows(embeddings)
        if x.shape[0]:
            others, target = margin_softmax(x, centers, labels, measure=self.measure, scale=self.scale)
        else:
            others = target = no_anchors((0,), x, centers)
        violation = others - self.target_logit(target, embeddings, self._annealed())  # [B]
        loss = F.softplus(violation, threshold=40)  # beyond it log(1 + e^v) is v in float64 as well
        return loss.mean() if ranks is None else global_sum(loss.sum()) / ranks.total

    def rows(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """What is measured: embeddings [B, D] and centres [C, D]."""
        return embeddings, self.centers

    def target_logit(self, target: Tensor, embeddings: Tensor, part: Tensor | float) -> Tensor:
        """z [B] of what was measured, with this part (0 to 1) of the margin."""
        raise NotImplementedError

    def _annealed(self) -> Tensor | float:
        """The part of the margin that counts now; the first training step has none of it."""
        part = (self.step.double() / self.annealing_steps).clamp(0, 1) if self.annealing_steps else 1.0
        if not self.training or in_inference_mode():
            return part
        if torch.compiler.is_compiling():
            self.step = self.step + 1  # in place, a compiled backward would work the part out from the next step
        else:
            self.step += 1
        return part

    def _check(self, embeddings: Tensor, labels: Tensor | None = None) -> None:
        if embeddings.shape[1] != self.embedding_dim:
            raise InputError(f"embeddings must have shape [B, {self.embedding_dim}], got {list(embeddings.shape)}")
        if embeddings.device != self.centers.device:
            raise InputError(f"embeddings are on {embeddings.device}, the centers of the loss on {self.centers.device}; move it")
        if labels is not None:
            _check.classes(labels, self.num_classes)

    def extra_repr(self) -> str:
        return described(self, *self.settings)
