"""On a GPU: the kernels on packed codes and the ranks of relevant items, against the CPU, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zsml.ops import hamming_distance, hamming_rank, hamming_topk, pack_bits, unpack_bits
from zsml.ops.rank_relevant import hamming_rank_relevant, rank_relevant

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

WIDTHS = [1, 3, 8, 9, 16, 24, 32, 33, 64, 65, 200, 1000]


def draw_codes(rows: int, width: int, seed: int, values: int = 256) -> Tensor:
    """Codes at an odd address; few values make many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, values, (1 + rows * width,), dtype=torch.uint8, generator=generator)[1:].view(rows, width)


def on_gpu(codes: Tensor) -> Tensor:
    return torch.cat([codes.new_zeros(1), codes.flatten()]).cuda()[1:].view(codes.shape)


def draw_classes(queries: int, rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """query_class, order, starts; some class may be empty."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(labels, minlength=classes).cumsum(0)])
    return torch.randint(0, classes, (queries,), generator=generator), labels.argsort(stable=True), starts


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("queries", [1, 7, 700])  # one query, few queries, several to a block
@pytest.mark.parametrize("values", [2, 256])
def test_same_as_on_the_cpu(width: int, queries: int, values: int) -> None:
    for rows in (1, 33, 1500):
        q, g = draw_codes(queries, width, 1, values), draw_codes(rows, width, 2, values)
        gpu_q, gpu_g = on_gpu(q), on_gpu(g)
        assert torch.equal(hamming_distance(gpu_q, gpu_g).cpu(), hamming_distance(q, g))
        assert torch.equal(hamming_rank(gpu_q, gpu_g).cpu(), hamming_rank(q, g))
        for k in {0, 1, rows // 2, rows}:
            for ours, expected in zip(hamming_topk(gpu_q, gpu_g, k), hamming_topk(q, g, k), strict=True):
                assert ours.dtype == expected.dtype and torch.equal(ours.cpu(), expected), (rows, k)
        lists = draw_classes(queries, rows, 5, 3)
        ours = hamming_rank_relevant(gpu_q, lists[0].cuda(), gpu_g, lists[1].cuda(), lists[2].cuda())
        assert torch.equal(ours.cpu(), hamming_rank_relevant(q, lists[0], g, lists[1], lists[2])), rows


def test_strided_codes() -> None:
    q, g = draw_codes(9, 20, 1), draw_codes(100, 20, 2)
    expected = hamming_rank(q[:, ::2].contiguous(), g[:, ::2].contiguous())
    assert torch.equal(hamming_rank(q.cuda()[:, ::2], g.cuda()[:, ::2]).cpu(), expected)


@pytest.mark.parametrize("b", [1, 7, 8, 9, 64, 65, 129])
def test_bits(b: int) -> None:
    bits = torch.rand(300, b, generator=torch.Generator().manual_seed(b)) > 0.5
    codes = pack_bits(bits.cuda())
    assert torch.equal(codes.cpu(), pack_bits(bits))
    assert torch.equal(unpack_bits(codes, b).cpu(), bits)


def test_memory_does_not_grow_with_pairs() -> None:
    q, g = on_gpu(draw_codes(20_000, 8, 1)), on_gpu(draw_codes(100_000, 8, 2))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    hamming_topk(q, g, 10)
    assert torch.cuda.max_memory_allocated() - before < 64 << 20  # all pairs would take 8 GB


def test_graph_and_stream() -> None:
    """Captured once, replayed on other codes."""
    q, g = on_gpu(draw_codes(600, 8, 1)), on_gpu(draw_codes(2000, 8, 2))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        hamming_topk(q, g, 20), hamming_rank(q, g), hamming_distance(q, g)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = (*hamming_topk(q, g, 20), hamming_rank(q, g), hamming_distance(q, g))
    other = draw_codes(2000, 8, 3)
    g.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    expected = (*hamming_topk(q.cpu(), other, 20), hamming_rank(q.cpu(), other), hamming_distance(q.cpu(), other))
    for ours, theirs in zip(captured, expected, strict=True):
        assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 130, 2500])
def test_rank_relevant_is_exact_on_whole_numbers(dtype: torch.dtype, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    query = torch.randint(-2, 3, (150, 5), generator=generator).to(dtype)
    gallery = torch.randint(-2, 3, (rows, 5), generator=generator).to(dtype)
    for classes in (1, 2, 40):
        lists = draw_classes(150, rows, classes, classes)
        expected = rank_relevant(query, lists[0], gallery, lists[1], lists[2])
        assert torch.equal(
            rank_relevant(query.cuda(), lists[0].cuda(), gallery.cuda(), lists[1].cuda(), lists[2].cuda()).cpu(), expected
        )


@pytest.mark.parametrize("cosine", [False, True])
def test_rank_relevant_in_float64(cosine: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(200, 64, dtype=torch.float64, generator=generator)
    gallery = torch.randn(9000, 64, dtype=torch.float64, generator=generator)
    for classes in (1, 20):  # of one class more are relevant than shared memory holds
        lists = draw_classes(200, 9000, classes, classes)
        expected = rank_relevant(query, lists[0], gallery, lists[1], lists[2], cosine)
        ours = rank_relevant(query.cuda(), lists[0].cuda(), gallery.cuda(), lists[1].cuda(), lists[2].cuda(), cosine)
        assert torch.equal(ours.cpu(), expected)


@pytest.mark.parametrize(
    ("which", "place", "value", "message"),
    [(0, 0, 5, "query_class"), (0, 0, -1, "query_class"), (1, 3, 90, "order"), (1, 3, -1, "order"), (2, 5, 91, "starts")],
)
def test_lists_out_of_range(which: int, place: int, value: int, message: str) -> None:
    q, g = draw_codes(4, 8, 1).cuda(), draw_codes(90, 8, 2).cuda()
    lists = [part.cuda() for part in draw_classes(4, 90, 5, 3)]
    lists[which][place] = value
    with pytest.raises(RuntimeError, match=message):
        hamming_rank_relevant(q, lists[0], g, lists[1], lists[2])
    with pytest.raises(RuntimeError, match=message):
        rank_relevant(q.float(), lists[0], g.float(), lists[1], lists[2])
