"""gather=True in DistillationLoss and MemoryLoss: value and gradients are those of one process with the whole batch."""

from __future__ import annotations

import test_category_memory
import test_distillation
import torch
from ranks import on_ranks
from test_category_memory import CLASSES, SIZE
from test_gather import SIZES, complaint, part
from torch import Tensor

from zsml.losses import DistillationLoss, MemoryLoss

SQUARE, IDS = torch.zeros(4, 9), torch.zeros(4, dtype=torch.int64)


def distilled(loss: DistillationLoss, seed: int, masked: bool, sizes: list[int], rank: int) -> tuple[Tensor, Tensor]:
    """Value, and gradient of the student, of one rank's part."""
    student, teacher, affinity, mask = (part(t, sizes, rank).clone() for t in test_distillation.batch(seed))
    value = loss(student.requires_grad_(), teacher, affinity, mask if masked else None)
    value.backward()
    return value.detach(), student.grad


def compared(loss: MemoryLoss, seed: int, sizes: list[int], rank: int) -> tuple[Tensor, Tensor]:
    """Value, and gradient of the rows, of one rank's part."""
    x, labels, modality = (part(t, sizes, rank).clone() for t in test_category_memory.batch(seed))
    value = loss(x.requires_grad_(), labels, modality)
    value.backward()
    return value.detach(), x.grad


# ---- what runs on each rank ----------------------------------------------------------------------------------------------------


def everything(rank: int, world: int) -> dict:
    distillation, memory, odd = DistillationLoss(gather=True), MemoryLoss(CLASSES, SIZE, gather=True), rank == 1
    found = {"distilled": [], "compared": [], "bank": []}
    for seed, sizes in enumerate(SIZES[world]):
        found["distilled"] += [distilled(distillation, seed, masked, sizes, rank) for masked in (True, False)]
        found["compared"].append(compared(memory, seed, sizes, rank))
        found["bank"].append(memory.bank.clone())
    found["said"] = {
        "width": complaint(distillation, *[SQUARE[:, : 5 if odd else 9]] * 2),
        "shape": complaint(distillation, SQUARE, SQUARE[: 3 if odd else 4]),
        "none": complaint(distillation, None if odd else SQUARE, SQUARE),
        "bonus": complaint(DistillationLoss(bonus=odd + 0.0, gather=True), SQUARE, SQUARE),
        "labels": complaint(memory, SQUARE[:, :6].double(), IDS + 9 * rank, IDS),
        "modality": complaint(memory, SQUARE[:, :6].double(), IDS, None if odd else IDS),
    }
    return found


# ---- the test ------------------------------------------------------------------------------------------------------------------

SAID = {
    "width": "all ranks must agree on the width of student_logits, got 9 on rank 0, 5 on rank 1",
    "shape": "rank 1: teacher_logits must have the shape of student_logits",
    "none": "rank 1: student_logits must be a torch.Tensor",
    "bonus": "agree on the loss and its settings",
    "labels": "rank 1: labels must lie in 0 to 3, got 9 to 9",
    "modality": "rank 1: modality is missing",
}


def assert_one_process(everyone: list[tuple[Tensor, Tensor]], expected: tuple[Tensor, Tensor]) -> None:
    for value, _ in everyone:
        torch.testing.assert_close(value, expected[0], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(torch.cat([gradient for _, gradient in everyone]), expected[1], rtol=1e-10, atol=1e-15)


def test_all_ranks_together_are_one_process_and_hear_what_is_wrong_on_one(tmp_path):
    ranks, memory = on_ranks(2, tmp_path, everything), MemoryLoss(CLASSES, SIZE)
    for seed in range(len(SIZES[2])):
        for k, masked in enumerate((True, False)):
            expected = distilled(DistillationLoss(), seed, masked, [14], 0)
            assert_one_process([found["distilled"][2 * seed + k] for found in ranks], expected)
        assert_one_process([found["compared"][seed] for found in ranks], compared(memory, seed, [14], 0))
        assert all(torch.equal(found["bank"][seed], memory.bank) for found in ranks)
    for found in ranks:
        for name, (kind, message, _) in found["said"].items():
            assert kind == "InputError" and message.startswith("gather: ") and SAID[name] in message, (name, message)
