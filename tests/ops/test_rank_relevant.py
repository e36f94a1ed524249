"""rank_relevant and hamming_rank_relevant against a loop over sorted Python tuples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract_samples import class_lists, codes, spread
from rank_relevant_oracle import angles, bit_distances, ranks_of_relevant, squared
from torch import Tensor

from zsml import _ext
from zsml.ops.rank_relevant import hamming_rank_relevant, rank_relevant


def check(device, query, query_class, gallery, labels, cosine=False, distance=None) -> None:
    """The oracle's answer, exactly."""
    if distance is None:
        distance = (angles if cosine else squared)(query, gallery)
    _check(rank_relevant, device, query, query_class, gallery, labels, distance, cosine)


def check_codes(device, q, query_class, g, labels) -> None:
    _check(hamming_rank_relevant, device, q, query_class, g, labels, bit_distances(q, g))


def _check(op, device, query, query_class, gallery, labels, distance, *options) -> None:
    """With one thread and with two."""
    classes = int(max(query_class.max(), labels.max())) + 1
    expected = ranks_of_relevant(distance, query_class, labels)
    arguments = [t.to(device) for t in (query, query_class, gallery, *class_lists(labels, classes))]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours = op(*arguments, *options)
            assert ours.dtype == torch.int32 and torch.equal(ours.cpu(), expected)
    finally:
        torch.set_num_threads(before)


def integers(rows: int, width: int, low: int = -2, high: int = 3, seed: int = 0, dtype=torch.float32) -> Tensor:
    return torch.randint(low, high, (rows, width), generator=torch.Generator().manual_seed(seed)).to(dtype)


def normal(rows: int, width: int, seed: int = 0) -> Tensor:
    """Quarters: random, and yet exact in every dtype."""
    return (8 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))).round() / 4


def ids(rows: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 2047, 2048, 2049])
@pytest.mark.parametrize("width", [1, 3, 512])
def test_sizes_around_the_blocks(device, size: int, width: int) -> None:
    """Ties included: the coordinates are small integers."""
    check(device, integers(9, width, seed=1), ids(9, 4), integers(size, width, seed=2), ids(size, 4, seed=3))


@pytest.mark.parametrize("queries", [1, 13, 14, 15, 65, 200])
@pytest.mark.parametrize("classes", [1, 2, 40])
def test_queries_of_many_classes_interleaved(device, queries: int, classes: int) -> None:
    check(device, integers(queries, 5, seed=1), torch.arange(queries) % classes, integers(150, 5, seed=2), ids(150, classes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("cosine", [False, True])
def test_dtypes(device, dtype: torch.dtype, cosine: bool) -> None:
    query, gallery = normal(20, 3, 1).to(dtype), normal(300, 3, 2).to(dtype)
    if cosine:  # axes and their multiples: the quotient is exact
        gallery = torch.eye(3, dtype=dtype)[ids(300, 3)] * 2.0 ** ids(300, 3, seed=1)[:, None].to(dtype)
    check(device, query, ids(20, 6), gallery, ids(300, 6, seed=3), cosine)


@pytest.mark.parametrize("cosine", [False, True])
def test_random_embeddings_where_no_two_distances_are_close(device, cosine: bool) -> None:
    """Of random rows, those whose distance to some query is almost that of another row are left out."""
    generator = torch.Generator().manual_seed(4)
    query, gallery = torch.randn(6, 24, generator=generator), torch.randn(120, 24, generator=generator)
    by = angles if cosine else squared
    kept: list[int] = []
    for j, column in enumerate(by(query, gallery).T):
        others = by(query, gallery[kept])
        if not kept or np.abs(others - column[:, None]).min() > 1e-4:
            kept.append(j)
    assert len(kept) > 100
    check(device, query, ids(6, 5), gallery[kept], ids(len(kept), 5, seed=1), cosine)


def test_duplicate_rows(device) -> None:
    few = torch.randn(3, 7, generator=torch.Generator().manual_seed(5))  # not integers: equal rows are tied all the same
    which = ids(400, 3)
    distance = squared(few, few)[:, which.numpy()]
    check(device, few, torch.arange(3), few[which], ids(400, 4, seed=1), distance=distance)


@pytest.mark.parametrize("size", [5, 700, 2500])
@pytest.mark.parametrize("classes", [1, 2, 50])
def test_all_distances_equal(device, size: int, classes: int) -> None:
    check(device, integers(5, 4), ids(5, classes), torch.ones(size, 4), ids(size, classes, seed=1))
    check(device, torch.zeros(5, 4), ids(5, classes), torch.zeros(size, 4), ids(size, classes, seed=1))


@pytest.mark.parametrize("offset", [100.0, 10_000.0, -1e6])
def test_far_from_the_origin(device, offset: float) -> None:
    """A grid of whole numbers around a far point: float32 holds it, its squares it does not."""
    check(device, integers(20, 6, seed=1) + offset, ids(20, 5), integers(500, 6, seed=2) + offset, ids(500, 5, seed=3))


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**60])
def test_tiny_and_huge(device, scale: float) -> None:
    query, gallery = integers(20, 6, seed=1), integers(500, 6, seed=2)
    check(device, query * scale, ids(20, 5), gallery * scale, ids(500, 5, seed=3), distance=squared(query, gallery))
    gallery = torch.eye(6)[ids(500, 6)]
    check(device, query * scale, ids(20, 5), gallery * scale, ids(500, 5, seed=3), cosine=True, distance=angles(query, gallery))


