"""gather=True: value and gradients are those of one process with the whole batch; bad input is refused on every rank."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

from zsml.errors import InputError
from zsml.losses import MATHMLoss, ModalityTripletLoss, collectives
from zsml.losses.gather import gather_ids, gather_rows, global_sum

SIZES = {2: [[5, 9], [1, 13], [7, 7], [0, 14]], 4: [[4, 1, 6, 3], [3, 3, 3, 5], [0, 8, 6, 0]]}  # rows of each rank
LOSSES = [
    ModalityTripletLoss(gather=True),
    ModalityTripletLoss(terms=("cross",), margin=0.7, normalize=False, gather=True),
    ModalityTripletLoss(terms=("within", "hybrid"), beta=5.0, weighting="released", gather=True),
    MATHMLoss(gather=True),
    MATHMLoss(weighting="released", gather=True),
    MATHMLoss(weighting=None, gather=True),
]


def batch(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Embeddings, labels and modality."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=generator, dtype=torch.float64).to(dtype)
    return [x, torch.randint(0, 4, (rows,), generator=generator), torch.randint(0, 2, (rows,), generator=generator)]


def references() -> dict[str, torch.Tensor]:
    return dict(zip(("ref_emb", "ref_labels", "ref_modality"), batch(20, 1), strict=True))


def part(t: torch.Tensor, sizes: list[int], rank: int) -> torch.Tensor:
    return t.split(sizes)[rank]


# ---- what runs on each rank ----------------------------------------------------------------------------------------------------


def losses_of_parts(rank: int, world: int) -> list[dict]:
    found = []
    for sizes in SIZES[world]:
        for loss in LOSSES:
            for with_modality in (True, False):
                x, labels, modality = (part(t, sizes, rank) for t in batch(14, 0))
                x = x.clone().requires_grad_()
                value = loss(x, labels, modality if with_modality else None)
                value.backward()
                found.append({"value": value.detach(), "x": x.grad})
    return found


def losses_with_references(rank: int, world: int) -> list[dict]:
    found = []
    for sizes in SIZES[world]:
        ref_sizes = [20 - 3 * (world - 1), *[3] * (world - 1)]
        bank = {name: part(t, ref_sizes, rank) for name, t in references().items()}
        first = sum(ref_sizes[:rank])
        for wanted in (True, False):
            x, labels, modality = (part(t, sizes, rank) for t in batch(14, 0))
            x, refs = x.clone().requires_grad_(), bank["ref_emb"].clone().requires_grad_(wanted)
            skip = torch.arange(len(x)) % 4 - 1  # a row of the own bank, or none
            value = MATHMLoss(gather=True)(x, labels, modality, **(bank | {"ref_emb": refs}), exclude=skip)
            value.backward()
            skipped = torch.where(skip >= 0, skip + first, -1)
            found.append({"value": value.detach(), "x": x.grad, "refs": refs.grad, "exclude": skipped})
    return found


def both(rank: int, world: int) -> tuple[list, list]:
    return losses_of_parts(rank, world), losses_with_references(rank, world)


def rows_of_every_dtype(rank: int, world: int) -> list:
    found, sizes = [], [2, 0, 1][:world]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        t = (torch.arange(3.0)[:, None].to(dtype) + 1).split([2, 0, 1])[rank].clone().requires_grad_()
        everything = gather_rows(t, sizes)
        (everything * (rank + 1)).sum().backward()
        found.append((everything.detach(), t.grad))
    sums = torch.tensor([1.0 + rank], requires_grad=True)
    (3 * global_sum(sums)).backward()
    return [found, gather_ids(torch.full((sizes[rank],), rank), sizes), sums.grad]


def complaint(loss: ModalityTripletLoss, *arguments, **options) -> tuple[str, str, float]:
    started = time.perf_counter()
    try:
        loss(*arguments, **options)
    except (InputError, RuntimeError) as error:
        return type(error).__name__, str(error), time.perf_counter() - started
    return "", "", 0.0


def bad_batches(rank: int, world: int) -> dict[str, tuple[str, str, float]]:
    """On rank 1 something is wrong."""
    odd = rank == 1
    x, labels, modality = batch(6, rank, torch.float32)
    refs = {"ref_emb": x, "ref_labels": labels, "ref_modality": modality}
    loss, found = MATHMLoss(gather=True), {}
    found["width"] = complaint(loss, x[:, : 5 if odd else 6], labels, modality)
    found["dtype"] = complaint(loss, x.double() if odd else x, labels, modality)
    found["modality"] = complaint(loss, x, labels, None if odd else modality)
    found["refs"] = complaint(loss, x, labels, modality, **(refs if odd else {}))
    found["labels"] = complaint(loss, x, labels[: 5 if odd else 6], modality)
    found["no tensor"] = complaint(loss, None if odd else x, labels, modality)
    found["ref width"] = complaint(loss, x, labels, modality, **(refs | {"ref_emb": x[:, : 4 if odd else 6]}))
    found["exclude"] = complaint(loss, x, labels, modality, **refs, exclude=labels + (100 if odd else 0))
    found["settings"] = complaint(MATHMLoss(margin=0.3 if odd else 0.2, gather=True), x, labels, modality)
    found["gradient"] = complaint(loss, x.clone().requires_grad_(odd), labels, modality)
    found["nothing"] = complaint(loss, x[:0], labels[:0], modality[:0])
    found["good again"] = complaint(loss, x, labels, modality)
    return found


def one_never_comes(rank: int, world: int) -> tuple[str, str, float]:
    collectives.TIMEOUT = timedelta(seconds=2)
    if rank == 1:
        dist.distributed_c10d._get_default_store().wait(["rank 0 is done"], timedelta(seconds=30))
        return "", "", 0.0
    found = complaint(MATHMLoss(gather=True), *batch(6, rank))
    dist.distributed_c10d._get_default_store().set("rank 0 is done", "")
    return found


# ---- the tests -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 4])
def world(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def found_by_ranks(world: int, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list, list]]:
    """What each rank found, without references and with them."""
    return on_ranks(world, tmp_path_factory.mktemp("ranks"), both)


def test_all_ranks_together_are_one_process(world, found_by_ranks):
    everyone = [found for found, _ in found_by_ranks]
    cases = [(sizes, loss, m) for sizes in SIZES[world] for loss in LOSSES for m in (True, False)]
    for number, (_, loss, with_modality) in enumerate(cases):
        x, labels, modality = batch(14, 0)
        x.requires_grad_()
        alone = type(loss)(**settings(loss))
        expected = alone(x, labels, modality if with_modality else None)
        expected.backward()
        for found in everyone:
            torch.testing.assert_close(found[number]["value"], expected.detach(), rtol=1e-13, atol=1e-14)
        gradient = torch.cat([found[number]["x"] for found in everyone])
        torch.testing.assert_close(gradient, x.grad, rtol=1e-12, atol=1e-14)


def settings(loss: ModalityTripletLoss) -> dict:
    names = ["margin", "normalize", "beta", "weighting"] + (["terms"] if type(loss) is ModalityTripletLoss else [])
    return {name: getattr(loss, name) for name in names}


def test_references_of_all_ranks(world, found_by_ranks):
    everyone = [found for _, found in found_by_ranks]
    for number in range(2 * len(SIZES[world])):
        x, labels, modality = batch(14, 0)
        bank = references()
        x.requires_grad_()
        bank["ref_emb"].requires_grad_()
        exclude = torch.cat([found[number]["exclude"] for found in everyone])
        expected = MATHMLoss()(x, labels, modality, **bank, exclude=exclude)
        expected.backward()
        for found in everyone:
            torch.testing.assert_close(found[number]["value"], expected.detach(), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(torch.cat([found[number]["x"] for found in everyone]), x.grad, rtol=1e-12, atol=1e-14)
        if number % 2:
            assert all(found[number]["refs"] is None for found in everyone)
        else:
            gradient = torch.cat([found[number]["refs"] for found in everyone])
            torch.testing.assert_close(gradient, bank["ref_emb"].grad, rtol=1e-12, atol=1e-14)


def test_rows_of_every_dtype_and_their_gradients(tmp_path):
    for rank, (found, ids, sum_gradient) in enumerate(on_ranks(3, tmp_path, rows_of_every_dtype)):
        for everything, gradient in found:
            assert everything.flatten().tolist() == [1, 2, 3]
            assert gradient.flatten().tolist() == [6.0] * [2, 0, 1][rank]
            assert gradient.dtype == everything.dtype
        assert ids.tolist() == [0, 0, 2]
        assert sum_gradient.item() == 3


EXPECTED = {
    "width": ["agree on the width of embeddings", "6 on rank 0", "5 on rank 1"],
    "dtype": ["agree on the dtype of embeddings", "torch.float32 on rank 0", "torch.float64 on rank 1"],
    "modality": ["agree on whether modality is given", "yes on rank 0", "no on rank 1"],
    "refs": ["agree on whether ref_emb is given", "no on rank 0", "yes on rank 1"],
    "labels": ["rank 1: labels must have shape [6]", "got [5]"],
    "no tensor": ["rank 1: embeddings must be a torch.Tensor"],
    "ref width": ["rank 1: ref_emb must have the width of embeddings"],
    "exclude": ["rank 1: exclude must hold rows of ref_emb"],
    "settings": ["agree on the loss and its settings", "margin=0.2", "margin=0.3"],
    "gradient": ["agree on whether the candidates want gradients", "no on rank 0", "yes on rank 1"],
    "nothing": ["the batch is empty"],
}


def test_what_is_wrong_on_one_rank_is_said_on_all(tmp_path):
    for found in on_ranks(3, tmp_path, bad_batches):
        assert found.pop("good again")[0] == ""
        assert found.keys() == EXPECTED.keys()
        for name, words in EXPECTED.items():
            kind, message, seconds = found[name]
            assert kind == "InputError", name
            assert message.startswith("gather: ") and all(word in message for word in words), message
            assert seconds < 20


def test_a_rank_that_never_comes_is_not_waited_for(tmp_path):
    (kind, message, seconds), _ = on_ranks(2, tmp_path, one_never_comes)
    assert kind == "RuntimeError" and "not all ranks came within 2 s" in message
    assert seconds < 20


def test_without_a_process_group():
    with pytest.raises(InputError, match=r"gather=True needs a process group.*init_process_group"):
        MATHMLoss(gather=True)(*batch(6, 0))


def test_one_row_to_skip_per_anchor():
    x, labels, modality = batch(9, 0)
    bank = {"ref_emb": x, "ref_labels": labels, "ref_modality": modality}
    skipping = MATHMLoss()(x, labels, modality, **bank, exclude=torch.arange(9))
    torch.testing.assert_close(skipping, MATHMLoss()(x, labels, modality), rtol=1e-13, atol=0)
