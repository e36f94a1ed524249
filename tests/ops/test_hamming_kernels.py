"""The kernels on codes where they take different paths: widths, block edges, parts of a gallery, ties; against the plain-torch
reference and numpy, whatever the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from contract_samples import codes
from rank_relevant_oracle import bit_distances
from torch import Tensor

from zsml.ops import _hamming_reference as reference
from zsml.ops import hamming_distance, hamming_rank, hamming_topk, pack_bits, unpack_bits

# Distances of one byte up to 31, of two up to 8,191, then of four.
WIDTHS = [1, 3, 7, 8, 9, 31, 32, 64, 65, 200, 8191, 8192]


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def few_distances(rows: int, width: int, *, seed: int) -> Tensor:
    """Codes of zeros but for two bits of the last byte: distances are 0, 1 and 2."""
    g = torch.zeros(rows, width, dtype=torch.uint8)
    g[:, -1] = codes(rows, 1, 4, seed)[:, 0]
    return g


def check(device: torch.device, q: Tensor, g: Tensor, ks: tuple[int, ...], distance: Tensor | None = None) -> None:
    """All three ops against a stable sort of the exact distances."""
    distance = reference.hamming_distance(q, g) if distance is None else distance
    order = distance.argsort(dim=1, stable=True)
    near = distance.gather(1, order)
    q, g = q.to(device), g.to(device)
    assert torch.equal(hamming_distance(q, g).cpu(), distance)
    assert torch.equal(hamming_rank(q, g).cpu(), order.int())
    for k in ks:
        ours = hamming_topk(q, g, k)
        assert torch.equal(ours[0].cpu(), near[:, :k]) and torch.equal(ours[1].cpu(), order[:, :k]), k


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("draw", [codes, few_distances], ids=["random", "heavy ties"])
def test_kernels_are_the_reference(kernel_device, width: int, draw) -> None:
    q, g = draw(6, width, seed=1), draw(131, width, seed=2)
    check(kernel_device, q, g, (0, 1, 130, 131))
    assert torch.equal(hamming_rank(q.to(kernel_device), g.to(kernel_device)).cpu(), reference.hamming_rank(q, g))
    for k in (1, 130):
        ours = hamming_topk(q.to(kernel_device), g.to(kernel_device), k)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, reference.hamming_topk(q, g, k), strict=True))


@pytest.mark.parametrize("width", [31, 32, 8191, 8192])
def test_the_largest_distance_is_no_mark(kernel_device, width: int) -> None:
    """Codes that differ in every bit, beside places beyond the gallery's end."""
    q, g = torch.zeros(3, width, dtype=torch.uint8), torch.full((70, width), 255, dtype=torch.uint8)
    g[::7] = 0
    check(kernel_device, q, g, (1, 10, 11, 69, 70))


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 127, 128, 129, 4095, 4096, 4097])
@pytest.mark.parametrize("queries", [1, 3, 4, 5, 17])
def test_sizes_around_the_blocks(kernel_device, threads: int, size: int, queries: int) -> None:
    for width, levels in ((2, 3), (40, 256)):
        q, g = codes(queries, width, levels, seed=1), codes(size, width, levels, seed=2)
        check(kernel_device, q, g, (0, 1, size // 3, size - 1, size))


@pytest.mark.parametrize("queries", [1, 2, 7])
@pytest.mark.parametrize("arrangement", ["random", "all equal", "ascending", "descending", "nearest last"])
def test_parts_of_a_large_gallery_are_merged(kernel_device, threads: int, queries: int, arrangement: str) -> None:
    """A few queries: threads take parts of the gallery, and ties across parts go to the lower index."""
    size = 20_011
    q, g = codes(queries, 3, seed=1), codes(size, 3, seed=2)
    if arrangement == "all equal":
        g = g[:1].repeat(size, 1)
    elif arrangement != "random":
        order = torch.from_numpy(bit_distances(q[:1], g)[0]).argsort(stable=True, descending=arrangement != "ascending")
        g = g[order]
    if arrangement == "nearest last":
        g[:-5] = g[:1]
    check(kernel_device, q, g, (1, 5, 6, 700, size - 1, size), torch.from_numpy(bit_distances(q, g)).int())


@pytest.mark.parametrize(("width", "size"), [(1, 300_001), (32, 140_003)])
def test_a_gallery_of_several_slices(kernel_device, width: int, size: int) -> None:
    """Longer than the row of distances a thread holds at a time."""
    q, g = codes(13, width, seed=1), codes(size, width, 4, seed=2)
    distance = torch.from_numpy(bit_distances(q, g)).int()
    key = distance.long() * size + torch.arange(size)  # distinct
    for k in (1, 100, 5000):
        index = key.topk(k, dim=1, largest=False).indices
        ours = hamming_topk(q.to(kernel_device), g.to(kernel_device), k)
        assert torch.equal(ours[1].cpu(), index) and torch.equal(ours[0].cpu(), distance.gather(1, index))


def test_a_thousand_queries_with_heavy_ties(kernel_device, threads: int) -> None:
    q, g = codes(1000, 1, 16, seed=1), codes(5000, 1, 16, seed=2)  # distances 0 to 4
    count = np.array([bin(byte).count("1") for byte in range(256)])
    distance = torch.from_numpy(count[q.numpy() ^ g.numpy().T]).int()
    check(kernel_device, q, g, (1, 300, 2500), distance)


def test_a_gallery_sorted_by_class(kernel_device) -> None:
    """The codes of a class are near each other, and lie together: the first blocks say nothing about the rest."""
    centres = codes(40, 8, seed=3)
    noise = 1 << torch.randint(0, 8, (4000, 8), generator=torch.Generator().manual_seed(4))
    g = centres.repeat_interleave(100, dim=0) ^ noise.to(torch.uint8)
    check(kernel_device, centres, g, (1, 10, 99, 100, 101, 3999))


@pytest.mark.parametrize("b", [1, 2, 7, 8, 9, 15, 16, 17, 64, 100, 1024])
@pytest.mark.parametrize("rows", [1, 3, 2000])
def test_packing_and_back(kernel_device, threads: int, b: int, rows: int) -> None:
    bits = torch.rand(rows, b, generator=torch.Generator().manual_seed(b)) < 0.5
    packed = pack_bits(bits.to(kernel_device))
    np.testing.assert_array_equal(packed.cpu().numpy(), np.packbits(bits.numpy(), axis=1, bitorder="little"))
    assert torch.equal(packed.cpu(), reference.pack_bits(bits))
    assert torch.equal(unpack_bits(packed, b).cpu(), bits)


def test_unused_bits_are_dropped(kernel_device) -> None:
    full = torch.full((4, 2), 255, dtype=torch.uint8, device=kernel_device)
    assert torch.equal(unpack_bits(full, 11).cpu(), torch.ones(4, 11, dtype=torch.bool))
