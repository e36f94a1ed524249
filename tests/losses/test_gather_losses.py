"""gather=True in the other losses: value and gradients are those of one process with the whole batch."""

from __future__ import annotations

import copy

import pytest
import torch
from ranks import on_ranks
from test_gather import SIZES, batch, complaint, part, references

from zsml.losses import (
    ArcFaceLoss,
    ASoftmaxLoss,
    CosFaceLoss,
    CrossBatchMemory,
    EMSLoss,
    GaussianAlignmentLoss,
    MEMSLoss,
    NTXentLoss,
    SupConLoss,
)

CLASSES, WIDTH, STEPS = 4, 6, 3
CONTRASTIVE = [
    SupConLoss(gather=True),
    SupConLoss(0.5, pairs="within", normalize=False, gather=True),
    SupConLoss(0.5, pairs="cross", gather=True),
    NTXentLoss(gather=True),
    NTXentLoss(0.5, pairs="within", gather=True),
    NTXentLoss(0.5, pairs="cross", normalize=False, gather=True),
]


def centred() -> list[torch.nn.Module]:
    """The losses over centres, the same on every rank."""
    torch.manual_seed(0)
    makers = (MEMSLoss, EMSLoss, CosFaceLoss, ArcFaceLoss, ASoftmaxLoss)
    return [make(CLASSES, WIDTH, annealing_steps=2, gather=True).double() for make in makers]


def alone(loss: torch.nn.Module) -> torch.nn.Module:
    loss = copy.deepcopy(loss)
    loss.gather = False
    return loss


def skipped(rows: int) -> torch.Tensor:
    return torch.arange(rows) % 4 - 1  # one of the first rows, or none


# ---- what runs on each rank ----------------------------------------------------------------------------------------------------


def contrastive_parts(rank: int, world: int) -> list[dict]:
    found = []
    for sizes in SIZES[world]:
        ref_sizes = [20 - 3 * (world - 1), *[3] * (world - 1)]
        for loss in CONTRASTIVE:
            for refs in (False, True):
                x, labels, modality = (part(t, sizes, rank) for t in batch(14, 0))
                x, given, exclude = x.clone().requires_grad_(), {}, None
                if refs:
                    given = {name: part(t, ref_sizes, rank).clone() for name, t in references().items()}
                    given["ref_emb"].requires_grad_()
                    given["exclude"] = skipped(len(x))
                    exclude = torch.where(given["exclude"] >= 0, given["exclude"] + sum(ref_sizes[:rank]), -1)
                value = loss(x, labels, modality, **given)
                value.backward()
                refs_gradient = given["ref_emb"].grad if refs else None
                found.append({"value": value.detach(), "x": x.grad, "refs": refs_gradient, "exclude": exclude})
    return found


def centred_parts(rank: int, world: int) -> list[dict]:
    found = []
    for sizes in SIZES[world]:
        for loss in centred():
            for step in range(STEPS):
                x, labels, _ = (part(t, sizes, rank) for t in batch(14, step))
                x, loss.centers.grad = x.clone().requires_grad_(), None
                value = loss(x, labels)
                value.backward()
                found.append({"value": value.detach(), "x": x.grad, "centers": loss.centers.grad, "step": loss.step.clone()})
    return found


def aligned_parts(rank: int, world: int) -> list[dict]:
    found = []
    for sizes in SIZES[world]:
        x, target = (part(batch(14, seed)[0], sizes, rank) for seed in (0, 1))
        x = x.clone().requires_grad_()
        value = GaussianAlignmentLoss(gather=True)(x, target=target)
        value.backward()
        found.append({"value": value.detach(), "x": x.grad})
    return found


def all_parts(rank: int, world: int) -> tuple[list, list, list]:
    return contrastive_parts(rank, world), centred_parts(rank, world), aligned_parts(rank, world)


def bad_batches(rank: int, world: int) -> dict[str, tuple[str, str, float]]:
    """On rank 1 something is wrong."""
    odd = rank == 1
    x, labels, modality = batch(6, rank, torch.float32)
    mems, found = MEMSLoss(CLASSES, WIDTH, gather=True), {}
    found["labels"] = complaint(mems, x, labels + (9 if odd else 0))
    found["width"] = complaint(mems, x[:, : 5 if odd else 6], labels)
    found["classes"] = complaint(MEMSLoss(CLASSES + odd, WIDTH, gather=True), x, labels)
    found["margin"] = complaint(CosFaceLoss(CLASSES, WIDTH, margin=0.5 if odd else 0.4, gather=True), x, labels)
    found["pairs"] = complaint(SupConLoss(pairs="cross" if odd else "all", gather=True), x, labels, modality)
    found["kind"] = complaint(NTXentLoss(gather=True) if odd else SupConLoss(gather=True), x, labels, modality)
    found["modality"] = complaint(SupConLoss(gather=True), x, labels, None if odd else modality)
    aligned = GaussianAlignmentLoss(gather=True)
    found["embeddings"] = complaint(aligned, x[0] if odd else x)
    found["target"] = complaint(aligned, x, target=x[:2] if odd else x)
    found["good again"] = complaint(mems, x, labels)
    found["good as well"] = complaint(CrossBatchMemory(NTXentLoss(gather=True), 8), x, labels, modality)
    return found


