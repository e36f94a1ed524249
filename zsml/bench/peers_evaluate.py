"""Average precision and precision at 100 as people compute them, each as `make(data) -> call` (see case.Provider).

A call returns a dict; truth.check_evaluation says what its keys mean. Embeddings are unit vectors, which the inner product
ranks as the Euclidean distance does, so the peers use it where they can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from zsml.bench.data import Retrieval
from zsml.bench.peers_hamming import in_threads, rank_faiss, rank_zsml
from zsml.metrics import evaluate_retrieval
from zsml.ops import hamming_rank, unpack_bits

BLOCK = 256  # queries at a time
SOME = 16  # of them for a thread at a time
TOP = 100  # of precision at k

Answer = Callable[[], dict[str, Any]]


def zsml(distance: str) -> Callable[[Retrieval], Answer]:
    """evaluate_retrieval, AP without interpolation."""

    def make(data: Retrieval) -> Answer:
        def call() -> dict[str, Any]:
            result = evaluate_retrieval(*data, distance=distance, precision_at=(TOP,), map_at=(), interpolation=None)
            return {"ap": result.ap.numpy(), "p100": result.precision[TOP]}

        return call

    return make


def product_torch(data: Retrieval) -> Answer:
    """The float32 product Q G^T alone: no ranks, no scores. A yardstick."""
    columns = data.gallery.T
    score = torch.empty(min(4 * BLOCK, len(data.query)), len(data.gallery), device=data.query.device)

    def call() -> dict[str, Any]:
        for rows in reversed(data.query.split(len(score))):  # so that the first queries' product is what remains
            torch.mm(rows, columns, out=score[: len(rows)])
        return {"product": score[:TOP]}

    return call


def sort_torch(data: Retrieval) -> Answer:
    """Product, torch.sort, cumulative sums."""

    def block(query: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order = (query @ data.gallery.T).argsort(dim=1, descending=True)
        relevant = data.gallery_labels[order] == labels[:, None]
        hits = relevant.cumsum(dim=1)
        precision = hits / torch.arange(1, hits.shape[1] + 1, device=hits.device)
        return (precision * relevant).sum(dim=1) / hits[:, -1], relevant[:, :TOP].float().mean(dim=1)

    def call() -> dict[str, Any]:
        parts = zip(data.query.split(BLOCK), data.query_labels.split(BLOCK), strict=True)
        ap, top = zip(*(block(*part) for part in parts), strict=True)
        return {"ap": torch.cat(ap).cpu().numpy(), "p100": torch.cat(top).mean().item()}

    return call


def search_numpy(data: Retrieval) -> Answer:
    """The best packaged way: product, numpy's vectorised sort of the values, and the relevant ones searched among them.

    The rank of a relevant item is the number of values not below its own. The gallery is grouped by class beforehand.
    """
    import threadpoolctl  # noqa: F401  without it nobody tells numpy's product how many threads to use

    by_class = np.argsort(data.gallery_labels.numpy(), kind="stable")
    gallery, classes = data.gallery.numpy()[by_class], data.gallery_labels.numpy()[by_class]
    query, labels = data.query.numpy(), data.query_labels.numpy()
    first, last = np.searchsorted(classes, labels), np.searchsorted(classes, labels, side="right")
    size, places = len(gallery), np.arange(1, len(gallery) + 1)

    def call() -> dict[str, Any]:
        ap, top = np.empty(len(query)), np.empty(len(query))
        for start in range(0, len(query), BLOCK):
            values = query[start : start + BLOCK] @ gallery.T

            def some(begin: int, start: int = start, values: np.ndarray = values) -> None:
                rows = values[begin : begin + SOME]
                numbers = range(start + begin, start + begin + len(rows))
                own = [np.sort(row[first[q] : last[q]])[::-1] for row, q in zip(rows, numbers, strict=True)]
                rows.sort(axis=1)
                for row, mine, q in zip(rows, own, numbers, strict=True):
                    ranks = size - np.searchsorted(row, mine)  # ascending
                    ap[q] = (places[: len(ranks)] / ranks).mean()
                    top[q] = np.searchsorted(ranks, TOP, side="right") / TOP

            in_threads(some, range(0, len(values), SOME))
        return {"ap": ap, "p100": top.mean()}

    return call


def argsort_numpy(data: Retrieval) -> Answer:
    """Product, numpy's argsort, cumulative sums."""
    import threadpoolctl  # noqa: F401  as above

    query, labels, gallery, classes = (tensor.numpy() for tensor in data)
    places = np.arange(1, len(gallery) + 1, dtype=np.float32)

    def rows(part: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return ap_of_ranking(np.argsort(-part[0], axis=1), part[1], classes, places)

    def call() -> dict[str, Any]:
        parts = []
        for start in range(0, len(query), BLOCK):
            values, wanted = query[start : start + BLOCK] @ gallery.T, labels[start : start + BLOCK]
            cuts = range(0, len(values), SOME)
            parts += in_threads(rows, [(values[i : i + SOME], wanted[i : i + SOME]) for i in cuts])
        return {"ap": np.concatenate([ap for ap, _ in parts]), "p100": np.concatenate([top for _, top in parts]).mean()}

    return call


def flat_faiss(data: Retrieval) -> Answer:
    """faiss' IndexFlatIP with k = 100: all that precision at 100 needs."""
    import faiss

    query, labels, gallery, classes = (tensor.numpy() for tensor in data)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)

    def call() -> dict[str, Any]:
        _, nearest = index.search(query, TOP)
        return {"p100": (classes[nearest] == labels[:, None]).mean()}

    return call


