"""On a GPU: the same rankings, scores and codes as on the CPU, to the last bit where that is promised."""

from __future__ import annotations

import pytest
import torch

from zsml.metrics import evaluate_retrieval
from zsml.ops.hamming import hamming_distance, hamming_rank, hamming_topk, pack_bits, unpack_bits
from zsml.quantize import ITQ

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("width", [1, 8, 9, 64])
def test_hamming_ops(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    q = torch.randint(0, 3, (130, width), dtype=torch.uint8, generator=generator)
    g = torch.randint(0, 3, (700, width), dtype=torch.uint8, generator=generator)
    for name, op in [("distance", hamming_distance), ("rank", hamming_rank), ("topk", lambda q, g: hamming_topk(q, g, 50)[1])]:
        assert torch.equal(op(q.cuda(), g.cuda()).cpu(), op(q, g)), name
    bits = unpack_bits(g.cuda(), 8 * width)
    assert torch.equal(pack_bits(bits).cpu(), g)


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "hamming"])
@pytest.mark.parametrize("block", [1, 3000, 1 << 21])
def test_evaluation_gives_the_same_bits(distance: str, block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(90, 65, generator=generator), torch.randn(800, 65, generator=generator)
    gallery[400:] = gallery[:400]  # equal distances, other classes
    query_labels, gallery_labels = torch.arange(90) % 7, torch.randint(0, 7, (800,), generator=generator)
    if distance == "hamming":
        query, gallery = pack_bits(query > 0), pack_bits(gallery > 0)
    for options in ({}, {"interpolation": None, "ties": "expected"}):
        cpu = evaluate_retrieval(query, query_labels, gallery, gallery_labels, distance=distance, **options)
        gpu = evaluate_retrieval(
            query.cuda(), query_labels.cuda(), gallery.cuda(), gallery_labels.cuda(), distance=distance, block=block, **options
        )
        assert torch.equal(gpu.ap, cpu.ap)
        assert gpu.to_dict() == cpu.to_dict()


def test_itq_fits_and_encodes_where_the_data_is(tmp_path) -> None:
    x = torch.randn(500, 24, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, 24)
    cpu, gpu = ITQ(bits=16, iterations=5).fit(x), ITQ(bits=16, iterations=5).fit(x.cuda())
    torch.testing.assert_close(gpu.rotation.cpu(), cpu.rotation, rtol=0, atol=1e-8)
    codes = gpu.transform(x.cuda())
    assert codes.is_cuda and torch.equal(codes.cpu(), cpu.transform(x))
    gpu.save(tmp_path / "codes")
    assert torch.equal(ITQ.load(tmp_path / "codes").transform(x.cuda()), codes)
