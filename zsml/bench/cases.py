"""Every comparison `zsml bench` knows, by op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zsml.bench import cases_losses, peers_evaluate, peers_hamming, truth
from zsml.bench.case import Case, Provider
from zsml.bench.cases_losses import BOTH, WIDTH
from zsml.bench.data import SETS, Retrieval, draw_codes, draw_embeddings
from zsml.errors import InputError

BITS = (64, 512)
NEAREST = (100, 200)
RANKING = 1 << 28  # indices of a ranking held at a time: 2 GiB for those who use int64
FEW = 64  # queries for peers that take milliseconds for one
PUBLISHED_SETS = ("sketchy", "tuberlin", "quickdraw")


# ---- retrieval --------------------------------------------------------------------------------------------------------------


def _on_set(name: str, queries: int | None, bits: int | None, **rest: Any) -> Case:
    """A case on one of the sets: codes of `bits` bits, or embeddings."""
    size = SETS[name]
    used = min(size.queries, *([queries] if queries else []), rest.pop("most", size.queries))
    draw: Callable[[str], Retrieval]
    if bits is None:
        shape, draw = {"gallery": size.gallery, "D": WIDTH}, lambda device: draw_embeddings(name, used, WIDTH, device)
    else:
        shape, draw = {"gallery": size.gallery, "bits": bits}, lambda device: draw_codes(name, used, bits, device)
    shape |= rest.pop("shape", {})
    label = ", ".join([name, *([f"{bits} bits"] if bits else []), *([f"k = {shape['k']}"] if "k" in shape else [])])
    return Case(
        size=name, name=label, dtype="float32" if bits is None else "uint8", shape=shape, draw=draw,
        queries=used, full_queries=size.queries, **rest,
    )  # fmt: skip


def hamming_topk(sizes: Sequence[str], queries: int | None) -> list[Case]:
    """The k nearest codes."""

    def providers(k: int) -> list[Provider]:
        return [
            Provider("zsml", peers_hamming.topk_zsml(k), devices=BOTH),
            Provider("faiss-heap", peers_hamming.topk_faiss(k, heap=True)),
            Provider("faiss-counting", peers_hamming.topk_faiss(k, heap=False)),
            Provider("torch-product-topk", peers_hamming.topk_torch(k), devices=BOTH),
        ]

    return [
        _on_set(name, queries, bits, op="hamming_topk", mode="distances and indices", shape={"k": k},
                truth=truth.nearest, check=truth.check_topk, providers=providers(k))
        for name in sizes for bits in BITS for k in NEAREST if k <= SETS[name].gallery
    ]  # fmt: skip


def hamming_rank(sizes: Sequence[str], queries: int | None) -> list[Case]:
    """The whole gallery in order of distance."""
    providers = [
        Provider("zsml", peers_hamming.rank_zsml, devices=BOTH),
        Provider("faiss.hammings-radix", peers_hamming.rank_faiss),
        Provider("numpy-popcount-radix", peers_hamming.rank_numpy),
        Provider("scipy-published", peers_hamming.rank_scipy, most=FEW),
        Provider("torch-product-argsort", peers_hamming.rank_torch, devices=("cuda",)),
    ]
    return [
        _on_set(name, queries, bits, op="hamming_rank", mode="whole ranking", most=RANKING // SETS[name].gallery,
                truth=truth.nearest, check=truth.check_rank, providers=providers)
        for name in sizes for bits in BITS
    ]  # fmt: skip


def evaluate(sizes: Sequence[str], queries: int | None) -> list[Case]:
    """AP@all and P@100 from embeddings."""
    providers = [
        Provider("zsml", peers_evaluate.zsml("euclidean"), devices=BOTH),
        Provider("torch-product", peers_evaluate.product_torch, mode="product alone", devices=BOTH),
        Provider("numpy-sort-search", peers_evaluate.search_numpy),
        Provider("numpy-argsort", peers_evaluate.argsort_numpy),
        Provider("torch-sort", peers_evaluate.sort_torch, most=4 * FEW, devices=BOTH),
        Provider("faiss-flat", peers_evaluate.flat_faiss, mode="P@100 alone"),
        Provider("torchmetrics", peers_evaluate.torchmetrics_map, mode="AP alone", most=FEW, devices=BOTH),
        Provider("pytorch-metric-learning", peers_evaluate.metric_learning_map, mode="AP alone", most=FEW),
        Provider("scipy-published", peers_evaluate.published("euclidean"), mode="AP (VOC) and P@100", most=FEW),
    ]
    return [
        _on_set(name, queries, None, op="evaluate", mode="AP and P@100", truth=truth.score, check=truth.check_evaluation,
                providers=providers)
        for name in sizes
    ]  # fmt: skip


def evaluate_codes(sizes: Sequence[str], queries: int | None) -> list[Case]:
    """AP@all and P@100 from codes."""
    providers = [
        Provider("zsml", peers_evaluate.zsml("hamming"), devices=BOTH),
        Provider("zsml-hamming_rank", peers_evaluate.codes_rank_only, mode="ranking alone", devices=BOTH),
        Provider("zsml-hamming_rank-cumsum", peers_evaluate.codes_rank_zsml, devices=BOTH),
        Provider("faiss.hammings-radix-cumsum", peers_evaluate.codes_rank_faiss),
        Provider("scipy-published", peers_evaluate.published("hamming"), mode="AP (VOC)", most=FEW),
    ]
    return [
        _on_set(name, queries, bits, op="evaluate_codes", mode="AP and P@100", truth=truth.score, check=truth.check_evaluation,
                providers=providers)
        for name in sizes for bits in BITS
    ]  # fmt: skip


RETRIEVAL = {
    "hamming_topk": hamming_topk,
    "hamming_rank": hamming_rank,
    "evaluate": evaluate,
    "evaluate_codes": evaluate_codes,
}
# op -> (its cases at sizes, the usual ones, what a size is)
LOSSES = {
    "hardest_pairs": (
        cases_losses.hardest_pairs,
        (120, 512, 1024, 2048, 4096, 8192, 16_384, 65_536),
        "a batch size of 16 or more",
    ),
    "supcon": (cases_losses.supcon, (512, 1024, 4096), "a batch size of 16 or more"),
    "margin_softmax": (cases_losses.margin_softmax, (1000, 100_000, 1_000_000), "a number of classes of 16 or more"),
}
OPS = (*LOSSES, *RETRIEVAL)


def find_cases(ops: Sequence[str], sizes: Sequence[str] = (), queries: int | None = None) -> list[Case]:
    """The cases of these ops ("all": of every op) at these sizes (none: the usual ones).

    queries: rows used of a set; None: all it has.

    Raises:
        InputError: an unknown op, or a size that none of the ops has.

    >>> [case.name for case in find_cases(["hamming_rank"], ["tiny"])]
    ['tiny, 64 bits', 'tiny, 512 bits']
    """
    unknown = [op for op in ops if op not in (*OPS, "all")]
    if unknown or not ops:
        what = f"op {unknown[0]!r} is not known" if unknown else "no op is given"
        raise InputError(f"{what}; choose from {', '.join(OPS)}, all, report")
    wanted = OPS if "all" in ops else tuple(dict.fromkeys(ops))
    numbers, sets = [size for size in sizes if size.isdecimal() and int(size) >= 16], [size for size in sizes if size in SETS]
    losses, retrieval = ([op for op in wanted if op in family] for family in (LOSSES, RETRIEVAL))
    for size in sizes:
        if not (size in sets and retrieval) and not (size in numbers and losses):
            names = [*(SETS if retrieval else ()), *dict.fromkeys(LOSSES[op][2] for op in losses)]
            raise InputError(f"--sizes {size!r} is no size of {', '.join(wanted)}; choose from {', '.join(names)}")
    cases = []
    for op in losses:
        make, usual, _ = LOSSES[op]
        cases += make(numbers if sizes else [str(size) for size in usual])
    for op in retrieval:
        cases += RETRIEVAL[op](sets if sizes else PUBLISHED_SETS, queries)
    return cases
