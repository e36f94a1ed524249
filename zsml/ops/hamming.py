"""Binary codes: packing, Hamming distances, nearest codes and whole rankings.

A code of ``b`` bits is one row of ``W = ceil(b / 8)`` bytes; the distance of two codes is the number of differing bits,

    d(q, g) = sum_w popcount(q_w xor g_w).

Distances are integers from 0 to 8 W, so the kernels never compare two of them: they count how many codes are at each distance
and write the order from the counts.

All take torch tensors or arrays of other libraries (NumPy, CuPy, anything with ``__dlpack__``), the latter on the memory they
have, without a copy; all return torch tensors.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from zsml.errors import InputError

from . import _hamming_reference as reference
from ._arrays import as_tensor
from ._register import define

__all__ = ["hamming_distance", "hamming_rank", "hamming_topk", "pack_bits", "unpack_bits"]


def pack_bits(bits: Tensor) -> Tensor:
    """Pack rows of bits into bytes, the first bit of a row in the lowest place:
    ``numpy.packbits(bitorder="little")``.

    Args:
        bits: bool ``[N, b]``, ``N >= 1``, ``b >= 1``.

    Returns:
        uint8 ``[N, W]``, ``W = ceil(b / 8)``; the ``8 W - b`` unused bits of the last byte are 0.

    Raises:
        TypeError: not a bool tensor.
        InputError: wrong rank, or nothing to pack.

    >>> pack_bits(torch.tensor([[True, False, True], [False, False, False]]))
    tensor([[5],
            [0]], dtype=torch.uint8)
    """
    bits = as_tensor(bits, "bits")
    if not isinstance(bits, Tensor) or bits.dtype != torch.bool:
        raise TypeError(f"bits must be a bool tensor, got {_kind(bits)}; for real values pass e.g. x > 0")
    if bits.dim() != 2 or bits.numel() == 0:
        raise InputError(f"bits must have shape [N, b] with N >= 1 and b >= 1, got {list(bits.shape)}")
    return torch.ops.zsml.pack_bits(bits)


def unpack_bits(codes: Tensor, b: int) -> Tensor:
    """Undo :func:`pack_bits`.

    Args:
        codes: uint8 ``[N, W]``, ``N >= 1``.
        b: number of bits per row, ``8 W - 7 <= b <= 8 W``.

    Returns:
        bool ``[N, b]``.

    Raises:
        TypeError: ``codes`` is not uint8 or ``b`` not an int.
        InputError: wrong rank, no rows, or a ``b`` that does not need exactly ``W`` bytes.

    >>> unpack_bits(torch.tensor([[5]], dtype=torch.uint8), 3)
    tensor([[ True, False,  True]])
    """
    codes = check_codes("codes", codes)
    width = codes.shape[1]
    if isinstance(b, bool) or not isinstance(b, int):
        raise TypeError(f"b must be an int, got {type(b).__name__}")
    if not 8 * width - 7 <= b <= 8 * width:
        raise InputError(
            f"b={b} bits do not pack into {width} bytes per row; {width} bytes hold {8 * width - 7} to {8 * width} bits"
        )
    return torch.ops.zsml.unpack_bits(codes, b)


def hamming_distance(q: Tensor, g: Tensor) -> Tensor:
    """Number of differing bits between every query and every gallery code.

    Args:
        q: uint8 ``[Q, W]`` packed codes; any strides, any ``W >= 1``.
        g: uint8 ``[N, W]`` on the same device.

    Returns:
        int32 ``[Q, N]``. Beyond the result, the extra memory does not depend on Q and N.

    Raises:
        TypeError: not uint8 tensors.
        InputError: wrong rank, no rows, no bytes, different widths or devices.

    >>> a = torch.tensor([[0b0111], [0b0000]], dtype=torch.uint8)
    >>> hamming_distance(a, torch.tensor([[0b0001], [0b1000], [0b0111]], dtype=torch.uint8))
    tensor([[2, 4, 0],
            [1, 1, 3]], dtype=torch.int32)
    """
    q, g = _check_pair(q, g)
    _check_room(q.shape[0], g.shape[0], q.device)
    return torch.ops.zsml.hamming_distance(q, g)


def hamming_topk(q: Tensor, g: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` gallery codes nearest to every query, sorted by (distance, index).

    Args:
        q: uint8 ``[Q, W]`` packed codes.
        g: uint8 ``[N, W]`` on the same device.
        k: ``0 <= k <= N``.

    Returns:
        distance int32 ``[Q, k]`` in bits and gallery index int64 ``[Q, k]``; of equally distant codes the
        lower index comes first.

    Raises:
        TypeError: not uint8 tensors, or ``k`` not an int.
        InputError: as :func:`hamming_distance`, and ``k`` outside 0..N.

    >>> a = torch.tensor([[0b0000]], dtype=torch.uint8)
    >>> hamming_topk(a, torch.tensor([[0b0011], [0b1000], [0b0001]], dtype=torch.uint8), 2)
    (tensor([[1, 1]], dtype=torch.int32), tensor([[1, 2]]))
    """
    q, g = _check_pair(q, g)
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if not 0 <= k <= g.shape[0]:
        raise InputError(f"k={k} is out of range: the gallery g has {g.shape[0]} codes, so 0 <= k <= {g.shape[0]}")
    return torch.ops.zsml.hamming_topk(q, g, k)


