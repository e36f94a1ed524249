"""DistillationLoss against its definition row by row, and what its target says in numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from zsml.errors import InputError
from zsml.losses import DistillationLoss

B, K = 14, 9


def batch(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher logits, affinities of the published values, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(2, B, K, generator=generator, dtype=torch.float64)).to(dtype)
    affinity = torch.tensor([0, 0, 0, 1 / 4, 1 / 3, 1], dtype=dtype)[torch.randint(0, 6, (B, K), generator=generator)]
    return student, teacher, affinity, torch.rand(B, generator=generator) < 0.6


class Distilled(nn.Module):
    """The loss as one of embeddings, the student's logits: the teacher and the affinities are the class's, and photos count."""

    def __init__(self, loss: DistillationLoss):
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
        k = torch.arange(embeddings.shape[1], device=labels.device)
        teacher = (labels[:, None] + 0.7 * k).to(embeddings.dtype).cos()
        return self.loss(embeddings, 3 * teacher, (k == labels[:, None]).to(embeddings.dtype), modality == 1)


def by_hand(
    student: Tensor, teacher: Tensor, affinity: Tensor, mask: Tensor, temperature: float, bonus: float
) -> tuple[float, list[list[float]]]:
    """Value and gradient, a row at a time, in Python's own numbers."""
    student = student.detach()
    value, gradient, kept = 0.0, [[0.0] * K for _ in range(len(mask))], int(mask.sum())
    for i in range(len(mask)):
        if not mask[i]:
            continue
        raised = [float(t) / temperature + bonus * float(a) for t, a in zip(teacher[i], affinity[i], strict=True)]
        u = [math.exp(r) / sum(map(math.exp, raised)) for r in raised]
        p = [math.exp(float(s)) / sum(math.exp(float(s)) for s in student[i]) for s in student[i]]
        value += sum(-u_k * math.log(p_k) for u_k, p_k in zip(u, p, strict=True)) / kept
        gradient[i] = [(p_k - u_k) / kept for u_k, p_k in zip(u, p, strict=True)]
    return value, gradient


def target(loss: DistillationLoss, teacher: Tensor, affinity: Tensor | None = None) -> Tensor:
    """u, as the gradient of one row tells it: d L / d s = softmax(s) - u."""
    student = torch.zeros_like(teacher, requires_grad=True)
    loss(student, teacher, affinity).backward()
    return student.softmax(dim=1).detach() - student.grad


@pytest.mark.parametrize(("temperature", "bonus"), [(1.0, 0.3), (4.0, 0.3), (0.5, 0.0), (2.0, 3.0)])
def test_value_and_gradient_are_the_definition(temperature, bonus):
    student, teacher, affinity, mask = batch()
    value = DistillationLoss(temperature, bonus)(student.requires_grad_(), teacher, affinity, mask)
    value.backward()
    expected, gradient = by_hand(student, teacher, affinity, mask, temperature, bonus)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(student.grad, torch.tensor(gradient, dtype=torch.float64), rtol=1e-9, atol=1e-14)
    student.grad = None
    everyone = DistillationLoss(temperature, bonus)(student, teacher, affinity)
    assert everyone.item() == pytest.approx(by_hand(student, teacher, affinity, torch.ones(B), temperature, bonus)[0], rel=1e-12)


def test_torch_calls_it_cross_entropy_with_soft_targets():
    student, teacher, _, mask = batch(1)
    expected = torch.nn.functional.cross_entropy(student[mask], teacher[mask].softmax(dim=1))
    torch.testing.assert_close(DistillationLoss()(student, teacher, mask=mask), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("affinity", "times"), [(1, 1.350), (1 / 3, 1.105), (1 / 4, 1.078), (0, 1.0)])
def test_the_odds_of_a_related_class(affinity, times):
    """The whole semantic constraint: e^0.3, e^0.1 and e^0.075 times the odds against any unrelated class."""
    teacher, a = batch()[1][:1], torch.zeros(1, K, dtype=torch.float64)
    a[0, 2] = affinity
    plain, raised = target(DistillationLoss(), teacher), target(DistillationLoss(), teacher, a)
    assert (raised[0, 2] / raised[0, 5] / (plain[0, 2] / plain[0, 5])).item() == pytest.approx(times, abs=5e-4)
    others = torch.arange(K) != 2
    torch.testing.assert_close(raised[:, others] / raised[:, 5], plain[:, others] / plain[:, 5], rtol=1e-9, atol=0)


