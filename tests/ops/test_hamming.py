"""Packed codes against numpy and plain Python: packing, distances, nearest codes, rankings, ties, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from zsml.errors import InputError
from zsml.ops import _hamming_reference as reference
from zsml.ops.hamming import hamming_distance, hamming_rank, hamming_topk, pack_bits, unpack_bits

SHAPES = [(1, 1, 1), (2, 3, 1), (127, 128, 8), (5, 300, 3), (33, 129, 9), (300, 7, 64), (4, 40, 200)]


def random_codes(rows: int, width: int, seed: int, levels: int = 256) -> torch.Tensor:
    """uint8 [rows, width]; few levels give many equal distances."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (rows, width), dtype=torch.uint8, generator=generator)


def numpy_distance(q: torch.Tensor, g: torch.Tensor) -> np.ndarray:
    """int64 [Q, N] by counting the bits of every exclusive or."""
    differing = np.unpackbits(q.numpy()[:, None, :] ^ g.numpy()[None, :, :], axis=2)
    return differing.sum(axis=2, dtype=np.int64)


def numpy_rank(distance: np.ndarray) -> np.ndarray:
    """int64 [Q, N]: sorted by (distance, index), through Python tuples."""
    return np.array([[i for _, i in sorted((int(d), i) for i, d in enumerate(row))] for row in distance])


@pytest.mark.parametrize("b", [1, 7, 8, 9, 63, 64, 65, 512])
def test_pack_is_numpy_packbits_and_unpack_undoes_it(b: int) -> None:
    bits = torch.rand(13, b, generator=torch.Generator().manual_seed(b)) < 0.5
    codes = pack_bits(bits)
    assert codes.dtype == torch.uint8
    np.testing.assert_array_equal(codes.numpy(), np.packbits(bits.numpy(), axis=1, bitorder="little"))
    assert torch.equal(unpack_bits(codes, b), bits)
    assert torch.equal(pack_bits(bits.T.contiguous().T), codes)


@pytest.mark.parametrize(("queries", "size", "width"), SHAPES)
@pytest.mark.parametrize("levels", [256, 2])
def test_distance_topk_and_rank_agree_with_numpy(queries: int, size: int, width: int, levels: int) -> None:
    q, g = random_codes(queries, width, 1, levels), random_codes(size, width, 2, levels)
    expected = numpy_distance(q, g)
    order = numpy_rank(expected)
    distance = hamming_distance(q, g)
    assert distance.dtype == torch.int32
    np.testing.assert_array_equal(distance.numpy(), expected)
    rank = hamming_rank(q, g)
    assert rank.dtype == torch.int32
    np.testing.assert_array_equal(rank.numpy(), order)
    for k in {0, 1, size // 2, size}:
        near, index = hamming_topk(q, g, k)
        assert (near.dtype, index.dtype) == (torch.int32, torch.int64)
        np.testing.assert_array_equal(index.numpy(), order[:, :k])
        np.testing.assert_array_equal(near.numpy(), np.take_along_axis(expected, order[:, :k], axis=1))


def reference_results(q: torch.Tensor, g: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
    return reference.hamming_distance(q, g), *reference.hamming_topk(q, g, k), reference.hamming_rank(q, g)


@pytest.mark.parametrize(("block", "unpacked", "chunk"), [(1, 1, 1), (10, 200, 2), (64, 100, 3), (1000, 1 << 22, 1 << 16)])
def test_reference_does_not_depend_on_the_block_sizes(
    monkeypatch: pytest.MonkeyPatch, block: int, unpacked: int, chunk: int
) -> None:
    q, g = random_codes(19, 5, 3, 4), random_codes(70, 5, 4, 4)
    expected = reference_results(q, g, 9)
    monkeypatch.setattr(reference, "BLOCK", block)
    monkeypatch.setattr(reference, "UNPACKED", unpacked)
    monkeypatch.setattr(reference, "CHUNK", chunk)
    for now, then in zip(reference_results(q, g, 9), expected, strict=True):
        assert torch.equal(now, then)


def test_extremes_and_equal_codes() -> None:
    zeros, ones = torch.zeros(2, 100, dtype=torch.uint8), torch.full((3, 100), 255, dtype=torch.uint8)
    assert hamming_distance(zeros, ones).unique().tolist() == [800]
    assert hamming_distance(ones, ones).unique().tolist() == [0]
    assert hamming_rank(zeros, ones).tolist() == [[0, 1, 2]] * 2
    assert hamming_topk(ones, ones, 2)[1].tolist() == [[0, 1]] * 3


def test_strided_and_misaligned_codes() -> None:
    q, g = random_codes(20, 6, 5), random_codes(30, 6, 6)
    expected = hamming_distance(q, g)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), g.flatten()])[1:].view(30, 6)  # starts at an odd address
    wide = torch.zeros(30, 13, dtype=torch.uint8)
    wide[:, 1::2] = g
    for other in (shifted, wide[:, 1::2], g.T.contiguous().T):
        assert torch.equal(hamming_distance(q, other), expected)
        assert torch.equal(hamming_rank(q, other), hamming_rank(q, g))


