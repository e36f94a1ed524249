"""Distillation: a student is kept close to what a teacher says of the same images, raised where a class is known to belong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.ops import _check

from ._settings import between, described
from .gather import agree, global_sum


class DistillationLoss(nn.Module):
    r"""Cross-entropy of a student against a teacher whose logits got a bonus for related classes.

    With the student's logits s and the teacher's t of the same image, [B, K], the affinity a of the image's class to each of the
    K classes, [B, K] from 0 (unrelated) to 1 (the same), and the rows M of ``mask``,

    .. math:: L = \frac{1}{|M|} \sum_{i \in M} \sum_k -u_{ik} \log \mathrm{softmax}(s_i)_k, \qquad
              u_i = \mathrm{softmax}\big( t_i / T + \lambda a_i \big)

    The bonus multiplies the odds of a class by :math:`e^{\lambda a}` and lowers none by itself. Rows out of the mask have no
    part in the value, and gradients of exactly 0, whatever they hold; if there is no row left, the loss is 0. The student's
    logits have no temperature, and there is no factor :math:`T^2`. The teacher's logits receive a gradient where they want one:
    detach them to hold the teacher constant.

    Source: Liu et al., SAKE, ICCV 2019 (arXiv 1904.03208).

    Args:
        temperature: T, positive.
        bonus: :math:`\lambda`, in units of a logit, at least 0.
        gather: the batches of all ranks of ``torch.distributed`` are one (:mod:`zsml.losses.gather`): every rank returns the loss
            of the whole batch, and its rows receive the gradient of that.

    Raises:
        ValueError: a setting that is not such a number.

    >>> loss = DistillationLoss()
    >>> student = torch.tensor([[1.0, 0.0], [0.0, 5.0]], requires_grad=True)
    >>> teacher, affinity = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> value = loss(student, teacher, affinity, mask=torch.tensor([True, False]))
    >>> round(value.item(), 4)  # 0.3133 + 1 / (1 + e^0.3)
    0.7388
    >>> value.backward(); student.grad[1].tolist()
    [0.0, 0.0]
    """

    def __init__(self, temperature: float = 1.0, bonus: float = 0.3, gather: bool = False):
        super().__init__()
        _check.positive(temperature, "temperature")
        self.temperature = float(temperature)
        self.bonus = between(bonus, "bonus", 0)
        self.gather = bool(gather)

    def forward(
        self,
        student_logits: Tensor,  # [B, K]
        teacher_logits: Tensor,  # [B, K]
        affinity: Tensor | None = None,  # [B, K]; None: of no class to any
        mask: Tensor | None = None,  # [B], bool or 0 and 1; None: every row counts
    ) -> Tensor:
        """The mean over the rows of the mask, a float32 (float64 where a logit is) scalar.

        Half precision is computed in float32. With ``gather`` some ranks may have no rows.

        Raises:
            ValueError: wrong rank, width, length or device, empty batch, a mask that holds more than 0 and 1 (CPU).
            TypeError: not a tensor, logits or affinity not floating point.
        """
        if self.gather:
            agree(
                self,
                student_logits,
                check=lambda: self._check(student_logits, teacher_logits, affinity, mask),
                name="student_logits",
            )
        else:
            self._check(student_logits, teacher_logits, affinity, mask)
            if student_logits.shape[0] == 0:
                raise InputError(f"student_logits must have shape [B, K] with B >= 1, got {list(student_logits.shape)}")
        dtype = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_logits.dtype), torch.float32)
        counted = student_logits.new_ones(len(student_logits), dtype=torch.bool) if mask is None else mask.bool()
        student = torch.where(counted[:, None], student_logits.to(dtype), 0)  # no NaN of a row left out comes back as 0 * NaN
        teacher = torch.where(counted[:, None], teacher_logits.to(dtype), 0) / self.temperature
        if affinity is not None:
            teacher = teacher + self.bonus * torch.where(counted[:, None], affinity.to(dtype), 0)
        loss = -(teacher.softmax(dim=1) * student.log_softmax(dim=1)).sum(dim=1)  # [B]
        total = torch.stack([torch.where(counted, loss, 0).sum(), counted.sum().to(dtype)])
        if self.gather:
            total = global_sum(total)
        return total[0] / total[1].clamp(min=1)

    def _check(self, student: Tensor, teacher: Tensor, affinity: Tensor | None, mask: Tensor | None) -> None:
        _check.embeddings(student, "student_logits")
        for name, other in (("teacher_logits", teacher), ("affinity", affinity)):
            if name == "affinity" and other is None:
                continue
            _check.embeddings(other, name)
            if other.shape != student.shape:
                raise InputError(f"{name} must have the shape of student_logits, {list(student.shape)}, got {list(other.shape)}")
            if other.device != student.device:
                raise InputError(f"{name} is on {other.device} but student_logits is on {student.device}; move it there")
        if mask is None:
            return
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be a bool tensor [{len(student)}], got {type(mask).__name__}")
        if mask.ndim != 1 or len(mask) != len(student):
            raise InputError(f"mask must have shape [{len(student)}], one entry per row, got {list(mask.shape)}")
        if mask.device != student.device:
            raise InputError(f"mask is on {mask.device} but student_logits is on {student.device}; move it there")
        # Reading values would stall a GPU and break a compiled graph.
        if mask.dtype != torch.bool and mask.device.type == "cpu" and not torch.compiler.is_compiling():
            wrong = mask[(mask != 0) & (mask != 1)]
            if wrong.numel():
                raise InputError(f"mask must be True or False (or 1 or 0) for each row, got {wrong[0].item()}")

    def extra_repr(self) -> str:
        return described(self, "temperature", "bonus", "gather")