def test_without_affinity_the_target_is_the_teacher():
    teacher = batch()[1][:1]
    for affinity in (None, torch.zeros(1, K, dtype=torch.float64)):
        torch.testing.assert_close(target(DistillationLoss(), teacher, affinity), teacher.softmax(dim=1), rtol=1e-12, atol=1e-15)


def test_rows_out_of_the_mask_get_no_gradient_whatever_they_hold():
    student, teacher, affinity, mask = batch()
    expected = DistillationLoss()(student, teacher, affinity, mask)
    for t in (student, teacher, affinity):
        t[~mask] = torch.nan
    value = DistillationLoss()(student.requires_grad_(), teacher.requires_grad_(), affinity, mask)
    value.backward()
    assert torch.equal(value.detach(), expected)
    assert (student.grad[~mask] == 0).all() and student.grad[mask].abs().min() > 0
    assert (teacher.grad[~mask] == 0).all() and teacher.grad.isfinite().all()  # a teacher that wants a gradient has one


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_an_empty_mask_is_0_without_gradient(kind):
    student, teacher, affinity, _ = batch()
    value = DistillationLoss()(student.requires_grad_(), teacher, affinity, torch.zeros(B, dtype=kind))
    value.backward()
    assert value.item() == 0 and (student.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes(dtype):
    student, teacher, affinity, mask = batch(2, dtype)
    exact = DistillationLoss()(student.double(), teacher.double(), affinity.double(), mask)
    value = DistillationLoss()(student.requires_grad_(), teacher, affinity, mask)
    value.backward()
    assert value.dtype == torch.float32 and student.grad.dtype == dtype
    torch.testing.assert_close(value.detach().double(), exact, rtol=1e-6, atol=0)
    assert DistillationLoss()(student.detach(), teacher.double()).dtype == torch.float64


SQUARE = torch.zeros(4, K)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ((None, SQUARE), TypeError, "student_logits must be a torch.Tensor"),
        ((SQUARE.long(), SQUARE), TypeError, "student_logits must be float16, bfloat16, float32 or float64, got torch.int64"),
        ((SQUARE[0], SQUARE), InputError, r"student_logits must have shape \[rows, D\], got \[9\]"),
        ((SQUARE[:0], SQUARE[:0]), InputError, r"student_logits must have shape \[B, K\] with B >= 1, got \[0, 9\]"),
        ((SQUARE, SQUARE[:, 1:]), InputError, r"teacher_logits must have the shape of student_logits, \[4, 9\], got \[4, 8\]"),
        ((SQUARE, [0]), TypeError, "teacher_logits must be a torch.Tensor"),
        ((SQUARE, SQUARE.to("meta")), InputError, "teacher_logits is on meta but student_logits is on cpu"),
        ((SQUARE, SQUARE, SQUARE[:1]), InputError, r"affinity must have the shape of student_logits, \[4, 9\], got \[1, 9\]"),
        ((SQUARE, SQUARE, None, torch.ones(3)), InputError, r"mask must have shape \[4\], one entry per row, got \[3\]"),
        ((SQUARE, SQUARE, None, [1, 1, 1, 1]), TypeError, r"mask must be a bool tensor \[4\], got list"),
        ((SQUARE, SQUARE, None, torch.tensor([0, 1, 2, 1])), InputError, r"mask must be True or False .*, got 2"),
        ((SQUARE, SQUARE, None, torch.zeros(4, device="meta")), InputError, "mask is on meta but student_logits is on cpu"),
    ],
)
def test_bad_input(given, kind, message):
    with pytest.raises(kind, match=message):
        DistillationLoss()(*given)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0}, "temperature must be a positive"), ({"bonus": -1}, "bonus must be a number, at least 0, got -1")],
)
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=message):
        DistillationLoss(**options)
