"""Expected values over tie orders against enumeration; presets; bad input of evaluate_retrieval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import retrieval_oracle as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsml.errors import InputError
from zsml.metrics import PRESETS, Protocol, chance_map, evaluate_retrieval


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(1, 7))
def test_expected_values_are_means_over_every_order(items, k) -> None:
    distances, labels = [float(d) for d, _ in items], [int(hit) for _, hit in items]
    data = torch.zeros(1, 1), torch.tensor([1]), torch.tensor(distances)[:, None], torch.tensor(labels)
    orders = [[bool(labels[i]) for i in order] for order in oracle.rankings(distances)]
    for denominator in ("min_k_r", "hits"):
        for cutoff in ("k", "min_k_r"):
            result = evaluate_retrieval(
                *data,
                interpolation=None,
                ties="expected",
                map_at=(k,),
                precision_at=(k,),
                truncated_denominator=denominator,
                precision_cutoff=cutoff,
            )
            if not any(labels):
                assert math.isnan(result.map) and result.num_valid_queries == 0
                continue
            found = [result.map, result.map_at[k], result.precision[k]]
            means = np.mean(
                [
                    (
                        oracle.average_precision(order),
                        oracle.average_precision(order, None, k, denominator),
                        oracle.precision(order, k, cutoff),
                    )
                    for order in orders
                ],
                axis=0,
            )
            np.testing.assert_allclose(found, means, rtol=0, atol=1e-12)


def test_expected_over_ties_at_size_agrees_with_sampled_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randint(0, 256, (4, 1), dtype=torch.uint8, generator=generator)
    gallery = torch.randint(0, 256, (300, 1), dtype=torch.uint8, generator=generator)  # nine distances for 300 items
    query_labels, gallery_labels = torch.arange(4), torch.randint(0, 4, (300,), generator=generator)
    for denominator in ("min_k_r", "hits"):
        options = {"distance": "hamming", "interpolation": None, "map_at": (40,), "truncated_denominator": denominator}
        expected = evaluate_retrieval(query, query_labels, gallery, gallery_labels, ties="expected", **options)
        sampled = []
        for _ in range(600):
            order = torch.randperm(300, generator=generator)
            one = evaluate_retrieval(query, query_labels, gallery[order], gallery_labels[order], **options)
            sampled.append((one.map, one.map_at[40]))
        mean, error = np.mean(sampled, axis=0), np.std(sampled, axis=0) / math.sqrt(600)
        assert (np.abs(mean - [expected.map, expected.map_at[40]]) < 4 * error).all()


def test_without_ties_both_rules_agree_and_the_gallery_order_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(1)
    query, gallery = torch.randn(6, 4, generator=generator), torch.randn(80, 4, generator=generator)
    query_labels, gallery_labels = torch.arange(6) % 3, torch.randint(0, 3, (80,), generator=generator)
    order = torch.randperm(80, generator=generator)
    first = evaluate_retrieval(query, query_labels, gallery, gallery_labels, interpolation=None)
    second = evaluate_retrieval(query, query_labels, gallery[order], gallery_labels[order], interpolation=None, ties="expected")
    torch.testing.assert_close(first.ap, second.ap, rtol=0, atol=1e-13)


def test_one_big_tie_is_chance() -> None:
    labels = torch.arange(200) % 8
    result = evaluate_retrieval(
        torch.zeros(8, 3), torch.arange(8), torch.ones(200, 3), labels, interpolation=None, ties="expected"
    )
    assert result.map == pytest.approx(chance_map(torch.arange(8), labels), abs=1e-13)
    assert result.map == pytest.approx(result.chance_map, abs=1e-13)


# One query of class 1, ranked relevance 1 0 1 0 0 0 1, and two of class 0, first and second in order below: micro and
# macro differ, and so do all the denominators.
GALLERY = torch.arange(7.0)[:, None]
GALLERY_LABELS = torch.tensor([1, 0, 1, 0, 0, 0, 1])
QUERIES = torch.tensor([[-1.0], [-1.0], [9.0]])
QUERY_LABELS = torch.tensor([1, 0, 0])
RELEVANCE = [[1, 0, 1, 0, 0, 0, 1], [0, 1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("preset", "interpolation", "cutoff", "by_class"),
    [
        ("mathm", "voc", "k", False),
        ("sake", "voc", "k", True),
        ("dsn", "voc", "k", True),
        ("mems", None, "k", False),
        ("sbka", "voc", "k", True),
        ("zse", "voc", "min_k_r", False),
    ],
)
def test_presets_on_a_worked_example(preset, interpolation, cutoff, by_class) -> None:
    result = evaluate_retrieval(QUERIES, QUERY_LABELS, GALLERY, GALLERY_LABELS, preset=preset, map_at=(5,), precision_at=(5,))

    def mean(values: list[float]) -> float:
        return (values[0] + (values[1] + values[2]) / 2) / 2 if by_class else sum(values) / 3

    rows = [[bool(hit) for hit in row] for row in RELEVANCE]
    assert result.headline["mAP"] == pytest.approx(mean([oracle.average_precision(r, interpolation) for r in rows]))
    assert result.headline["mAP@5"] == pytest.approx(mean([oracle.average_precision(r, interpolation, 5) for r in rows]))
    assert result.headline["P@5"] == pytest.approx(mean([oracle.precision(r, 5, cutoff) for r in rows]))
    assert result.protocol.name.startswith(preset)


@pytest.mark.parametrize("seed", range(3))
def test_the_preset_of_torchmetrics_is_that_library(seed: int) -> None:
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    generator = torch.Generator().manual_seed(seed)
    query, gallery = torch.randn(12, 4, generator=generator), torch.randn(300, 4, generator=generator)
    query_labels, gallery_labels = torch.arange(12) % 3, torch.randint(0, 3, (300,), generator=generator)
    result = evaluate_retrieval(query, query_labels, gallery, gallery_labels, preset="torchmetrics")
    near, hits = 1 / (1 + torch.cdist(query.double(), gallery.double())), query_labels[:, None] == gallery_labels

    def mean(measure, k: int | None = None) -> float:
        return float(sum(measure(n, h, top_k=k) for n, h in zip(near, hits, strict=True)) / 12)

    assert result.map == pytest.approx(mean(retrieval.retrieval_average_precision), abs=1e-6)
    assert result.map_at[200] == pytest.approx(mean(retrieval.retrieval_average_precision, 200), abs=1e-6)
    for k in (100, 200):
        assert result.precision[k] == pytest.approx(mean(retrieval.retrieval_precision, k), abs=1e-6)
    assert result.headline["mAP"] == result.map  # mean over queries


def test_presets_state_themselves_and_what_was_changed() -> None:
    sentences = set()
    for name, protocol in PRESETS.items():
        result = evaluate_retrieval(QUERIES, QUERY_LABELS, GALLERY, GALLERY_LABELS, preset=name)
        assert result.protocol == protocol
        assert set(result.precision) == set(protocol.precision_at) and set(result.map_at) == set(protocol.map_at)
        sentences.add(protocol.sentence())
    assert len(sentences) == len(PRESETS)
    changed = evaluate_retrieval(QUERIES, QUERY_LABELS, GALLERY, GALLERY_LABELS, preset="mems", distance="cosine", ties="index")
    assert changed.protocol.name == "mems (changed: distance)"
    assert changed.protocol.interpolation is None
    assert evaluate_retrieval(QUERIES, QUERY_LABELS, GALLERY, GALLERY_LABELS).protocol == Protocol()


X, LABELS = torch.zeros(3, 2), torch.tensor([0, 1, 2])
CODES = torch.zeros(3, 2, dtype=torch.uint8)
BAD, ZEROS = torch.zeros(20, 2), torch.zeros(20, dtype=torch.int64)
BAD[4, 1], BAD[7, 0] = math.nan, math.inf


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"query": [[0.0]]}, TypeError, "query must be a torch tensor .* got list"),
        ({"gallery": CODES}, TypeError, "gallery must be a real-valued .* packed codes need distance='hamming'"),
        ({"query": X.long()}, TypeError, r"query must be a real-valued tensor .* got torch\.int64"),
        ({"query": X[0]}, InputError, r"query must have shape \[rows, D\], got \[2\]"),
        ({"query": X[:0], "query_labels": LABELS[:0]}, InputError, r"query must have at least 1 row\(s\)"),
        ({"gallery": X[:0], "gallery_labels": LABELS[:0]}, InputError, r"gallery must have at least 1 row\(s\)"),
        ({"gallery": torch.zeros(3, 5)}, InputError, "one width, got 2 and 5"),
        ({"gallery": X.to("meta")}, InputError, "one device, got cpu and meta"),
        ({"query_labels": LABELS[:2]}, InputError, "query_labels has 2 entries but query has 3 rows"),
        ({"gallery_labels": LABELS[None]}, InputError, r"gallery_labels must have shape \[rows\], got \[1, 3\]"),
        ({"gallery_labels": LABELS.float()}, TypeError, "gallery_labels must be integer class ids"),
        ({"query_labels": ["a", "b", "c"]}, TypeError, "query_labels must be a 1-d tensor"),
        (
            {"query": BAD, "query_labels": torch.zeros(20).long()},
            InputError,
            r"query has NaN or infinite values in row\(s\) 4, 7;",
        ),
        ({"gallery": BAD / 0, "gallery_labels": ZEROS}, InputError, "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"),
        ({"distance": "manhattan"}, InputError, "distance must be one of 'euclidean', 'cosine', 'hamming', got 'manhattan'"),
        ({"interpolation": "coco"}, InputError, "interpolation must be one of 'voc', None"),
        ({"ties": "random"}, InputError, "ties must be one of 'index', 'expected'"),
        ({"truncated_denominator": "k"}, InputError, "truncated_denominator must be one of"),
        ({"precision_cutoff": "r"}, InputError, "precision_cutoff must be one of"),
        ({"average": "micro"}, InputError, "average must be one of"),
        (
            {"preset": "zsih"},
            InputError,
            "preset must be one of mathm, sake, dsn, mems, sbka, zse, torchmetrics or None, got 'zsih'",
        ),
        ({"ties": "expected"}, InputError, "pass interpolation=None with it"),
        ({"map_at": (0,)}, InputError, "map_at must hold cut-offs of at least 1"),
        ({"precision_at": (10.0,)}, TypeError, "precision_at must be a tuple of ints"),
        ({"precision_at": "100"}, TypeError, "precision_at must be a tuple of ints"),
        ({"block": 0}, InputError, "block must be an int of at least 1, got 0"),
        ({"distance": "hamming"}, TypeError, "query must be packed codes"),
        ({"distance": "hamming", "query": CODES, "gallery": CODES[:, :1]}, InputError, "one width, got 2 and 1"),
    ],
)
def test_bad_input_is_named(change, error, words) -> None:
    arguments = {"query": X, "query_labels": LABELS, "gallery": X, "gallery_labels": LABELS} | change
    with pytest.raises(error, match=words):
        evaluate_retrieval(**arguments)


def test_bad_labels_of_chance_map_are_named() -> None:
    with pytest.raises(InputError, match="gallery_labels is empty"):
        chance_map(LABELS, LABELS[:0])
    with pytest.raises(TypeError, match="query_labels must be integer class ids"):
        chance_map(LABELS > 0, LABELS)