# ---- the tests -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 4])
def world(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def found_by_ranks(world: int, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list, list, list]]:
    return on_ranks(world, tmp_path_factory.mktemp("ranks"), all_parts)


def same_value(everyone: list[dict], expected: torch.Tensor) -> None:
    for found in everyone:
        torch.testing.assert_close(found["value"], expected.detach(), rtol=1e-12, atol=1e-14)


def same_rows(everyone: list[dict], name: str, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.cat([found[name] for found in everyone]), expected, rtol=1e-10, atol=1e-13)


def test_contrastive_losses_of_all_ranks_are_of_one_process(world, found_by_ranks):
    cases = [(loss, refs) for _ in SIZES[world] for loss in CONTRASTIVE for refs in (False, True)]
    assert all(len(found) == len(cases) for found, *_ in found_by_ranks)
    for number, (loss, refs) in enumerate(cases):
        everyone = [found[number] for found, *_ in found_by_ranks]
        x, labels, modality = batch(14, 0)
        given = references() if refs else {}
        if refs:
            given["ref_emb"].requires_grad_()
            given["exclude"] = torch.cat([found["exclude"] for found in everyone])
        expected = alone(loss)(x.requires_grad_(), labels, modality, **given)
        expected.backward()
        same_value(everyone, expected)
        same_rows(everyone, "x", x.grad)
        if refs:
            same_rows(everyone, "refs", given["ref_emb"].grad)


def test_centre_losses_of_all_ranks_are_of_one_process(world, found_by_ranks):
    """Rows have their own gradient, centres the sum over ranks; the margin is annealed alike."""
    number = 0
    for _ in SIZES[world]:
        for loss in map(alone, centred()):
            for step in range(STEPS):
                everyone = [found[number] for _, found, _ in found_by_ranks]
                x, labels, _ = batch(14, step)
                loss.centers.grad = None
                expected = loss(x.requires_grad_(), labels)
                expected.backward()
                same_value(everyone, expected)
                same_rows(everyone, "x", x.grad)
                centers = sum(found["centers"] for found in everyone)
                torch.testing.assert_close(centers, loss.centers.grad, rtol=1e-10, atol=1e-13)
                assert all(found["step"] == step + 1 for found in everyone)
                number += 1
    assert all(len(found) == number for _, found, _ in found_by_ranks)


def test_the_alignment_of_all_ranks_is_of_one_process(world, found_by_ranks):
    x = batch(14, 0)[0].requires_grad_()
    expected = GaussianAlignmentLoss()(x, target=batch(14, 1)[0])
    expected.backward()
    for number in range(len(SIZES[world])):
        everyone = [found[number] for *_, found in found_by_ranks]
        same_value(everyone, expected)
        same_rows(everyone, "x", x.grad)


EXPECTED = {
    "labels": ["rank 1: labels must lie in 0 to 3"],
    "width": ["rank 1: embeddings must have shape [B, 6], got [6, 5]"],
    "classes": ["agree on the loss and its settings", "num_classes=4", "num_classes=5"],
    "margin": ["agree on the loss and its settings", "margin=0.4", "margin=0.5"],
    "pairs": ["agree on the loss and its settings", "pairs='all'", "pairs='cross'"],
    "kind": ["agree on the loss and its settings", "SupConLoss", "NTXentLoss"],
    "modality": ["agree on whether modality is given"],
    "embeddings": ["rank 1: embeddings must have shape [rows, D], got [6]"],
    "target": ["rank 1: target must have the shape of embeddings, [6, 6]", "got [2, 6]"],
}


def test_what_is_wrong_on_one_rank_is_said_on_all(tmp_path):
    for found in on_ranks(2, tmp_path, bad_batches):
        assert found.pop("good again")[0] == "" and found.pop("good as well")[0] == ""
        assert found.keys() == EXPECTED.keys()
        for name, words in EXPECTED.items():
            kind, message, seconds = found[name]
            assert kind == "InputError", (name, message)
            assert message.startswith("gather: ") and all(word in message for word in words), message
            assert seconds < 5


@pytest.mark.parametrize("loss", [SupConLoss(gather=True), MEMSLoss(4, 6, gather=True)])
def test_without_a_process_group(loss):
    x, labels, modality = batch(6, 0)
    with pytest.raises(ValueError, match=r"gather=True needs a process group.*init_process_group"):
        loss(x, labels, modality)
