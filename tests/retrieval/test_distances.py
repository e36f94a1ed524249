"""evaluate_distances: against sorting by hand, against evaluate_retrieval, pairs of distances, blocks, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import retrieval_oracle as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsml.errors import InputError
from zsml.metrics import evaluate_distances, evaluate_retrieval

KINDS = [torch.float16, torch.float32, torch.float64, torch.int16, torch.int64]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.sampled_from([None, *KINDS]), st.integers(1, 40))
def test_numbers_are_those_of_sorting_by_distance_second_distance_and_index(seed, kind, second, block) -> None:
    generator = np.random.default_rng(seed)
    q, n = generator.integers(1, 8), generator.integers(1, 30)
    labels, photo_labels = generator.integers(0, 4, q), generator.integers(0, 3, n)
    values = [generator.integers(-3, 4, (q, n)) for _ in range(2)]  # small integers: equal ones in plenty, below and above 0
    tensors = [torch.from_numpy(v).to(t) for v, t in zip(values, (kind, second), strict=True) if t is not None]
    result = evaluate_distances(
        tuple(tensors) if second else tensors[0], labels, photo_labels, precision_at=(1, 5), map_at=(3,), block=block
    )
    for row in range(q):
        ties = values[1][row] if second else np.zeros(n)
        order = sorted(range(n), key=lambda i: (values[0][row, i], ties[i], i))
        relevance = [bool(photo_labels[i] == labels[row]) for i in order]
        expected = oracle.average_precision(relevance, "voc")
        assert float(result.ap[row]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        if q == 1 and any(relevance):
            for found, first in ((result.map_best, True), (result.map_worst, False)):
                order = sorted(range(n), key=lambda i: (values[0][0, i], ties[i], (photo_labels[i] == labels[0]) != first))
                assert found == pytest.approx(oracle.average_precision([photo_labels[i] == labels[0] for i in order], "voc"))
            assert result.precision[5] == pytest.approx(oracle.precision(relevance, 5))
            assert result.map_at[3] == pytest.approx(oracle.average_precision(relevance, "voc", 3))


@pytest.mark.parametrize("preset", ["mathm", "sake", "mems", "sbka", "zse"])
def test_agrees_with_evaluate_retrieval(preset: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(60, 8, generator=generator), torch.randn(400, 8, generator=generator)
    labels, photo_labels = torch.arange(60) % 7, torch.randint(0, 6, (400,), generator=generator)
    theirs = evaluate_retrieval(query, labels, gallery, photo_labels, preset=preset)
    asked, done = [], []

    def rows(start: int, stop: int) -> torch.Tensor:
        asked.append((start, stop))
        return torch.cdist(query[start:stop].double(), gallery.double())

    ours = evaluate_distances(rows, labels, photo_labels, preset=preset, block=4000, progress=done.append)
    torch.testing.assert_close(ours.ap, theirs.ap, equal_nan=True, rtol=0, atol=1e-12)
    assert ours.headline == pytest.approx(theirs.headline) and ours.per_class == pytest.approx(theirs.per_class, nan_ok=True)
    torch.testing.assert_close(ours.pr_curve, theirs.pr_curve)
    assert (ours.num_valid_queries, ours.chance_map) == (theirs.num_valid_queries, theirs.chance_map)
    assert asked == [(n, n + 10) for n in range(0, 60, 10)] and done == [stop for _, stop in asked]


def test_expected_values_over_ties_are_those_of_codes() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = [torch.randint(0, 4, (n, 1), dtype=torch.uint8, generator=generator) for n in (30, 200)]
    labels, photo_labels = torch.arange(30) % 5, torch.randint(0, 5, (200,), generator=generator)
    distances = torch.tensor([[bin(int(a) ^ int(b)).count("1") for b in codes[1]] for a in codes[0]], dtype=torch.uint8)
    options = {"interpolation": None, "ties": "expected", "map_at": (7,)}
    theirs = evaluate_retrieval(codes[0], labels, codes[1], photo_labels, distance="hamming", **options)
    ours = evaluate_distances(distances, labels, photo_labels, **options)
    assert torch.equal(ours.ap, theirs.ap) and ours.map_at == theirs.map_at
    assert (ours.map_best, ours.map_worst) == (theirs.map_best, theirs.map_worst)


def test_zero_has_no_sign_and_infinity_is_last() -> None:
    distances = torch.tensor([[0.0, -0.0, math.inf, -math.inf]])
    labels = torch.tensor([1, 0, 0, 1])
    assert evaluate_distances(distances, [0], labels, interpolation=None).map == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert evaluate_distances(distances.double(), [0], labels, interpolation=None).map_best == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_the_distance_is_described() -> None:
    result = evaluate_distances(torch.zeros(1, 1), [0], [0], preset="sbka", described="hops between words")
    assert result.protocol.sentence().startswith("Protocol sbka: Hops between words, equal distances in gallery order; AP")
    assert result.to_dict()["protocol"]["distance"] == "given"


GOOD = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("distances", "error", "words"),
    [
        (GOOD.T, InputError, r"distances must have shape \[3, 4\], a row per entry of query_labels .* got \[4, 3\]"),
        (GOOD.index_fill(0, torch.tensor([2]), math.nan), InputError, "distances has NaN, first for query 2"),
        (GOOD.tolist(), TypeError, r"distances must be a tensor \[Q, N\], a pair of such or a function, got list"),
        (GOOD > 0, TypeError, "distances must hold real numbers or integers, got torch.bool"),
        ((GOOD, GOOD, GOOD), InputError, "distances must be one tensor or a pair of them, got 3"),
        ((GOOD, GOOD[:2]), InputError, r"distances must have shape \[3, 4\]"),
        (lambda start, stop: GOOD, InputError, r"distances\(0, 2\) must have shape \[2, 4\], got \[3, 4\]"),
        (lambda start, stop: None, TypeError, r"distances\(0, 2\) must be a tensor or a pair of them, got NoneType"),
    ],
)
def test_bad_distances_are_named(distances: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        evaluate_distances(distances, [0, 1, 0], [0, 1, 0, 1], block=8)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"preset": "tcn"}, InputError, "preset must be one of"),
        ({"ties": "expected"}, InputError, "ties='expected' has a closed form only"),
        ({"precision_at": (0,)}, InputError, "precision_at must hold cut-offs of at least 1"),
        ({"block": 0}, InputError, "block must be an int of at least 1"),
        ({"described": ""}, TypeError, "described must be a sentence"),
        ({"query_labels": [0.5, 1, 2]}, TypeError, "query_labels must be integer class ids"),
        ({"gallery_labels": []}, TypeError, "gallery_labels must be integer class ids"),
    ],
)
def test_bad_options_are_named(options: dict, error: type, words: str) -> None:
    arguments = {"query_labels": [0, 1, 0], "gallery_labels": [0, 1, 0, 1], **options}
    with pytest.raises(error, match=words):
        evaluate_distances(GOOD, **arguments)
