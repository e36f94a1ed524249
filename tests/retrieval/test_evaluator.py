"""The streaming evaluator equals evaluate_retrieval on everything at once, alone and sharded over processes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from zsml.errors import InputError
from zsml.metrics import RetrievalEvaluator, evaluate_retrieval

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def items(kind: str, count: int = 300, seed: int = 0) -> Batch:
    """Embeddings (or codes) with many duplicates, labels of which some have no photo, modalities 0, 1 and a stray 2."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 9, (count,), generator=generator)
    modality = torch.randint(0, 3, (count,), generator=generator)
    modality[(labels == 4) & (modality == 1)] = 2  # class 4 cannot be found
    if kind == "hamming":
        rows = torch.randint(0, 256, (count, 2), generator=generator).byte() & 0b10010110
    elif kind == "integers":
        rows = torch.randint(-1, 2, (count, 5), generator=generator).float()
    else:
        rows = torch.randn(count, 12, generator=generator) + labels[:, None] * 0.1
        rows[count // 2 :] = rows[: count - count // 2]
    return rows, labels, modality


def shares(batch: Batch, world: int) -> list[Batch]:
    """Contiguous shares of unequal size; the last rank gets nothing if there are more than two."""
    count = len(batch[0])
    cuts = [0, *(count * (r + 1) ** 2 // world**2 for r in range(world))]
    if world > 2:
        cuts[-2] = cuts[-1]
    return [tuple(t[a:b] for t in batch) for a, b in itertools.pairwise(cuts)]


def whole(batch: Batch, **options):
    rows, labels, modality = batch
    sketch, photo = modality == 0, modality == 1
    return evaluate_retrieval(rows[sketch], labels[sketch], rows[photo], labels[photo], **options)


def feed(evaluator: RetrievalEvaluator, batch: Batch, size: int) -> None:
    for part in zip(*(t.split(size) for t in batch), strict=True):
        evaluator.update(*part)


CASES = [
    ("real", {"precision_at": (5,), "map_at": (10,)}),
    ("real", {"distance": "cosine", "preset": "sake"}),
    ("integers", {"interpolation": None, "ties": "expected"}),
    ("hamming", {"distance": "hamming"}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("size", [1, 37, 1000])
def test_batches_equal_everything_at_once(kind: str, options: dict, size: int) -> None:
    evaluator = RetrievalEvaluator(**options)
    feed(evaluator, items(kind), size)
    assert evaluator.compute().to_dict() == whole(items(kind), **options).to_dict()
    evaluator.reset()
    feed(evaluator, items(kind, seed=1), size)
    assert evaluator.compute().to_dict() == whole(items(kind, seed=1), **options).to_dict()


def run_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    results = []
    for kind, options in CASES:
        evaluator = RetrievalEvaluator(**options)
        share = shares(items(kind), world)[rank]
        if len(share[0]):
            feed(evaluator, share, 41)
        results.append(evaluator.compute().to_dict())
    complaints = []
    for width in (3, 4 if rank else 3):  # the second time rank 0 has another width
        evaluator = RetrievalEvaluator()
        evaluator.update(
            torch.full((2, width), torch.nan if rank == 1 and width == 3 else 1.0), torch.tensor([0, 1]), torch.tensor([0, 1])
        )
        try:
            evaluator.compute()
        except InputError as error:
            complaints.append(str(error))
    torch.save((results, complaints), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_sharded_over_processes_equals_one_process(world: int, tmp_path: Path) -> None:
    mp.spawn(run_rank, (world, str(tmp_path)), nprocs=world)
    for rank in range(world):
        results, complaints = torch.load(tmp_path / f"{rank}.pt")
        for (kind, options), found in zip(CASES, results, strict=True):
            # In the order of the ranks, which here is the order of the items.
            expected = whole(items(kind), **options).to_dict()
            curves = torch.tensor(found.pop("pr_curve")), torch.tensor(expected.pop("pr_curve"))
            torch.testing.assert_close(*curves, rtol=1e-12, atol=0)
            assert found == expected
        assert len(complaints) == 2
        assert "rank 1" in complaints[0] and "NaN" in complaints[0]
        assert "one width" in complaints[1]


@pytest.mark.parametrize(
    ("rows", "labels", "modality", "message"),
    [
        (torch.zeros(3), torch.zeros(3).long(), 0, "embeddings must be a tensor"),
        (torch.zeros(3, 2), torch.zeros(2).long(), 0, "labels must be 3 integers"),
        (torch.zeros(3, 2), torch.zeros(3).long(), torch.zeros(2).long(), "modality must be 3 integers"),
        (torch.zeros(3, 2), torch.zeros(3), 0, "labels must be 3 integers"),
        (torch.zeros(3, 4), torch.zeros(3).long(), 0, "with 2 columns as before"),
        (torch.zeros(3, 2).double(), torch.zeros(3).long(), 0, "float32 with 2 columns as before"),
    ],
)
def test_bad_batches(rows, labels, modality, message: str) -> None:
    evaluator = RetrievalEvaluator()
    evaluator.update(torch.zeros(1, 2), torch.tensor([0]), 0)
    with pytest.raises(InputError, match=message):
        evaluator.update(rows, labels, modality)
    evaluator.update(torch.ones(1, 2), torch.tensor([0]), 1)  # what came before is not lost
    assert evaluator.compute().map == 1.0


def test_nothing_to_evaluate_and_unknown_names() -> None:
    with pytest.raises(InputError, match="no queries yet"):
        RetrievalEvaluator().compute()
    evaluator = RetrievalEvaluator()
    evaluator.update(torch.zeros(1, 2), torch.tensor([0]), 0)
    with pytest.raises(InputError, match="no gallery yet"):
        evaluator.compute()
    with pytest.raises(InputError, match="distance must be one of"):
        RetrievalEvaluator(distance="manhattan")
    with pytest.raises(InputError, match="preset must be one of"):
        RetrievalEvaluator(preset="nobody")
