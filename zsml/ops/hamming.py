"""Binary codes: packing, Hamming distances, nearest codes and whole rankings.

A code of ``b`` bits is one row of ``W = ceil(b / 8)`` bytes. The distance of two codes is the number of
differing bits,

    d(q, g) = sum_w popcount(q_w xor g_w) = (8 W - <s(q), s(g)>) / 2,    s = +1 for a set bit, -1 for a clear
    one

and it is the right-hand side that is computed: the product of +-1 rows is a sum of integers below 2^24, which
float32 holds exactly whatever the order of summation, so every device and every block size give the same
answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zsml.errors import InputError

__all__ = ["hamming_distance", "hamming_rank", "hamming_topk", "pack_bits", "unpack_bits"]

BLOCK = 1 << 20  # distances held at a time, besides the result
UNPACKED = 1 << 22  # unpacked bits held at a time, per operand
CHUNK = 1 << 16  # bytes of a code per product: sums stay far below 2^24, where float32 stops counting


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
    if not isinstance(bits, Tensor) or bits.dtype != torch.bool:
        raise TypeError(f"bits must be a bool tensor, got {_kind(bits)}; for real values pass e.g. x > 0")
    if bits.dim() != 2 or bits.numel() == 0:
        raise InputError(f"bits must have shape [N, b] with N >= 1 and b >= 1, got {list(bits.shape)}")
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).view(bits.shape[0], -1, 8)  # [N, W, 8]
    place = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (padded * place).sum(dim=2, dtype=torch.uint8)


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
    check_codes("codes", codes)
    width = codes.shape[1]
    if isinstance(b, bool) or not isinstance(b, int):
        raise TypeError(f"b must be an int, got {type(b).__name__}")
    if not 8 * width - 7 <= b <= 8 * width:
        raise InputError(
            f"b={b} bits do not pack into {width} bytes per row; {width} bytes hold {8 * width - 7} to {8 * width} bits"
        )
    return _bits(codes)[:, :b].bool()


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
    _check_pair(q, g)
    result = torch.empty(q.shape[0], g.shape[0], dtype=torch.int32, device=q.device)
    rows = _rows(q)
    for start in range(0, q.shape[0], rows):
        for first, tile in _tiles(q[start : start + rows], g):
            result[start : start + rows, first : first + tile.shape[1]] = tile
    return result


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
    _check_pair(q, g)
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if not 0 <= k <= g.shape[0]:
        raise InputError(f"k={k} is out of range: the gallery g has {g.shape[0]} codes, so 0 <= k <= {g.shape[0]}")
    size = g.shape[0]
    distance = torch.empty(q.shape[0], k, dtype=torch.int32, device=q.device)
    index = torch.empty(q.shape[0], k, dtype=torch.int64, device=q.device)
    rows = _rows(q)
    for start in range(0, q.shape[0], rows):
        block = q[start : start + rows]
        best = torch.empty(block.shape[0], 0, dtype=torch.int64, device=q.device)  # [rows, <= k] keys so far
        for first, tile in _tiles(block, g):
            columns = torch.arange(first, first + tile.shape[1], device=q.device)
            keys = torch.cat([best, tile.long() * size + columns], dim=1)  # distinct: one order on every device
            best = keys.topk(min(k, keys.shape[1]), dim=1, largest=False).values
        distance[start : start + rows] = best // size
        index[start : start + rows] = best % size
    return distance, index


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
    _check_pair(q, g)
    if g.shape[0] >= 1 << 31:
        raise InputError(f"g has {g.shape[0]} codes; hamming_rank returns int32 indices: split a gallery of 2^31 and more")
    result = torch.empty(q.shape[0], g.shape[0], dtype=torch.int32, device=q.device)
    rows = max(1, BLOCK // g.shape[0])
    for start in range(0, q.shape[0], rows):
        distance = hamming_distance(q[start : start + rows], g)
        result[start : start + rows] = distance.argsort(dim=1, stable=True)
    return result


def _rows(q: Tensor) -> int:
    """Queries per block: enough for an efficient product, few enough for the unpacked bits to fit."""
    return max(1, min(256, UNPACKED // (8 * min(q.shape[1], CHUNK))))


def _tiles(q: Tensor, g: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first gallery row, int32 [rows, columns]) over the gallery, at most BLOCK distances at a time."""
    bits = 8 * q.shape[1]
    columns = max(1, min(BLOCK // q.shape[0], UNPACKED // (8 * min(q.shape[1], CHUNK))))
    for first in range(0, g.shape[0], columns):
        part = g[first : first + columns]
        product = torch.zeros(q.shape[0], part.shape[0], dtype=torch.int32, device=q.device)
        with torch.autocast(q.device.type, enabled=False):  # a bfloat16 result would round the count
            for q_bytes, g_bytes in zip(q.split(CHUNK, dim=1), part.split(CHUNK, dim=1), strict=True):
                product += (_signs(q_bytes) @ _signs(g_bytes).T).int()
        yield first, product.neg_().add_(bits).bitwise_right_shift_(1)  # halves an even number


def _bits(codes: Tensor) -> Tensor:
    """uint8 [N, W] -> uint8 [N, 8 W] of 0 and 1, the lowest bit of each byte first."""
    shift = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return ((codes.unsqueeze(2) >> shift) & 1).flatten(1)


def _signs(codes: Tensor) -> Tensor:
    """uint8 [N, W] -> float32 [N, 8 W] of -1 and +1."""
    return _bits(codes).float().mul_(2).sub_(1)


def _kind(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def check_codes(name: str, codes: Tensor) -> None:
    """Packed codes: a uint8 matrix with rows and bytes."""
    if not isinstance(codes, Tensor) or codes.dtype != torch.uint8:
        raise TypeError(f"{name} must be packed codes, a uint8 tensor (see zsml.ops.pack_bits), got {_kind(codes)}")
    if codes.dim() != 2:
        raise InputError(f"{name} must have shape [rows, bytes], got {list(codes.shape)}")
    if codes.shape[0] == 0 or codes.shape[1] == 0:
        raise InputError(f"{name} must have at least one row and one byte per row, got {list(codes.shape)}")


def _check_pair(q: Tensor, g: Tensor) -> None:
    check_codes("q", q)
    check_codes("g", g)
    if q.shape[1] != g.shape[1]:
        raise InputError(f"q and g must be codes of one width, got {q.shape[1]} and {g.shape[1]} bytes per row")
    if q.device != g.device:
        raise InputError(f"q and g must be on one device, got {q.device} and {g.device}")