def test_autocast_does_not_round_the_counts() -> None:
    q, g = random_codes(4, 64, 7), random_codes(50, 64, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = hamming_distance(q, g)
    np.testing.assert_array_equal(distance.numpy(), numpy_distance(q, g))


def test_reference_topk_never_holds_queries_by_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BLOCK", 1 << 12)
    monkeypatch.setattr(reference, "UNPACKED", 1 << 12)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    q, g = random_codes(500, 8, 9), random_codes(700, 8, 10)
    with Watch():
        reference.hamming_topk(q, g, 5)
    assert 0 < largest < 500 * 700 / 20


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31), st.sampled_from([2, 3, 256]), st.data())
def test_random_shapes(queries: int, size: int, width: int, seed: int, levels: int, data: st.DataObject) -> None:
    q, g = random_codes(queries, width, seed, levels), random_codes(size, width, seed + 1, levels)
    k = data.draw(st.integers(0, size))
    expected = numpy_distance(q, g)
    order = numpy_rank(expected)
    np.testing.assert_array_equal(hamming_distance(q, g).numpy(), expected)
    np.testing.assert_array_equal(hamming_rank(q, g).numpy(), order)
    np.testing.assert_array_equal(hamming_topk(q, g, k)[1].numpy(), order[:, :k])


CODES = torch.zeros(3, 2, dtype=torch.uint8)
EMPTY = torch.zeros(0, 2, dtype=torch.uint8)


@pytest.mark.parametrize("call", [hamming_distance, hamming_rank, lambda q, g: hamming_topk(q, g, 0)])
@pytest.mark.parametrize(
    ("q", "g", "error", "words"),
    [
        (CODES.int(), CODES, TypeError, "q must be packed codes"),
        (CODES, [[1]], TypeError, "g must be packed codes, a uint8 tensor .* got list"),
        (CODES[0], CODES, InputError, r"q must have shape \[rows, bytes\], got \[2\]"),
        (CODES, CODES[:, :1], InputError, "one width, got 2 and 1 bytes"),
        (EMPTY, CODES, InputError, "q must have at least one row"),
        (CODES, EMPTY, InputError, "g must have at least one row"),
        (CODES[:, :0], CODES[:, :0], InputError, "one byte per row"),
        (CODES, CODES.to("meta"), InputError, "one device, got cpu and meta"),
    ],
)
def test_bad_codes_are_named(call, q, g, error, words) -> None:
    with pytest.raises(error, match=words):
        call(q, g)


@pytest.mark.parametrize(("k", "error"), [(-1, InputError), (4, InputError), (1.0, TypeError), (True, TypeError)])
def test_bad_k_is_named(k, error) -> None:
    with pytest.raises(error, match="k"):
        hamming_topk(CODES, CODES, k)


def test_bad_bits_are_named() -> None:
    with pytest.raises(TypeError, match=r"bits must be a bool tensor, got a torch\.float32 tensor"):
        pack_bits(torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"bits must have shape \[N, b\]"):
        pack_bits(torch.zeros(3, dtype=torch.bool))
    with pytest.raises(InputError, match=r"bits must have shape \[N, b\]"):
        pack_bits(torch.zeros(0, 3, dtype=torch.bool))
    for b in (8, 17, 0, -3):
        with pytest.raises(InputError, match="2 bytes hold 9 to 16 bits"):
            unpack_bits(CODES, b)
    with pytest.raises(TypeError, match="b must be an int"):
        unpack_bits(CODES, 9.0)
    with pytest.raises(TypeError, match="codes must be packed codes"):
        unpack_bits(CODES.bool(), 9)