def hamming_rank(q: Tensor, g: Tensor) -> Tensor:
    """The whole gallery for every query, sorted by (distance, index).

    Args:
        q: uint8 ``[Q, W]`` packed codes.
        g: uint8 ``[N, W]`` on the same device, ``N < 2^31``.

    Returns:
        int32 ``[Q, N]`` gallery indices, nearest first.

    Raises:
        TypeError, InputError: as :func:`hamming_distance`, and a gallery too large for int32 indices.

    >>> a = torch.tensor([[0b0000]], dtype=torch.uint8)
    >>> hamming_rank(a, torch.tensor([[0b0011], [0b1000], [0b0001]], dtype=torch.uint8))
    tensor([[1, 2, 0]], dtype=torch.int32)
    """
    q, g = _check_pair(q, g)
    if g.shape[0] >= 1 << 31:
        raise InputError(f"g has {g.shape[0]} codes; hamming_rank returns int32 indices: split a gallery of 2^31 and more")
    _check_room(q.shape[0], g.shape[0], q.device)
    return torch.ops.zsml.hamming_rank(q, g)


def _kind(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def check_codes(name: str, codes: Tensor) -> Tensor:
    """Packed codes, as a tensor: a uint8 matrix with rows and bytes."""
    codes = as_tensor(codes, name)
    if not isinstance(codes, Tensor) or codes.dtype != torch.uint8:
        raise TypeError(f"{name} must be packed codes, a uint8 tensor (see zsml.ops.pack_bits), got {_kind(codes)}")
    if codes.dim() != 2:
        raise InputError(f"{name} must have shape [rows, bytes], got {list(codes.shape)}")
    if codes.shape[0] == 0 or codes.shape[1] == 0:
        raise InputError(f"{name} must have at least one row and one byte per row, got {list(codes.shape)}")
    return codes


def _check_pair(q: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    q, g = check_codes("q", q), check_codes("g", g)
    if q.shape[1] != g.shape[1]:
        raise InputError(f"q and g must be codes of one width, got {q.shape[1]} and {g.shape[1]} bytes per row")
    if q.device != g.device:
        raise InputError(f"q and g must be on one device, got {q.device} and {g.device}")
    return q, g


def _check_room(queries: int, codes: int, device: torch.device) -> None:
    """Say in words what an allocator would say in its own: the result alone does not fit."""
    if torch.compiler.is_compiling() or device.type != "cpu":
        return
    needed = 4 * queries * codes
    if needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise InputError(
            f"q and g give [{queries}, {codes}] results, {needed / 2**30:.0f} GiB, more than this machine's memory; split the "
            "queries, or ask hamming_topk for the nearest alone"
        )


# ---- registration --------------------------------------------------------------------------------------------------------------

define("pack_bits", "(Tensor bits) -> Tensor", reference.pack_bits)
define("unpack_bits", "(Tensor codes, SymInt b) -> Tensor", reference.unpack_bits)
define("hamming_distance", "(Tensor q, Tensor g) -> Tensor", reference.hamming_distance)
define("hamming_topk", "(Tensor q, Tensor g, SymInt k) -> (Tensor, Tensor)", reference.hamming_topk)
define("hamming_rank", "(Tensor q, Tensor g) -> Tensor", reference.hamming_rank)


@torch.library.register_fake("zsml::pack_bits")
def _fake_pack(bits):
    return bits.new_empty(bits.shape[0], (bits.shape[1] + 7) // 8, dtype=torch.uint8)


@torch.library.register_fake("zsml::unpack_bits")
def _fake_unpack(codes, b):
    return codes.new_empty(codes.shape[0], b, dtype=torch.bool)


@torch.library.register_fake("zsml::hamming_distance")
@torch.library.register_fake("zsml::hamming_rank")
def _fake_all_pairs(q, g):
    return q.new_empty(q.shape[0], g.shape[0], dtype=torch.int32)


@torch.library.register_fake("zsml::hamming_topk")
def _fake_topk(q, g, k):
    return q.new_empty(q.shape[0], k, dtype=torch.int32), q.new_empty(q.shape[0], k, dtype=torch.int64)
