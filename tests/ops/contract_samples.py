"""Arguments of every registered op, for test_contract.py."""

from __future__ import annotations

import torch
from torch import Tensor

from zsml.ops.margin_softmax import reference as margin_softmax_reference
from zsml.ops.supcon import reference as supcon_reference


def rows(count: int, width: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def ids(count: int, classes: int) -> Tensor:
    return torch.arange(count) % classes


def bits(count: int, width: int) -> Tensor:
    return rows(count, width) > 0


def codes(count: int, width: int, levels: int = 256, seed: int = 0) -> Tensor:
    return torch.randint(0, levels, (count, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def class_lists(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(order, starts) of csrc/rank_relevant.h."""
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), labels.bincount(minlength=classes).cumsum(0)])
    return labels.argsort(stable=True), starts


def spread(t: object) -> object:
    """A tensor's values with a stride on every axis."""
    if not isinstance(t, Tensor):
        return t
    for axis in range(t.dim()):
        t = t.repeat_interleave(2, dim=axis)
    return t[tuple(slice(None, None, 2) for _ in range(t.dim()))]


def slopes() -> tuple[Tensor, Tensor, Tensor]:
    """slope, distance and index of csrc/modality_triplet.h for 9 rows."""
    return rows(4, 9), rows(4, 9).abs(), ids(36, 9).view(4, 9)


SHIFT = torch.full((6,), 0.125, dtype=torch.float64)


def by_distance(dtype: torch.dtype = torch.float32, cosine: bool = False) -> tuple:
    shift = torch.zeros_like(SHIFT) if cosine else SHIFT
    return rows(5, dtype=dtype), ids(5, 4), rows(11, dtype=dtype, seed=1), *class_lists(ids(11, 3), 4), shift, 0.25, cosine


def contrast(anchors: Tensor, refs: Tensor | None = None, exclude: Tensor | None = None) -> tuple:
    """The tensors of supcon."""
    count, others = len(anchors), 0 if refs is None else len(refs)
    of_refs = (None, None, None) if refs is None else (refs, ids(others, 4), ids(others, 2))
    return anchors, ids(count, 3), ids(count, 2), *of_refs, exclude


def contrast_gradient(grad: Tensor, tensors: tuple, *options: object, need_x: bool = True, need_refs: bool = True) -> tuple:
    """The arguments of supcon_backward, with what the forward pass found."""
    _, lse, positives, pull = supcon_reference(*tensors, *options)
    return grad, *tensors, *options, lse, positives, pull, need_x, need_refs


def to_centers(dtype: torch.dtype = torch.float32, samples: int = 5, classes: int = 11) -> tuple:
    return rows(samples, dtype=dtype), rows(classes, dtype=dtype, seed=1), ids(samples, classes)


def to_centers_gradient(tensors: tuple, *options: object, need_x: bool = True, need_centers: bool = True) -> tuple:
    """The arguments of margin_softmax_backward."""
    others, target = margin_softmax_reference(*tensors, *options)
    grads = torch.ones_like(others), torch.full_like(target, 0.5)
    return *grads, *tensors, others, target, *options, need_x, need_centers


# op name -> {sample name: arguments}. "not contiguous" is there for every op, "empty" (an input or the result) for every op but
# those of NEVER_EMPTY.
SAMPLES = {
    "hardest_pairs": {
        "self": (rows(9), ids(9, 3), ids(9, 2), None, None, None, None, 0),
        "float64": (rows(9, dtype=torch.float64), ids(9, 3), ids(9, 1), None, None, None, None, 0),
        "bfloat16": (rows(9, dtype=torch.bfloat16), ids(9, 2), ids(9, 3), None, None, None, None, 1),
        "refs": (rows(5), ids(5, 3), ids(5, 2), rows(11, seed=1), ids(11, 4), ids(11, 2), ids(5, 4) - 1, 0),
        "empty": (rows(5), ids(5, 3), ids(5, 2), rows(0), ids(0, 1), ids(0, 1), None, 0),
        "not contiguous": tuple(
            map(spread, (rows(5), ids(5, 3), ids(5, 2), rows(11, seed=1), ids(11, 4), ids(11, 2), ids(5, 4), 2))
        ),
    },
    "hardest_pairs_backward": {
        "self": (rows(4, 9), rows(9), None, rows(4, 9).abs(), ids(36, 9).view(4, 9), True, False),
        "half": (rows(4, 9), rows(9).half(), rows(7).half(), rows(4, 9).abs(), ids(36, 8).view(4, 9) - 1, True, True),
        "x alone": (rows(4, 9), rows(9), rows(7), rows(4, 9).abs(), ids(36, 7).view(4, 9), True, False),
        "refs alone": (rows(4, 9), rows(9), rows(7), rows(4, 9).abs(), ids(36, 7).view(4, 9), False, True),
        "empty": (rows(4, 9), rows(9), rows(0), rows(4, 9).abs(), ids(36, 1).view(4, 9) - 1, True, True),
        "not contiguous": tuple(map(spread, (rows(4, 9), rows(9), rows(7), rows(4, 9).abs(), ids(36, 7).view(4, 9), True, True))),
    },
    "supcon": {
        "self": (*contrast(rows(9)), 0.5, 0, False),
        "within": (*contrast(rows(9)), 0.5, 1, False),
        "cross per pair": (*contrast(rows(9)), 0.5, 2, True),
        "float64": (*contrast(rows(9, dtype=torch.float64)), 0.07, 0, True),
        "bfloat16": (*contrast(rows(9, dtype=torch.bfloat16)), 1.0, 0, False),
        "refs": (*contrast(rows(5), rows(11, seed=1), ids(5, 4) - 1), 0.5, 0, False),
        "refs per pair": (*contrast(rows(5), rows(11, seed=1), ids(5, 4) - 1), 0.5, 0, True),
        "empty": (*contrast(rows(5), rows(0)), 0.5, 0, False),
        "not contiguous": tuple(map(spread, (*contrast(rows(5), rows(11, seed=1), ids(5, 4)), 0.5, 0, True))),
    },
    "supcon_backward": {
        "self": contrast_gradient(rows(9)[:, 0], contrast(rows(9)), 0.5, 0, False, need_refs=False),
        "per pair": contrast_gradient(rows(9)[:, 0], contrast(rows(9)), 0.5, 0, True, need_refs=False),
        "half": contrast_gradient(rows(5)[:, 0], contrast(rows(5).half(), rows(11, seed=1).half(), ids(5, 4)), 0.5, 0, True),
        "x alone": contrast_gradient(rows(5)[:, 0], contrast(rows(5), rows(11, seed=1)), 0.5, 2, False, need_refs=False),
        "refs alone": contrast_gradient(rows(5)[:, 0], contrast(rows(5), rows(11, seed=1)), 0.5, 1, False, need_x=False),
        "empty": contrast_gradient(rows(5)[:, 0], contrast(rows(5), rows(0)), 0.5, 0, False),
        "not contiguous": tuple(
            map(spread, contrast_gradient(rows(5)[:, 0], contrast(rows(5), rows(11, seed=1), ids(5, 4)), 0.5, 0, True))
        ),
    },
    "margin_softmax": {
        "inner": (*to_centers(), 0, 2.0),
        "squared distance": (*to_centers(), 1, 1.0),
        "distance": (*to_centers(), 2, 1.0),
        "float64": (*to_centers(torch.float64), 2, 0.5),
        "bfloat16": (*to_centers(torch.bfloat16), 1, 1.0),
        "one class": (*to_centers(classes=1), 1, 1.0),
        "not contiguous": tuple(map(spread, (*to_centers(), 0, 2.0))),
    },
    "margin_softmax_backward": {
        "inner": to_centers_gradient(to_centers(), 0, 2.0),
        "squared distance": to_centers_gradient(to_centers(), 1, 1.0),
        "half": to_centers_gradient(to_centers(torch.float16), 2, 1.0),
        "x alone": to_centers_gradient(to_centers(), 1, 1.0, need_centers=False),
        "centers alone": to_centers_gradient(to_centers(), 0, 1.0, need_x=False),
        "one class": to_centers_gradient(to_centers(classes=1), 1, 1.0),
        "not contiguous": tuple(map(spread, to_centers_gradient(to_centers(), 1, 2.0))),
    },
    "modality_triplet": {
        "adaptive": (rows(9), ids(9, 3), ids(9, 2), 7, 0.2, 20.0, 1, True, 0),
        "released": (rows(9, dtype=torch.float64), ids(9, 3), ids(9, 2), 5, 0.2, 20.0, 2, True, 0),
        "relu, as it is": (rows(9, dtype=torch.bfloat16), ids(9, 3), ids(9, 2), 1, 0.2, 0.0, 0, False, 0),
        "not contiguous": tuple(map(spread, (rows(9), ids(9, 3), ids(9, 2), 7, 0.2, 20.0, 0, True, 0))),
    },
    "modality_triplet_backward": {
        "unit rows": (rows(1)[0, 0], rows(9), *slopes(), rows(9, seed=1), rows(9, dtype=torch.float64)[:, 0].abs() + 1),
        "as it is": (rows(1)[0, 0], rows(9, dtype=torch.float16), *slopes(), rows(0), rows(0, dtype=torch.float64)[:, 0]),
        "not contiguous": (
            rows(1)[0, 0],
            *map(spread, (rows(9), *slopes(), rows(9, seed=1), rows(9, dtype=torch.float64)[:, 0].abs() + 1)),
        ),
    },
    "pack_bits": {
        "whole bytes": (bits(5, 16),),
        "part of a byte": (bits(5, 13),),
        "not contiguous": (spread(bits(5, 13)),),
    },
    "unpack_bits": {
        "whole bytes": (codes(5, 2), 16),
        "part of a byte": (codes(5, 2), 9),
        "not contiguous": (spread(codes(5, 2)), 9),
    },
    "hamming_distance": {
        "random": (codes(5, 9), codes(70, 9, seed=1)),
        "not contiguous": (spread(codes(5, 9)), spread(codes(70, 9, seed=1))),
    },
    "hamming_topk": {
        "some": (codes(5, 9), codes(70, 9, seed=1), 7),
        "ties": (codes(5, 1, 2), codes(70, 1, 2, seed=1), 70),
        "empty": (codes(5, 9), codes(70, 9, seed=1), 0),
        "not contiguous": (spread(codes(5, 9)), spread(codes(70, 9, seed=1)), 7),
    },
    "hamming_rank": {
        "random": (codes(5, 9), codes(70, 9, seed=1)),
        "ties": (codes(5, 1, 2), codes(70, 1, 2, seed=1)),
        "not contiguous": (spread(codes(5, 9)), spread(codes(70, 9, seed=1))),
    },
    "hamming_rank_relevant": {
        "random": (codes(5, 9), ids(5, 4), codes(70, 9, seed=1), *class_lists(ids(70, 3), 4)),
        "ties": (codes(5, 1, 2), ids(5, 3), codes(70, 1, 2, seed=1), *class_lists(ids(70, 3), 3)),
        "empty": (codes(5, 9), torch.full((5,), 3), codes(70, 9, seed=1), *class_lists(ids(70, 3), 4)),
        "not contiguous": tuple(map(spread, (codes(5, 9), ids(5, 3), codes(70, 9, seed=1), *class_lists(ids(70, 3), 3)))),
    },
    "pack_gallery": {
        "float32": (rows(11), ids(11, 11), SHIFT, 0.25, False),
        "float64 cosine": (rows(40, dtype=torch.float64), ids(40, 40), SHIFT, 1.0, True),
        "bfloat16": (rows(33, dtype=torch.bfloat16), ids(33, 33), SHIFT, 1.0, False),
        "not contiguous": tuple(map(spread, (rows(11), ids(11, 11), SHIFT, 0.25, False))),
    },
    "rank_relevant": {
        "float32": by_distance(),
        "float64": by_distance(torch.float64),
        "bfloat16": by_distance(torch.bfloat16),
        "cosine": by_distance(cosine=True),
        "nothing relevant": (rows(5), torch.full((5,), 3), rows(11, seed=1), *class_lists(ids(11, 3), 4), SHIFT, 0.25, False),
        "empty": (rows(0), ids(0, 1), rows(11, seed=1), *class_lists(ids(11, 3), 4), SHIFT, 0.25, False),
        "not contiguous": tuple(map(spread, by_distance())),
    },
}
# Their results are empty only for empty input, which zsml.ops refuses.
NEVER_EMPTY = {
    "modality_triplet",
    "modality_triplet_backward",
    "pack_bits",
    "unpack_bits",
    "hamming_distance",
    "hamming_rank",
    "pack_gallery",
    "margin_softmax",
    "margin_softmax_backward",
}
# Ops whose outputs may be differentiated (with respect to the arguments that are floating point).
DIFFERENTIABLE = {"hardest_pairs", "modality_triplet", "margin_softmax", "supcon"}
# Ops whose results are as long as the values of their arguments say.
VALUE_DEPENDENT_SIZE = {"hamming_rank_relevant", "pack_gallery", "rank_relevant"}

# op name -> statements that define work(B): hardest_pairs on about B x B pairs, forward and backward, without refs and with them;
# the ranks, whose plain-torch stand-ins sort, on B / 4 x B.
LARGE = {
    "hardest_pairs": """
        def work(B):
            x, refs = torch.randn(B, 16, requires_grad=True), torch.randn(B, 16, requires_grad=True)
            labels, modality = torch.arange(B) % 512, torch.arange(B) // 512 % 2
            op = torch.ops.zsml.hardest_pairs
            op(x, labels, modality, None, None, None, None, 0)[0].sum().backward()
            some = slice(B // 4)
            op(x[some], labels[some], modality[some], refs, labels, modality, labels[some], 0)[0].sum().backward()
    """,
    "supcon": """
        def work(B):
            x, refs = torch.randn(B, 16, requires_grad=True), torch.randn(B, 16, requires_grad=True)
            labels, modality = torch.arange(B) % 512, torch.arange(B) // 512 % 2
            op = torch.ops.zsml.supcon
            op(x, labels, modality, None, None, None, None, 0.5, 0, False)[0].sum().backward()
            some = slice(B // 4)
            op(x[some], labels[some], modality[some], refs, labels, modality, labels[some], 0.5, 2, True)[0].sum().backward()
    """,
    "margin_softmax": """
        def work(B):
            x, centers = torch.randn(B, 16, requires_grad=True), torch.randn(B, 16, requires_grad=True)
            for measure, size in enumerate((B // 8, B // 2, B // 8)):
                others, target = torch.ops.zsml.margin_softmax(x[:size], centers, torch.arange(size), measure, 1.0)
                (others + target).sum().backward()
    """,
    "modality_triplet": """
        def work(B):
            x = torch.randn(B, 16, requires_grad=True)
            labels, modality = torch.arange(B) % 512, torch.arange(B) // 512 % 2
            torch.ops.zsml.modality_triplet(x, labels, modality, 7, 0.2, 20.0, 1, True, 0)[0].backward()
    """,
    "hamming_topk": """
        def work(B):
            codes = torch.randint(0, 256, (B, 4), dtype=torch.uint8)
            torch.ops.zsml.hamming_topk(codes, codes, 5)
    """,
    "hamming_rank_relevant": """
        def work(B):
            codes = torch.randint(0, 256, (B, 4), dtype=torch.uint8)
            order, starts = torch.arange(B), torch.arange(B + 1)
            torch.ops.zsml.hamming_rank_relevant(codes[: B // 4], order[: B // 4], codes, order, starts)
    """,
    "rank_relevant": """
        def work(B):
            x, shift = torch.randn(B, 4), torch.zeros(4, dtype=torch.float64)
            order, starts = torch.arange(B), torch.arange(B + 1)
            torch.ops.zsml.rank_relevant(x[: B // 4], order[: B // 4], x, order, starts, shift, 1.0, False)
    """,
}
NO_LARGE_RUN = {
    "modality_triplet_backward": "part of the run of modality_triplet",
    "hardest_pairs_backward": "part of the run of hardest_pairs",
    "supcon_backward": "part of the run of supcon",
    "margin_softmax_backward": "part of the run of margin_softmax",
    "pack_gallery": "one row per gallery item",
    "hamming_distance": "the pairs are what it returns",
    "hamming_rank": "the pairs are what it returns",
    "pack_bits": "takes no pairs",
    "unpack_bits": "takes no pairs",
}
