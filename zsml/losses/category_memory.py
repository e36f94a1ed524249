"""A memory of sketches by class, which photos of the class are drawn to: beyond the sketches that are in the batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.ops import _check

from ._settings import batch, described, in_inference_mode, whole
from .gather import Ranks, agree, gather_ids, gather_rows, global_sum
from .normalise import unit_rows

SKETCH = 0


class Stored(NamedTuple):
    """What is remembered of the class of each row."""

    rows: Tensor  # [B, size, D], 0 where there is none
    count: Tensor  # [B]: how many there are, the first ones


class MemoryLoss(nn.Module):
    r"""Category-specific memory: each photo against the mean of the sketches remembered of its class.

    With the remembered sketches :math:`m_{c1}, \dots, m_{c n_c}` of class c, at most ``size`` of them, and P the photos whose
    class has one,

    .. math:: L = \frac{1}{|P|} \sum_{i \in P} 1 - \cos\Big( x_i, \frac{1}{n_{y_i}} \sum_k m_{y_i k} \Big)

    and 0 if P is empty. The memory is constant: gradients flow into photos alone. There are no negatives.

    In training mode, save under ``torch.inference_mode()`` (which compiled code cannot see: use eval mode there), the memory
    first takes the sketches of the batch, ``modality`` 0, so that they count already. A class that is not full takes each in
    turn. One that is full compares with the mean photo q of the class in this batch, and a sketch takes the place of the
    remembered one with the lowest cosine to q if its own is higher; without such a photo the class stays as it is. So of the
    old and the new sketches those most similar to q are kept, and an older one where two are equal. Empty it with ``reset()``
    at the start of every epoch: nothing else forgets.

    The memory, ``bank`` [num_classes, size, D] and ``filled`` [num_classes], is part of ``state_dict()``; D is that of the
    first batch. Rows with a NaN or infinite coordinate are not remembered. It works on [B, size + B] cosines and [B, size, D]
    rows: for batches of hundreds. Do not run it under ``torch.utils.checkpoint``, as :class:`CrossBatchMemory`.

    Source: Wang et al., Domain-Smoothing Network (DSN), IJCAI 2021 (arXiv 2106.11841). The published code computes
    the value from detached photos, so that it trains nothing: ``gradient=False``. It also writes the sketch that replaces
    another into a wrong class, which is not reproduced.

    Args:
        num_classes: C. Labels are 0 to C - 1.
        size: sketches to remember of each class.
        gradient: whether the loss trains the photos; False: its value is a constant, for the log.
        gather: the batches of all ranks of ``torch.distributed`` are one (:mod:`zsml.losses.gather`): every rank remembers the
            sketches of all, returns the loss of the whole batch, and its rows receive the gradient of that.

    Raises:
        ValueError: a setting that is not such a number.

    >>> loss = MemoryLoss(num_classes=2, size=3)
    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 2.0]], requires_grad=True)
    >>> labels, modality = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])  # two sketches and two photos
    >>> value = loss(features, labels, modality)
    >>> round(value.item(), 4), loss.filled.tolist()  # 1 - cos 45 deg; the photo of class 1 has no sketch to go to
    (0.2929, [2, 0])
    """

    bank: Tensor  # [C, size, D]; [C, size, 0] before the first batch
    filled: Tensor  # [C] int64: how many of a class are remembered

    def __init__(self, num_classes: int, size: int = 10, gradient: bool = True, gather: bool = False):
        super().__init__()
        self.num_classes = whole(num_classes, "num_classes", 1)
        self.size = whole(size, "size", 1)
        self.gradient = bool(gradient)
        self.gather = bool(gather)
        self.register_buffer("bank", torch.empty(self.num_classes, self.size, 0))
        self.register_buffer("filled", torch.zeros(self.num_classes, dtype=torch.int64))

    def reset(self) -> None:
        """Forget every sketch."""
        self.bank.zero_()
        self.filled.zero_()

    def forward(
        self,
        embeddings: Tensor,  # [B, D]
        labels: Tensor,  # [B], 0 to num_classes - 1
        modality: Tensor | None = None,  # [B]: 0 is a sketch, any other a photo; needed
    ) -> Tensor:
        """The loss of a batch, a float32 (float64 for float64 embeddings) scalar.

        On CUDA a label out of range cannot be told without waiting for the device: such a sketch is not remembered, and for such
        a photo the loss is NaN. With ``gather`` some ranks may have no rows.

        Raises:
            ValueError: wrong rank, width, length or device, empty batch, label out of range (CPU), no modality.
            TypeError: not a tensor, embeddings not floating point, labels or modality not int64.
        """
        ranks = None
        if self.gather:
            ranks = agree(self, embeddings, labels, modality, check=lambda: self._check(embeddings, labels, modality))
        else:
            batch(embeddings)
            _check.ids(labels, "labels", embeddings)
            self._check(embeddings, labels, modality)
        stored = self._remembered(embeddings.detach(), labels, modality, ranks)
        x = embeddings if self.gradient else embeddings.detach()
        mean = stored.rows.sum(dim=1) / stored.count.clamp(min=1)[:, None]  # [B, D]
        term = 1 - (unit_rows(x) * unit_rows(mean)).sum(dim=1)  # [B]
        known = self._known(labels)
        counted = (modality != SKETCH) & ((stored.count > 0) | ~known)
        term = torch.where(known, term, torch.nan)
        total = torch.stack([torch.where(counted, term, 0).sum(), counted.sum().to(term.dtype)])
        if ranks is not None:
            total = global_sum(total)
        return total[0] / total[1].clamp(min=1)

    def _remembered(self, x: Tensor, labels: Tensor, modality: Tensor, ranks: Ranks | None) -> Stored:
        """What the rows of this rank are compared with, after the memory took what it wants."""
        learns = self.training and not in_inference_mode()
        if not learns and self.bank.shape[2] == 0:
            return Stored(x.new_zeros(len(x), self.size, x.shape[1]), torch.zeros_like(labels))
        if not learns:
            return self._stored(self._place(labels))
        own = slice(None)
        if ranks is not None:
            x = gather_rows(x, ranks.rows)
            labels, modality = gather_ids(torch.stack([labels, modality], dim=1), ranks.rows).unbind(1)
            own = slice(sum(ranks.rows[: ranks.rank]), sum(ranks.rows[: ranks.rank + 1]))
        self._make_room(x)
        place = self._place(labels)
        usable = self._known(labels) & x.isfinite().all(dim=1)
        x = torch.where(usable[:, None], x, 0).to(self.bank.dtype)
        stored = self._chosen(x, place, usable & (modality == SKETCH), usable & (modality != SKETCH))
        self.bank.index_put_((place,), stored.rows)  # rows of one class are the same to the bit: any may be the last
        self.filled.index_put_((place,), stored.count)
        return Stored(stored.rows[own], stored.count[own])

    def _chosen(
        self,
        x: Tensor,  # [B, D]
        place: Tensor,  # [B]: the class
        sketch: Tensor,  # [B] bool: to remember
        photo: Tensor,  # [B] bool: to choose by
    ) -> Stored:
        """Of each row's class the old and the new sketches that are kept, most similar to the mean photo first."""
        old, same = self._stored(place), place[:, None] == place  # [B, B]
        query = _class_means(x, same & photo)  # [B, D]; 0 where there is no photo, and then all cosines are 0
        of_old = (unit_rows(old.rows.flatten(0, 1)).view_as(old.rows) * query[:, None]).sum(dim=2)  # [B, size]
        of_old = torch.where(self._slots(old.count), of_old, -torch.inf)
        of_new = (unit_rows(x) * query).sum(dim=1)  # [B]
        of_new = torch.where(same & sketch, of_new, -torch.inf)  # [B, B]
        # Stable: among equals the older stay in front, and without a photo they stay altogether.
        wanted = torch.cat([of_old, of_new], dim=1).sort(dim=1, descending=True, stable=True).indices[:, : self.size]
        wanted = wanted[same.int().argmax(dim=1)]  # as the first row of the class has it, whatever rounding did to the others
        rows = torch.where(
            (wanted < self.size)[:, :, None],
            old.rows.take_along_dim(wanted.clamp(max=self.size - 1)[:, :, None], dim=1),
            x[(wanted - self.size).clamp(min=0)],
        )
        count = (old.count + (same & sketch).sum(dim=1)).clamp(max=self.size)
        return Stored(torch.where(self._slots(count)[:, :, None], rows, 0), count)

    def _stored(self, place: Tensor) -> Stored:
        return Stored(self.bank[place], self.filled[place])

    def _slots(self, count: Tensor) -> Tensor:
        """Which of the places of a class are taken, [B, size]."""
        return torch.arange(self.size, device=count.device) < count[:, None]

    def _known(self, labels: Tensor) -> Tensor:
        return (labels >= 0) & (labels < self.num_classes)

    def _place(self, labels: Tensor) -> Tensor:
        return torch.where(self._known(labels), labels, 0)

    def _make_room(self, x: Tensor) -> None:
        """The bank in the width of the rows, on their device, in the widest dtype that came."""
        if self.bank.shape[2] == 0:
            self.bank = x.new_zeros(self.num_classes, self.size, x.shape[1])
            self.filled = self.filled.to(x.device)
        dtype = torch.promote_types(torch.promote_types(self.bank.dtype, x.dtype), torch.float32)
        if dtype != self.bank.dtype:
            self.bank = self.bank.to(dtype)

    def _check(self, embeddings: Tensor, labels: Tensor, modality: Tensor | None) -> None:
        if modality is None:
            raise InputError(f"modality is missing: the memory takes sketches ({SKETCH}) and compares photos with them; got None")
        _check.ids(modality, "modality", embeddings)
        # Reading values would stall a GPU and break a compiled graph.
        if labels.device.type == "cpu" and not torch.compiler.is_compiling() and labels.numel():
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.num_classes:
                raise InputError(f"labels must lie in 0 to {self.num_classes - 1}, got {low} to {high}")
        width = self.bank.shape[2]
        if width not in (0, embeddings.shape[1]):
            raise InputError(f"embeddings must have the width of the memory, {width}, got {list(embeddings.shape)}")
        if width and self.bank.device != embeddings.device:
            raise InputError(f"embeddings are on {embeddings.device}, the memory is on {self.bank.device}; move it there")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        bank = state_dict.get(prefix + "bank")
        if bank is not None and bank.ndim == 3 and bank.shape[:2] == self.bank.shape[:2]:  # its width is known from now on
            self.bank = torch.empty(bank.shape, dtype=bank.dtype, device=self.bank.device)
        super()._load_from_state_dict(state_dict, prefix, *more)

    def extra_repr(self) -> str:
        return described(self, "num_classes", "size", "gradient", "gather")


def _class_means(
    x: Tensor,  # [B, D], finite
    counted: Tensor,  # [B, B] bool: the rows of x that row i averages over
) -> Tensor:
    """[B, D]; 0 where none is counted. A product, not a scatter: the same bits on every rank."""
    with torch.autocast(x.device.type, enabled=False):  # which would round the rows
        return counted.to(x.dtype) @ x / counted.sum(dim=1).clamp(min=1)[:, None]
