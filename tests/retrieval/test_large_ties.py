"""1,000 queries, 5,000 gallery items, hardly any distance that is not shared: against numpy, which sorts everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zsml.metrics import evaluate_retrieval


def problem(kind: str, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    """Query, labels, gallery, labels, and their integer distances [1000, 5000]."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 13, 1000), generator.integers(0, 12, 5000)  # class 12 is not in the gallery
    if kind == "hamming":
        query, gallery = (generator.integers(0, 256, (n, 2), dtype=np.uint8) & 0b01101101 for n in (1000, 5000))
        bits = [np.unpackbits(codes, axis=1).astype(np.float32) for codes in (query, gallery)]
    else:
        query, gallery = (generator.integers(-1, 2, (n, 6)).astype(np.float32) for n in (1000, 5000))
        bits = [query, gallery]
    squares = [(b * b).sum(axis=1) for b in bits]
    distances = (squares[0][:, None] + squares[1] - 2 * bits[0] @ bits[1].T).astype(np.int32)  # small integers: exact
    tensors = [torch.from_numpy(x) for x in (query, labels[0], gallery, labels[1])]
    return *tensors, distances


@pytest.mark.parametrize("kind", ["hamming", "euclidean"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("interpolation", [None, "voc"])
def test_ap_and_precision_equal_a_stable_sort(kind: str, seed: int, interpolation: str | None) -> None:
    query, query_labels, gallery, gallery_labels, distances = problem(kind, seed)
    found = evaluate_retrieval(
        query,
        query_labels,
        gallery,
        gallery_labels,
        distance=kind,
        interpolation=interpolation,
        precision_at=(7, 100),
        map_at=(50,),
    )
    order = np.argsort(distances, axis=1, kind="stable")
    relevance = gallery_labels.numpy()[order] == query_labels.numpy()[:, None]  # [1000, 5000]
    hits = relevance.cumsum(axis=1)
    precision = hits / np.arange(1, 5001)

    def ap(p: np.ndarray, hit: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        if interpolation == "voc":
            p = np.maximum.accumulate(p[:, ::-1], axis=1)[:, ::-1]
        return (p * hit).sum(axis=1) / denominator

    total = relevance.sum(axis=1)
    valid = total > 0
    assert found.num_valid_queries == valid.sum() < 1000
    expected = ap(precision[valid], relevance[valid], total[valid])
    np.testing.assert_allclose(found.ap.numpy()[valid], expected, rtol=1e-12)
    assert np.isnan(found.ap.numpy()[~valid]).all()
    for k in (7, 100):
        assert found.precision[k] == pytest.approx(precision[valid, k - 1].mean(), rel=1e-12)
    top = ap(precision[valid, :50], relevance[valid, :50], np.minimum(50, total[valid]))
    assert found.map_at[50] == pytest.approx(top.mean(), rel=1e-12)
