"""Values and indices of hardest_pairs against the definition, on every device and implementation."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

import pytest
import torch
from hardest_pairs_oracle import assert_hardest, brute_force, run, truth_of

from zsml.ops import CROSS_NEG, CROSS_POS, WITHIN_NEG, WITHIN_POS, hardest_pairs

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
EXTREME_IDS = [-(2**63), 2**63 - 1, -1, 0, 2**32, 2**32 + 1]  # equal in their lower or upper halves


def test_rows_are_named():
    assert (WITHIN_POS, WITHIN_NEG, CROSS_POS, CROSS_NEG) == (0, 1, 2, 3)


def test_by_hand(device):
    # Two sketches and two photos of class 0, one of each of class 1, on a line.
    x = torch.tensor([[0.0], [1.0], [10.0], [4.0], [-3.0], [7.0]], device=device)
    labels = torch.tensor([0, 0, 0, 0, 1, 1], device=device)
    modality = torch.tensor([0, 0, 1, 1, 0, 1], device=device)
    distance, index = hardest_pairs(x, labels, modality)
    inf = float("inf")
    assert index.tolist() == [[1, 0, 3, 2, -1, -1], [4, 4, 5, 5, 0, 2], [2, 2, 0, 0, 5, 4], [5, 5, 4, 4, 3, 1]]
    assert distance.tolist() == [
        [1, 1, 6, 6, -inf, -inf],
        [3, 4, 3, 3, 3, 3],
        [10, 9, 10, 4, 10, 10],
        [7, 6, 13, 7, 7, 6],
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adversarial(case, device, dtype):
    batch = case.build(dtype, device)
    assert_hardest(run(batch), batch, truth_of(case, dtype), exact=case.exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("width", [1, 512])
def test_ties_across_distant_candidates(device, dtype, width):
    """The lowest of equal candidates wins however the search cuts the candidates up."""
    rows, candidates = 3, 9000
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (rows, width), generator=generator)
    refs = torch.randint(-2, 3, (candidates, width), generator=generator)
    labels = torch.arange(candidates) % 2
    near, far = x[:1], x[:1] + 5 - 10 * (x[:1] > 0).long()  # farther from anchor 0 than anything drawn
    for j in (8990, 700, 4500, 8191):
        refs[j], labels[j] = near, 1
    for j in (4097, 8998, 4096, 4111):
        refs[j], labels[j] = far, 0
    _, index = hardest_pairs(
        x.to(device, dtype),
        torch.zeros(rows, dtype=torch.int64, device=device),
        refs=refs.to(device, dtype),
        ref_labels=labels.to(device),
    )
    if width > 1:
        assert index[:2, 0].tolist() == [4096, 700]
    squares = (x[:, None] - refs).pow(2).sum(dim=2)  # exact
    assert index[WITHIN_POS].tolist() == squares.masked_fill(labels != 0, -1).argmax(dim=1).tolist()
    assert index[WITHIN_NEG].tolist() == squares.masked_fill(labels != 1, 1 << 40).argmin(dim=1).tolist()


def test_ties_in_a_large_batch(device):
    """Exact indices where the batch is large enough for every blocked or tiled path."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-3, 4, (1500, 6), generator=generator)
    labels, modality = torch.randint(0, 40, (1500,), generator=generator), torch.randint(0, 2, (1500,), generator=generator)
    squares = (x[:, None] - x).pow(2).sum(dim=2)
    index = hardest_pairs(x.to(device).float(), labels.to(device), modality.to(device)).index.cpu()
    same_class, same_modality = labels[:, None] == labels, modality[:, None] == modality
    for role in range(4):
        wanted = (same_class == (role in (WITHIN_POS, CROSS_POS))) & (same_modality == (role < CROSS_POS))
        wanted.fill_diagonal_(False)
        ranked = squares.masked_fill(~wanted, -1) if role in (WITHIN_POS, CROSS_POS) else -squares.masked_fill(~wanted, 1 << 40)
        assert torch.equal(index[role], torch.where(wanted.any(dim=1), ranked.argmax(dim=1), -1))


@pytest.mark.parametrize("width", [3, 64, 512])
@pytest.mark.parametrize("radius", [0.01, 0.1, 0.3, 1.0])
def test_nearly_equal_candidates(device, radius, width):
    """Thousands of candidates on a thin shell around the anchor: where the difference of squares cancels most."""
    generator = torch.Generator().manual_seed(2)
    anchor = torch.nn.functional.normalize(torch.randn(1, width, generator=generator), dim=1)
    around = torch.nn.functional.normalize(torch.randn(3000, width, generator=generator), dim=1)
    refs = anchor + radius * (1 + 1e-5 * torch.rand(3000, 1, generator=generator)) * around
    batch = _references(anchor, refs, torch.arange(3000) % 2, device)
    assert_hardest(run(batch), batch, brute_force(batch), exact=False)


