"""The interval of mAP over the orders of equally distant items, and gallery orders inside it."""

from __future__ import annotations

import numpy as np
import pytest
import retrieval_oracle as oracle
import torch

from zsml.metrics import evaluate_retrieval


def tied_problem(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes of 3 bits: nearly every item shares its distance with others."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n, high: torch.randint(0, high, (n,), generator=generator)  # noqa: E731
    return draw(7, 8).byte()[:, None], draw(7, 3), draw(7, 8).byte()[:, None], draw(7, 3)


@pytest.mark.parametrize("interpolation", [None, "voc"])
@pytest.mark.parametrize("seed", range(8))
def test_best_and_worst_are_those_of_all_orders(seed: int, interpolation: str | None) -> None:
    query, query_labels, gallery, gallery_labels = tied_problem(seed)
    result = evaluate_retrieval(query, query_labels, gallery, gallery_labels, distance="hamming", interpolation=interpolation)
    best, worst = [], []
    for q, label in zip(query.numpy(), query_labels, strict=True):
        distances = [oracle.distance("hamming", q, g) for g in gallery.numpy()]
        values = {}
        for order in oracle.rankings(distances):
            relevance = tuple(bool(gallery_labels[i] == label) for i in order)
            if relevance not in values:
                values[relevance] = oracle.average_precision(list(relevance), interpolation)
        best.append(max(values.values()))
        worst.append(min(values.values()))
    assert result.map_best == pytest.approx(np.nanmean(best), abs=1e-12)
    assert result.map_worst == pytest.approx(np.nanmean(worst), abs=1e-12)
    assert result.map_worst - 1e-12 <= result.map <= result.map_best + 1e-12


def test_without_ties_the_interval_is_a_point() -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(20, 6, generator=generator), torch.randn(60, 6, generator=generator)
    labels = torch.arange(60) % 4
    result = evaluate_retrieval(query, labels[:20], gallery, labels)
    assert result.map_best == result.map == result.map_worst


def test_the_expected_map_lies_inside() -> None:
    data = tied_problem(3)
    result = evaluate_retrieval(*data, distance="hamming", interpolation=None, ties="expected")
    assert result.map_worst < result.map < result.map_best