def test_one_far_item_crowds_the_bins(device) -> None:
    """Among relevant items in the thousands one far away leaves all others in the lowest bin."""
    gallery = torch.cat([integers(1500, 2, -9, 10), torch.tensor([[3000.0, 0.0]]), integers(1500, 2, -9, 10, seed=1)])
    labels = torch.cat([torch.zeros(1501, dtype=torch.int64), torch.ones(1500, dtype=torch.int64)])
    check(device, integers(7, 2, seed=2), ids(7, 2), gallery, labels)


def test_cosine_with_zero_rows_and_scaled_duplicates(device) -> None:
    few = torch.randn(30, 5, generator=torch.Generator().manual_seed(6))
    gallery = torch.cat([few, torch.zeros(4, 5), 2 * few, 4 * few, torch.zeros(3, 5)])
    query = torch.cat([torch.randn(6, 5, generator=torch.Generator().manual_seed(7)), torch.zeros(1, 5)])
    base = angles(query, torch.cat([few, torch.zeros(1, 5)]))  # one value per direction
    which = np.concatenate([np.arange(30), [30] * 4, np.arange(30), np.arange(30), [30] * 3])
    check(device, query, ids(7, 3), gallery, ids(len(gallery), 3, seed=1), cosine=True, distance=base[:, which])


@pytest.mark.parametrize("labels", [torch.zeros(90, dtype=torch.int64), torch.arange(90), torch.arange(90) // 30])
def test_one_class_single_items_and_absent_classes(device, labels: Tensor) -> None:
    """Classes 90 and more have no items: their queries have no results."""
    query_class = torch.tensor([0, 95, 1, 2, 90, 0, 91, 2])
    check(device, integers(8, 3, seed=1), query_class, integers(90, 3, seed=2), labels)
    check_codes(device, codes(8, 2, 4), query_class, codes(90, 2, 4, seed=1), labels)


def test_nothing_relevant(device) -> None:
    query_class, *lists = [t.to(device) for t in (torch.full((4,), 4), *class_lists(ids(40, 3), 5))]
    assert rank_relevant(integers(4, 3).to(device), query_class, integers(40, 3).to(device), *lists).shape == (3, 0)
    assert hamming_rank_relevant(codes(4, 3).to(device), query_class, codes(40, 3).to(device), *lists).shape == (3, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_gallery_in_several_chunks(kernel_device, dtype: torch.dtype) -> None:
    """Rows so wide that 2,048 are packed at a time; classes lie across the seams. (The kernels': the stand-in has no chunks.)"""
    query, gallery = torch.zeros(5, 8192, dtype=dtype), torch.zeros(4099, 8192, dtype=dtype)
    query[:, 4000:4003], gallery[:, 4000:4003] = integers(5, 3), integers(4099, 3, seed=1)
    distance = squared(query[:, 4000:4003], gallery[:, 4000:4003])
    check(kernel_device, query, torch.tensor([0, 1, 2, 0, 1]), gallery, torch.arange(4099) * 3 // 4099, distance=distance)


@pytest.mark.parametrize("width", [1, 8, 31, 32, 200, 8192])
@pytest.mark.parametrize("levels", [2, 256])
def test_codes(device, width: int, levels: int) -> None:
    """Distances of one, two and four bytes."""
    check_codes(device, codes(7, width, levels), ids(7, 4), codes(130, width, levels, seed=1), ids(130, 4, seed=2))


@pytest.mark.parametrize("size", [1, 63, 64, 65, 4097])
@pytest.mark.parametrize("classes", [1, 3, 60])
def test_codes_of_many_sizes_and_classes(device, size: int, classes: int) -> None:
    check_codes(device, codes(9, 2, 3), torch.arange(9) % classes, codes(size, 2, 3, seed=1), ids(size, classes))


def test_equal_codes(device) -> None:
    check_codes(device, codes(5, 4), ids(5, 3), torch.zeros(900, 4, dtype=torch.uint8), ids(900, 3, seed=1))


def test_lists_and_embeddings_with_strides(device) -> None:
    query, gallery, labels, query_class = integers(6, 3), integers(50, 3, seed=1), ids(50, 4), ids(6, 4, seed=1)
    expected = ranks_of_relevant(squared(query, gallery), query_class, labels)
    query, query_class, gallery, order, starts = (
        spread(t.to(device)) for t in (query, query_class, gallery, *class_lists(labels, 4))
    )
    assert torch.equal(rank_relevant(query, query_class, gallery, order, starts).cpu(), expected)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, torch.tensor([0, 3]), "query_class must be 0 to 2, got 3"),
        (1, torch.tensor([0, -1]), "query_class must be 0 to 2, got -1"),
        (1, torch.tensor([0]), "query_class"),
        (3, torch.tensor([0, 1, 2, 4]), "order must hold rows of the gallery, got 4"),
        (3, torch.tensor([0, 1, 2]), "order"),
        (4, torch.tensor([0, 3, 2, 4]), "starts must ascend from 0 to N=4"),
        (4, torch.tensor([0, 2, 3, 5]), "starts must ascend from 0 to N=4"),
        (4, torch.tensor([0, 2, 3, 4]).int(), "starts must be int64"),
    ],
)
@pytest.mark.skipif(_ext.cpu_reason is not None, reason="the CPU kernels were not built")
def test_the_cpu_kernels_never_read_beyond_their_lists(place: int, value: Tensor, message: str) -> None:
    lists = torch.tensor([0, 2]), torch.arange(4), torch.tensor([0, 2, 3, 4])
    for op, rows in ((rank_relevant, integers), (hamming_rank_relevant, codes)):
        arguments = [rows(2, 3), lists[0], rows(4, 3), lists[1], lists[2]]
        op(*arguments)
        arguments[place] = value
        with pytest.raises(RuntimeError, match=message):
            op(*arguments)