def _references(x, refs, ref_labels, device):
    options = {"refs": refs.to(device), "ref_labels": ref_labels.to(device)}
    labels = torch.zeros(len(x), dtype=torch.int64, device=device)
    return SimpleNamespace(
        x=x.to(device), labels=labels, modality=None, ref_modality=None, exclude=None, options=options, **options
    )


def test_any_int64_is_an_id(device):
    generator = torch.Generator().manual_seed(3)
    ids = torch.tensor(EXTREME_IDS, device=device)
    pick = torch.randint(0, len(ids), (3, 60), generator=generator).to(device)
    x = torch.randn(60, 4, generator=generator).to(device)
    plain, odd = hardest_pairs(x, pick[0], pick[1]), hardest_pairs(x, ids[pick[0]], ids[pick[1]])
    assert torch.equal(plain.index, odd.index) and torch.equal(plain.distance, odd.distance)
    references = {"refs": x + 1, "ref_labels": pick[2], "ref_modality": pick[1]}
    renamed = {"refs": x + 1, "ref_labels": ids[pick[2]], "ref_modality": ids[pick[1]]}
    plain, odd = hardest_pairs(x, pick[0], pick[0], **references), hardest_pairs(x, ids[pick[0]], ids[pick[0]], **renamed)
    assert torch.equal(plain.index, odd.index)


def test_refs_that_are_x_do_not_exclude_the_anchor(device):
    x = torch.tensor([[0.0], [2.0], [5.0]], device=device)
    labels = torch.tensor([0, 0, 1], device=device)
    alone = hardest_pairs(x[:1], labels[:1], refs=x[:1], ref_labels=labels[:1])
    assert alone.index[:, 0].tolist() == [0, -1, -1, -1] and alone.distance[WITHIN_POS, 0] == 0
    apart = torch.arange(3, device=device)
    excluded = hardest_pairs(x, labels, refs=x, ref_labels=labels, exclude=apart)
    assert torch.equal(excluded.index, hardest_pairs(x, labels).index)


def test_dtypes_of_anchors_and_refs_are_promoted(device):
    batch = _references(torch.randn(5, 3), torch.randn(8, 3), torch.arange(8) % 3, device)
    mixed = hardest_pairs(batch.x.half(), batch.labels, refs=batch.refs.double(), ref_labels=batch.ref_labels)
    wide = hardest_pairs(batch.x.half().double(), batch.labels, refs=batch.refs.double(), ref_labels=batch.ref_labels)
    assert mixed.distance.dtype == torch.float64
    assert torch.equal(mixed.distance, wide.distance) and torch.equal(mixed.index, wide.index)


def test_inputs_are_left_as_they_were(device, case):
    batch = case.build(torch.float32, device)
    before = [None if t is None else t.clone() for t in batch]
    run(batch)
    for t, copy in zip(batch, before, strict=True):
        assert t is None or torch.equal(t.nan_to_num(7), copy.nan_to_num(7))


def test_expanded_input(device):
    """Rows that all live at one address."""
    x = torch.tensor([[1.0, 2.0]], device=device).expand(6, 2)
    labels = torch.arange(6, device=device) % 2
    distance, index = hardest_pairs(x, labels, torch.zeros(1, dtype=torch.int64, device=device).expand(6))
    assert distance[:2].eq(0).all() and index[:2].tolist() == [[2, 3, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]]


@pytest.mark.parametrize("setting", ["legacy", "per backend"])
def test_either_way_to_set_the_matmul_precision(device, setting):
    """torch refuses to tell the legacy setting once the newer one is used; the op must not mind."""
    x, labels = torch.randn(9, 5, device=device), torch.arange(9, device=device) % 3
    expected = hardest_pairs(x.cpu(), labels.cpu())
    try:
        if setting == "legacy":
            torch.set_float32_matmul_precision("medium")
        else:
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        distance, _ = hardest_pairs(x, labels)
        torch.testing.assert_close(distance.cpu(), expected.distance)
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


def test_threads_of_the_caller(device):
    x, labels = torch.randn(200, 16, device=device), torch.arange(200, device=device) % 9
    expected = hardest_pairs(x, labels)
    results = [None] * 8

    def work(n: int) -> None:
        results[n] = [hardest_pairs(x, labels) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in itertools.chain(*results):
        assert torch.equal(result.index, expected.index) and torch.equal(result.distance, expected.distance)
