"""The memory bank against the same loss with the earlier rows laid out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from ranks import on_ranks

from zsml.errors import InputError
from zsml.losses import CrossBatchMemory, MATHMLoss, ModalityTripletLoss

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def batch(seed: int, rows: int = 8, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (rows,), generator=generator), torch.randint(0, 2, (rows,), generator=generator)


def by_hand(loss: torch.nn.Module, now: Batch, earlier: list[Batch], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient with the batch and the last `size` rows of earlier ones as references."""
    x, labels, modality = now
    x = x.clone().requires_grad_()
    past = [torch.cat(column)[-size:] for column in zip(*earlier, strict=True)] if earlier else [t[:0] for t in now]
    refs = [torch.cat(pair) for pair in zip((x, labels, modality), past, strict=True)]
    names = ("ref_emb", "ref_labels", "ref_modality")
    value = loss(x, labels, modality, **dict(zip(names, refs, strict=True)), exclude=torch.arange(len(x)))
    value.backward()
    return value.detach(), x.grad


@pytest.mark.parametrize("loss", [MATHMLoss(), ModalityTripletLoss(normalize=False)], ids=["mathm", "relu"])
@pytest.mark.parametrize("size", [1, 5, 20, 100])
def test_partners_are_the_batch_and_the_newest_rows_before_it(loss, size):
    memory, earlier = CrossBatchMemory(loss, size), []
    for number, rows in enumerate((8, 3, 8, 1, 12, 8, 7)):
        now = batch(number, rows)
        x = now[0].clone().requires_grad_()
        value = memory(x, *now[1:])
        value.backward()
        expected, gradient = by_hand(loss, now, earlier, size)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(x.grad, gradient, rtol=1e-10, atol=1e-14)
        earlier.append(now)


def test_an_empty_memory_changes_nothing():
    x, labels, modality = batch(0)
    torch.testing.assert_close(CrossBatchMemory(MATHMLoss(), 30)(x, labels, modality), MATHMLoss()(x, labels, modality))
    torch.testing.assert_close(CrossBatchMemory(MATHMLoss(), 30)(x, labels), MATHMLoss()(x, labels))


def test_eval_mode_remembers_nothing_and_reset_forgets():
    memory = CrossBatchMemory(MATHMLoss(), 30)
    memory(*batch(0))
    first = memory.eval()(*batch(1))
    assert torch.equal(memory(*batch(1)), first)
    memory.train().reset()
    assert torch.equal(memory(*batch(1)), MATHMLoss()(*batch(1)))
    memory.reset()
    x, labels, _ = batch(0)
    memory(x[:, :3], labels)  # of another width


@pytest.mark.parametrize(
    ("training", "compiled"), [(True, False), (False, False), (False, True)], ids=["training", "evaluation", "compiled"]
)
def test_inference_mode_leaves_the_memory_alone_and_training_goes_on(training, compiled):
    torch.compiler.reset()
    memory, plain = CrossBatchMemory(MATHMLoss(), 10), CrossBatchMemory(MATHMLoss(), 10)
    module = torch.compile(memory, fullgraph=True, backend="aot_eager") if compiled else memory
    for seed in range(3):
        memory.train(training)
        with torch.inference_mode():
            torch.testing.assert_close(module(*batch(9)), copy.deepcopy(plain)(*batch(9)))
        memory.train()
        x, labels, modality = batch(seed)
        value = module(x.requires_grad_(), labels, modality)
        value.backward()
        torch.testing.assert_close(value, plain(x, labels, modality))
    torch.testing.assert_close(memory.rows, plain.rows, equal_nan=True)