def torchmetrics_map(data: Retrieval) -> Answer:
    """torchmetrics' RetrievalMAP on the scores of all pairs."""
    from torchmetrics.retrieval import RetrievalMAP

    def call() -> dict[str, Any]:
        score = data.query @ data.gallery.T + 1  # it takes a score below 0 for "not relevant"
        relevant = data.query_labels[:, None] == data.gallery_labels
        own = torch.arange(len(score), device=score.device)[:, None].expand_as(score)
        metric = RetrievalMAP().to(score.device)
        metric.update(score.flatten(), relevant.flatten(), indexes=own.flatten())
        return {"map": metric.compute().item()}

    return call


def metric_learning_map(data: Retrieval) -> Answer:
    """pytorch-metric-learning's AccuracyCalculator on the whole gallery (its search is faiss' with k = N)."""
    import faiss  # noqa: F401  it imports without, and fails when called
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    calculator = AccuracyCalculator(include=("mean_average_precision",), k=None, device=torch.device("cpu"))
    return lambda: {"map": calculator.get_accuracy(*data, ref_includes_query=False)["mean_average_precision"]}


def published(metric: str) -> Callable[[Retrieval], Answer]:
    """As published evaluation code does it: cdist in float64, per query argsort of the scores and a loop for the VOC envelope."""

    def make(data: Retrieval) -> Answer:
        from scipy.spatial.distance import cdist

        query, labels, gallery, classes = data
        if metric == "hamming":
            query, gallery = (unpack_bits(codes, 8 * codes.shape[1]) for codes in (query, gallery))
        query, labels, gallery, classes = (tensor.numpy() for tensor in (query, labels, gallery, classes))

        def call() -> dict[str, Any]:
            scores = -cdist(query, gallery, metric)
            ap, top = np.empty(len(query)), np.empty(len(query))
            for i, row in enumerate(scores):
                relevant = (classes == labels[i])[np.argsort(-row)]
                ap[i], top[i] = _voc(relevant), relevant[:TOP].mean()
            return {"ap_voc": ap, "p100": top.mean()} if metric == "euclidean" else {"ap_voc_ties": ap}

        return call

    return make


def _voc(relevant: np.ndarray) -> float:
    """Area under the precision-recall curve whose precision never falls to the left."""
    hits = np.cumsum(relevant)
    recall = np.concatenate([[0.0], hits / hits[-1], [1.0]])
    precision = np.concatenate([[0.0], hits / np.arange(1, len(hits) + 1), [0.0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())


def codes_rank_only(data: Retrieval) -> Answer:
    """Our own full ranking, not scored. A yardstick for scoring without one."""

    def call() -> dict[str, Any]:
        for query in reversed(data.query.split(BLOCK)):  # so that the first queries' ranking is what remains
            ranking = hamming_rank(query, data.gallery)
        return {"rank": ranking}

    return call


def codes_rank_zsml(data: Retrieval) -> Answer:
    """Our own full ranking, scored by numpy."""
    return _scored(data, rank_zsml)


def codes_rank_faiss(data: Retrieval) -> Answer:
    """The best packaged ranking (faiss.hammings, numpy's radix sort), scored by numpy."""
    return _scored(data, rank_faiss)


def _scored(data: Retrieval, rank: Callable[[Retrieval], Callable[[], list[Any]]]) -> Answer:
    labels, classes = data.query_labels.cpu().numpy(), data.gallery_labels.cpu().numpy()
    places = np.arange(1, len(classes) + 1, dtype=np.float32)
    cuts = range(0, len(labels), BLOCK)
    calls = [rank(data._replace(query=data.query[start : start + BLOCK])) for start in cuts]

    def call() -> dict[str, Any]:
        ap, top = [], []
        for start, ranked in zip(cuts, calls, strict=True):
            order = np.concatenate([np.asarray(block.cpu() if isinstance(block, torch.Tensor) else block) for block in ranked()])
            parts = [(order[i : i + SOME], labels[start + i : start + i + SOME]) for i in range(0, len(order), SOME)]
            for scored in in_threads(lambda part: ap_of_ranking(*part, classes, places), parts):
                ap.append(scored[0])
                top.append(scored[1])
        return {"ap": np.concatenate(ap), "p100": np.concatenate(top).mean()}

    return call


def ap_of_ranking(
    order: np.ndarray, labels: np.ndarray, classes: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AP without interpolation and precision at 100 of whole rankings [rows, N]; places = 1, 2, ..., N."""
    relevant = classes[order] == labels[:, None]
    hits = np.cumsum(relevant, axis=1, dtype=np.float32)
    total = hits[:, -1].copy()
    hits /= places
    hits *= relevant
    return hits.sum(axis=1, dtype=np.float64) / total, relevant[:, :TOP].mean(axis=1)
