"""A memory bank: partners from the last batches as well as from this one."""

from __future__ import annotations

import inspect
import numbers
from typing import Any

import torch
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.ops import _check

from ._settings import in_inference_mode
from .gather import refuse

MINING = ("ref_emb", "ref_labels", "ref_modality", "exclude")  # what a loss that takes references takes


class CrossBatchMemory(nn.Module):
    r"""A loss whose partners are the batch and the newest ``size`` rows of earlier batches.

    With the batch :math:`x` (live: gradients flow into it as anchor and as partner) and the memory :math:`m` (detached rows, as
    they were when their batch came),

    .. math:: L = \text{loss}(x;\ \text{candidates } [x, m])

    where no anchor is its own partner. In training mode the batch then takes the place of the oldest rows; in eval mode and
    under ``torch.inference_mode()`` (which compiled code cannot see: use eval mode there) the memory stays as it is. Of a batch
    larger than ``size`` the last ``size`` rows are kept.

    The memory is part of ``state_dict()``. It has the widest dtype that came, and its shape is fixed from the first batch on:
    an empty place holds NaN, which no loss takes as a candidate. With ``gather=True`` in the loss every rank keeps the
    rows of its own batches, and the candidates are the batches and memories of all ranks.

    Do not run it under ``torch.utils.checkpoint``: the second run would meet a memory that the first has changed, and give
    wrong gradients. Checkpoint the network, and call the loss outside.

    Source: Wang et al., Cross-Batch Memory for Embedding Learning (XBM), CVPR 2020.

    Args:
        loss: one that mines or contrasts the rows of a batch, and so can take references: ModalityTripletLoss, MATHMLoss,
            SupConLoss, NTXentLoss.
        size: rows to remember.

    Raises:
        InputError: a loss that takes no references (those with class centres), or a size below 1.

    >>> from zsml.losses import ModalityTripletLoss
    >>> criterion = CrossBatchMemory(ModalityTripletLoss(terms=("within",)), size=1024)
    >>> x = torch.randn(8, 16, requires_grad=True)
    >>> criterion(x, torch.arange(8) // 2).backward(); int(criterion.rows.isfinite().all(dim=1).sum())
    8
    """

    rows: Tensor  # [size, D]; [size, 0] before the first batch
    labels: Tensor  # [size]
    modality: Tensor  # [size]
    next: Tensor  # int64 scalar: the place the next row goes to

    def __init__(self, loss: nn.Module, size: int):
        super().__init__()
        taken = inspect.signature(loss.forward).parameters if isinstance(loss, nn.Module) else {}
        if not all(name in taken for name in MINING):
            raise InputError(
                "loss must be one that can take references (ref_emb), as ModalityTripletLoss, MATHMLoss, SupConLoss and "
                f"NTXentLoss do; {type(loss).__name__} compares with nothing that a memory could hold"
            )
        if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1:
            raise InputError(f"size must be a whole number of rows, 1 or more, got {size!r}")
        self.loss = loss
        self.size = int(size)
        self.register_buffer("rows", torch.empty(self.size, 0))
        self.register_buffer("labels", torch.zeros(self.size, dtype=torch.int64))
        self.register_buffer("modality", torch.zeros(self.size, dtype=torch.int64))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def reset(self) -> None:
        """Forget everything, the width of the rows too."""
        self.rows = self.rows.new_empty(self.size, 0)
        self.next.zero_()

    def forward(
        self,
        embeddings: Tensor,  # [B, D]
        labels: Tensor,  # [B]
        modality: Tensor | None = None,  # [B]; None: all of modality 0
    ) -> Tensor:
        """The loss of the batch, a scalar."""
        try:
            self._check(embeddings, labels, modality)
        except (TypeError, ValueError) as error:
            if getattr(self.loss, "gather", False):
                refuse(error)
            raise
        if modality is None:
            modality = torch.zeros_like(labels)
        learns = self.training and not in_inference_mode()
        rows, row_labels, row_modality = self.rows, self.labels, self.modality
        if rows.shape[1] == 0:
            rows = embeddings.detach().new_full((self.size, embeddings.shape[1]), torch.nan)
            row_labels, row_modality = row_labels.to(labels.device), row_modality.to(labels.device)
            if learns:
                self.rows, self.labels, self.modality = rows, row_labels, row_modality
                self.next = self.next.to(labels.device)
        value = self.loss(
            embeddings,
            labels,
            modality,
            ref_emb=torch.cat([embeddings, rows]),
            ref_labels=torch.cat([labels, row_labels]),
            ref_modality=torch.cat([modality, row_modality]),
            exclude=torch.arange(embeddings.shape[0], device=embeddings.device),  # the batch comes first
        )
        if learns:
            self._remember(embeddings.detach(), labels, modality)
        return value

    def _remember(self, embeddings: Tensor, labels: Tensor, modality: Tensor) -> None:
        kept = min(self.size, embeddings.shape[0])
        places = (self.next + torch.arange(kept, device=self.next.device)) % self.size
        last = slice(embeddings.shape[0] - kept, None)
        dtype = torch.promote_types(self.rows.dtype, embeddings.dtype)
        if dtype != self.rows.dtype:  # else a first batch in half precision would round all later ones
            self.rows = self.rows.to(dtype)
        self.rows.index_copy_(0, places, embeddings[last].to(dtype))
        self.labels.index_copy_(0, places, labels[last])
        self.modality.index_copy_(0, places, modality[last])
        self.next.copy_((self.next + kept) % self.size)

    def _check(self, embeddings: Tensor, labels: Tensor, modality: Tensor | None) -> None:
        _check.embeddings(embeddings, "embeddings")
        _check.ids(labels, "labels", embeddings)
        if modality is not None:
            _check.ids(modality, "modality", embeddings)
        width = self.rows.shape[1]
        if width not in (0, embeddings.shape[1]):
            raise InputError(
                f"embeddings must have the width of the memory, {width}, got {list(embeddings.shape)}; or reset() it"
            )
        if width and self.rows.device != embeddings.device:
            raise InputError(f"embeddings are on {embeddings.device}, the memory is on {self.rows.device}; move it there")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        rows = state_dict.get(prefix + "rows")
        if rows is not None and rows.ndim == 2 and rows.shape[0] == self.size:  # its width is known from now on
            self.rows = torch.empty(rows.shape, dtype=rows.dtype, device=self.rows.device)
        super()._load_from_state_dict(state_dict, prefix, *more)

    def extra_repr(self) -> str:
        return f"size={self.size}"
