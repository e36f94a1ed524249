"""MemoryLoss against a memory kept in lists, one sketch after another, as the paper tells it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from zsml.errors import InputError
from zsml.losses import MemoryLoss

CLASSES, WIDTH, SIZE = 4, 6, 3
Batch = tuple[Tensor, Tensor, Tensor]


def batch(seed: int, rows: int = 14, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    return x, labels, torch.randint(0, 2, (rows,), generator=generator)


class ByHand:
    """The memory as a list of sketches for each class."""

    def __init__(self, size: int = SIZE):
        self.size, self.lists = size, [[] for _ in range(CLASSES)]

    def update(self, x: Tensor, labels: Tensor, modality: Tensor) -> None:
        for i in (modality == 0).nonzero().flatten().tolist():
            kept = self.lists[labels[i]]
            photos = x[(labels == labels[i]) & (modality == 1)]
            if len(kept) < self.size:
                kept.append(x[i])
            elif len(photos):
                query = photos.mean(dim=0)
                near = [float(cosine_similarity(row, query, dim=0)) for row in kept]
                lowest = min(range(self.size), key=near.__getitem__)
                if float(cosine_similarity(x[i], query, dim=0)) > near[lowest]:
                    kept[lowest] = x[i]

    def loss(self, x: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
        terms = [
            1 - cosine_similarity(x[i], torch.stack(self.lists[labels[i]]).mean(dim=0), dim=0)
            for i in range(len(x)) if modality[i] == 1 and self.lists[labels[i]]
        ]  # fmt: skip
        return torch.stack(terms).mean() if terms else 0 * x.sum()


def remembered(loss: MemoryLoss) -> list[list[tuple[float, ...]]]:
    """Of each class what is remembered, in an order that does not depend on where it lies."""
    return [sorted(map(tuple, rows[:count].tolist())) for rows, count in zip(loss.bank, loss.filled.tolist(), strict=True)]


def assert_follows(loss: MemoryLoss, oracle: ByHand, given: Batch) -> None:
    x, labels, modality = given
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    value = loss(a, labels, modality)
    value.backward()
    oracle.update(x, labels, modality)
    expected = oracle.loss(b, labels, modality)
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-13)
    assert (a.grad[modality == 0] == 0).all()  # the memory is constant, a sketch that is in it as well
    assert remembered(loss) == [sorted(map(tuple, torch.stack(rows).tolist())) if rows else [] for rows in oracle.lists]


@pytest.mark.parametrize("size", [1, SIZE, 10])
def test_it_is_the_memory_kept_by_hand(size):
    loss, oracle = MemoryLoss(CLASSES, size), ByHand(size)
    for seed, rows in enumerate((14, 3, 30, 1, 14, 60, 14)):
        assert_follows(loss, oracle, batch(seed, rows))
    assert loss.filled.max() == size
    loss.reset()
    assert remembered(loss) == [[]] * CLASSES
    assert_follows(loss, ByHand(size), batch(9))


def test_a_full_class_only_gets_more_like_its_photos():
    loss = MemoryLoss(num_classes=1, size=10)
    photo = torch.tensor([[1.0, 2, 3, 4, 5, 6]])
    labels, modality = torch.zeros(8, dtype=torch.int64), torch.tensor([0] * 7 + [1])
    worst, mean = -2.0, -2.0
    for seed in range(6):
        loss(torch.cat([batch(seed, 7, torch.float32)[0], photo]), labels, modality)
        assert loss.filled.item() == min(10, 7 * (seed + 1))
        if loss.filled.item() == 10:
            near = cosine_similarity(loss.bank[0], photo)
            assert near.min() >= worst and near.mean() >= mean
            worst, mean = near.min(), near.mean()
    assert mean > 0.1


def test_without_a_photo_a_full_class_stays_and_other_classes_always_do():
    """The sketch goes to its class: the published code would write it to class 0, 1 or 2, the place it takes there."""
    loss = MemoryLoss(CLASSES, SIZE)
    for _ in range(2):
        loss(torch.eye(6)[:, :5], torch.tensor([3, 3, 3, 0, 1, 2]), torch.zeros(6, dtype=torch.int64))
    before = loss.bank.clone()
    three, sketch = torch.full((1,), 3), torch.zeros(1, dtype=torch.int64)
    loss(torch.ones(1, 5), three, sketch)
    assert torch.equal(loss.bank, before)
    loss(torch.ones(2, 5), three.expand(2), torch.tensor([0, 1]))
    assert torch.equal(loss.bank[:3], before[:3]) and (loss.bank[3] == 1).all(dim=1).sum() == 1


def test_the_sketches_of_the_batch_count_already():
    x = torch.tensor([[3.0, 0.0], [2.0, 2.0]])
    value = MemoryLoss(1)(x, torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1]))
    assert value.item() == pytest.approx(1 - 0.5**0.5)


def test_without_gradient_the_value_is_the_same_and_constant():
    paper, released = MemoryLoss(CLASSES, SIZE), MemoryLoss(CLASSES, SIZE, gradient=False)
    for seed in range(3):
        x, labels, modality = batch(seed)
        x.requires_grad_()
        value, constant = paper(x, labels, modality), released(x, labels, modality)
        assert torch.equal(value, constant) and value.requires_grad and not constant.requires_grad


@pytest.mark.parametrize("modality", [0, 1], ids=["sketches alone", "photos alone"])
def test_nothing_to_compare_is_0_without_gradient(modality):
    x, labels, _ = batch(0)
    value = MemoryLoss(CLASSES)(x.requires_grad_(), labels, torch.full_like(labels, modality))
    value.backward()
    assert value.item() == 0 and (x.grad == 0).all()


def test_eval_and_inference_mode_remember_nothing():
    loss = MemoryLoss(CLASSES, SIZE).eval()
    assert loss(*batch(0)).item() == 0 and loss.bank.shape == (CLASSES, SIZE, 0)
    with torch.inference_mode():
        assert loss.train()(*batch(0)).item() == 0
    loss(*batch(0))
    before = copy.deepcopy(loss.state_dict())
    with torch.inference_mode():
        first = loss(*batch(1))
    assert torch.equal(first, loss.eval()(*batch(1))) and first > 0
    assert all(torch.equal(a, b) for a, b in zip(before.values(), loss.state_dict().values(), strict=True))
    x, labels, modality = batch(1)
    loss.train()(x.requires_grad_(), labels, modality).backward()


def test_its_state_is_saved_and_restored():
    loss, fresh = MemoryLoss(CLASSES, SIZE), MemoryLoss(CLASSES, SIZE)
    for seed in range(3):
        loss(*batch(seed))
    fresh.load_state_dict(copy.deepcopy(loss.state_dict()))
    for seed in range(3, 6):
        assert torch.equal(fresh(*batch(seed)), loss(*batch(seed)))
    with pytest.raises(RuntimeError, match="size mismatch for bank"):
        MemoryLoss(CLASSES, SIZE + 1).load_state_dict(loss.state_dict())


def test_rows_that_are_not_finite_are_neither_remembered_nor_asked():
    loss, clean = MemoryLoss(CLASSES, SIZE), MemoryLoss(CLASSES, SIZE)
    for seed in range(4):
        x, labels, modality = batch(seed)
        clean(x[2:], labels[2:], modality[2:])
        modality[:2] = torch.tensor([0, 1])
        x[0, 1], x[1, 2] = torch.nan, torch.inf
        value = loss(x.requires_grad_(), labels, modality)
        assert value.isnan() or labels[1] not in labels[modality == 0]
        assert remembered(loss) == remembered(clean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes(dtype):
    loss, exact = MemoryLoss(CLASSES, SIZE), MemoryLoss(CLASSES, SIZE)
    for seed in range(4):
        x, labels, modality = batch(seed, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(x.requires_grad_(), labels, modality)
        value.backward()
        assert value.dtype == loss.bank.dtype == torch.float32 and x.grad.dtype == dtype
        torch.testing.assert_close(value.double(), exact(x.detach().double(), labels, modality), rtol=1e-5, atol=1e-6)
    loss(*batch(5))  # of float64: the bank widens
    assert loss.bank.dtype == torch.float64


ROWS, IDS = torch.zeros(4, WIDTH), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ((None, IDS, IDS), TypeError, "embeddings must be a torch.Tensor"),
        ((ROWS[:0], IDS[:0], IDS[:0]), InputError, r"embeddings must have shape \[B, D\] with B >= 1"),
        ((ROWS, IDS[:3], IDS), InputError, r"labels must have shape \[4\]"),
        ((ROWS, IDS), InputError, "modality is missing: the memory takes sketches"),
        ((ROWS, IDS, IDS.float()), TypeError, "modality must be int64, got torch.float32"),
        ((ROWS, IDS + CLASSES, IDS), InputError, "labels must lie in 0 to 3, got 4 to 4"),
        ((ROWS, IDS - 1, IDS), InputError, "labels must lie in 0 to 3, got -1 to -1"),
        ((ROWS[:, 1:], IDS, IDS), InputError, r"embeddings must have the width of the memory, 6, got \[4, 5\]"),
        ((*[t.to("meta") for t in (ROWS, IDS, IDS)],), InputError, "embeddings are on meta, the memory is on cpu"),
    ],
)
def test_bad_input(given, kind, message):
    loss = MemoryLoss(CLASSES)
    loss(*batch(0))
    with pytest.raises(kind, match=message):
        loss(*given)


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 2, "size": 0}, {"num_classes": 2, "size": 1.5}])
def test_bad_settings(options):
    with pytest.raises(InputError, match=f"{list(options)[-1]} must be a whole number, at least 1"):
        MemoryLoss(**options)