def test_its_state_is_saved_and_restored():
    memory = CrossBatchMemory(MATHMLoss(), 11)
    for seed in range(3):
        memory(*batch(seed))
    fresh = CrossBatchMemory(MATHMLoss(), 11)
    fresh.load_state_dict(copy.deepcopy(memory.state_dict()))
    assert fresh.rows.dtype == torch.float64
    for seed in range(3, 6):
        assert torch.equal(fresh(*batch(seed)), memory(*batch(seed)))
    with pytest.raises(RuntimeError, match="size mismatch for rows"):
        CrossBatchMemory(MATHMLoss(), 12).load_state_dict(memory.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes(dtype):
    memory, exact = CrossBatchMemory(MATHMLoss(), 20), CrossBatchMemory(MATHMLoss(), 20)
    for seed in range(4):
        x, labels, modality = batch(seed, dtype=dtype)
        value = memory(x.requires_grad_(), labels, modality)
        value.backward()
        assert value.dtype == torch.float32 and x.grad.isfinite().all()
        torch.testing.assert_close(value.double(), exact(x.detach().double(), labels, modality), rtol=1e-5, atol=0)
    assert memory.rows.dtype == dtype


HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtypes", [(half, torch.float32) for half in HALF] + [HALF, (torch.float32, torch.float64)], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_wider_dtype_is_kept_as_it_came(dtypes, compiled):
    memory = CrossBatchMemory(MATHMLoss(), 20)
    torch.compiler.reset()  # what other tests compiled would count against the limit of compilations
    step = torch.compile(memory, fullgraph=True, backend="aot_eager") if compiled else memory
    batches = [batch(seed, dtype=dtype) for seed, dtype in enumerate((*dtypes, dtypes[0]))]
    earlier: list[Batch] = []
    for x, labels, modality in batches:
        expected, _ = by_hand(MATHMLoss(), (x.double(), labels, modality), earlier, 20)
        torch.testing.assert_close(step(x, labels, modality).double(), expected, rtol=1e-5, atol=0)
        earlier.append((x.double(), labels, modality))
    assert memory.rows.dtype == torch.promote_types(*dtypes)
    kept = torch.cat([rows for rows, _, _ in earlier])  # of 24 rows the last 4 lie where the first 4 did
    assert torch.equal(memory.rows.double(), torch.cat([kept[20:], kept[4:20]]))


def test_fullgraph_compile():
    torch.compiler.reset()
    plain, memory = CrossBatchMemory(MATHMLoss(), 20), CrossBatchMemory(MATHMLoss(), 20)
    compiled = torch.compile(memory, fullgraph=True, backend="aot_eager")
    for seed in range(5):
        x, labels, modality = batch(seed, dtype=torch.float32)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        compiled(ours, labels, modality).backward()
        plain(theirs, labels, modality).backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(memory.rows, plain.rows, equal_nan=True)


def test_it_is_pytorch_metric_learnings_memory():
    """Theirs holds the batch as well, detached: values are equal, and gradients where only anchors receive them."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import MeanReducer

    rows, size = 12, 30
    theirs = losses.CrossBatchMemory(
        losses.TripletMarginLoss(margin=0.2, reducer=MeanReducer()), 5, memory_size=size + rows, miner=BatchHardMiner()
    )
    ours = CrossBatchMemory(ModalityTripletLoss(terms=("within",), margin=0.2), size)
    for seed in range(6):
        x, labels = batch(seed, rows)[0], torch.arange(rows) % 4
        torch.testing.assert_close(ours(x, labels), theirs(x, labels), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_a_size_that_is_none(size):
    with pytest.raises(InputError, match="size must be a whole number of rows, 1 or more"):
        CrossBatchMemory(MATHMLoss(), size)


@pytest.mark.parametrize("loss", [torch.nn.CrossEntropyLoss(), None, CrossBatchMemory(MATHMLoss(), 3)], ids=str)
def test_a_loss_that_takes_no_references(loss):
    with pytest.raises(InputError, match=r"loss must be one that can take references.*compares with nothing"):
        CrossBatchMemory(loss, 10)


def test_bad_batches():
    memory = CrossBatchMemory(MATHMLoss(), 10)
    x, labels, modality = batch(0)
    memory(x, labels, modality)
    before = memory.rows.clone()
    for arguments, message in (
        ((x[:, :4], labels, modality), "embeddings must have the width of the memory, 5"),
        ((x, labels[:3], modality), r"labels must have shape \[8\]"),
        ((x, labels, modality[:3]), r"modality must have shape \[8\]"),
        ((None, labels, modality), "embeddings must be a torch.Tensor"),
        ((x[:0], labels[:0], modality[:0]), "B >= 1"),
    ):
        with pytest.raises((TypeError, InputError), match=message):
            memory(*arguments)
    torch.testing.assert_close(memory.rows, before, equal_nan=True)


# ---- on several ranks ----------------------------------------------------------------------------------------------------------


def batches_of_a_rank(rank: int, world: int) -> tuple[list[dict], str]:
    memory, found = CrossBatchMemory(MATHMLoss(gather=True), 12), []
    for seed in range(4):
        x, labels, modality = (t.split([5, 3])[rank] for t in batch(seed))
        x = x.clone().requires_grad_()
        value = memory(x, labels, modality)
        value.backward()
        found.append({"value": value.detach(), "x": x.grad})
    x, labels, modality = batch(0)
    try:
        memory(x[:, : 5 - rank], labels, modality)
    except InputError as error:
        return found, str(error)
    return found, ""


def test_the_memory_of_all_ranks(tmp_path):
    ranks = on_ranks(2, tmp_path, batches_of_a_rank)
    bank = []
    for seed in range(4):
        expected, gradient = by_hand(MATHMLoss(), batch(seed), bank, 100)
        for found, _ in ranks:
            torch.testing.assert_close(found[seed]["value"], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(torch.cat([found[seed]["x"] for found, _ in ranks]), gradient, rtol=1e-10, atol=1e-14)
        # Each rank's own rows, the newest 12 of each.
        parts = [[t.split([5, 3])[rank] for t in batch(seed)] for rank in range(2)]
        bank = remembered(seed, parts, bank)
    assert all(message.startswith("gather: rank 1: embeddings must have the width of the memory") for _, message in ranks)


def remembered(seed: int, parts: list[list[torch.Tensor]], bank: list[Batch]) -> list[Batch]:
    """What both ranks hold after one more batch: rank by rank, its newest 12 rows."""
    if not bank:
        return [tuple(part) for part in parts]
    return [tuple(torch.cat(pair)[-12:] for pair in zip(old, new, strict=True)) for old, new in zip(bank, parts, strict=True)]
