"""evaluate_retrieval against a slow loop, published golden values, scikit-learn, and itself in other blocks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import retrieval_oracle as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch.utils._python_dispatch import TorchDispatchMode

from zsml.metrics import chance_map, evaluate_retrieval

EXACT = 1e-12


def problem(queries: int, size: int, width: int, classes: int, seed: int, levels: int = 0):
    """Embeddings and labels; with ``levels`` the coordinates are small integers, so that many distances are equal."""
    generator = torch.Generator().manual_seed(seed)

    def embed(rows: int) -> torch.Tensor:
        if levels:
            return torch.randint(0, levels, (rows, width), generator=generator).float()
        return torch.randn(rows, width, generator=generator)

    def label(rows: int) -> torch.Tensor:
        return torch.randint(0, classes, (rows,), generator=generator)

    return embed(queries), label(queries), embed(size), label(size)


def ranking(relevance: list[int]) -> tuple[torch.Tensor, ...]:
    """A query and a gallery whose ranking has these relevances."""
    gallery = torch.arange(len(relevance)).float()[:, None]
    return torch.tensor([[-1.0]]), torch.tensor([1]), gallery, torch.tensor(relevance)


def check_against_oracle(result, expected: dict, query_labels: torch.Tensor) -> None:
    ap = np.array(expected["ap"])
    np.testing.assert_allclose(result.ap.numpy(), ap, rtol=0, atol=EXACT)
    valid = ~np.isnan(ap)
    assert result.num_queries == len(ap)
    assert result.num_valid_queries == valid.sum()
    for value, rows in [(result.map, ap), *[(result.precision[k], expected["precision"][k]) for k in expected["precision"]]]:
        np.testing.assert_allclose(value, np.array(rows)[valid].mean() if valid.any() else math.nan, rtol=0, atol=EXACT)
    labels = query_labels.numpy()
    class_means = {c: np.nanmean(ap[labels == c]) if valid[labels == c].any() else math.nan for c in np.unique(labels)}
    np.testing.assert_allclose([result.per_class[c] for c in class_means], list(class_means.values()), rtol=0, atol=EXACT)
    if not valid.any():
        assert math.isnan(result.map_macro)
        assert torch.isnan(result.pr_curve).all()
        return
    np.testing.assert_allclose(result.map_macro, np.nanmean(list(class_means.values())), rtol=0, atol=EXACT)
    np.testing.assert_allclose(result.pr_curve.numpy(), np.mean(expected["curve"], axis=0), rtol=0, atol=EXACT)
    for k, rows in expected["map_at"].items():
        rows = np.array(rows)
        by_class = [rows[valid & (labels == c)].mean() for c in np.unique(labels[valid])]
        np.testing.assert_allclose(result.map_at[k], rows[valid].mean(), rtol=0, atol=EXACT)
        np.testing.assert_allclose(result.map_at_macro[k], np.mean(by_class), rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("relevance", "plain", "voc"),
    [([1, 0, 1, 1, 0], 0.80556, 0.83333), ([0, 0, 1, 1, 0, 1], 0.44444, 0.5), ([0, 1, 0, 1, 0, 0, 0, 1], 0.45833, 0.45833)],
)
def test_golden_average_precision(relevance, plain, voc) -> None:
    assert evaluate_retrieval(*ranking(relevance), interpolation=None).map == pytest.approx(plain, abs=5e-6)
    assert evaluate_retrieval(*ranking(relevance)).map == pytest.approx(voc, abs=5e-6)


@pytest.mark.parametrize(("relevance", "voc", "p"), [([1, 0, 1, 1, 0], 0.55556, 0.66667), ([0, 0, 1, 1, 0, 1], 0.11111, 0.33333)])
def test_golden_values_of_the_first_three(relevance, voc, p) -> None:
    result = evaluate_retrieval(*ranking(relevance), map_at=(3,), precision_at=(3,))
    assert result.map_at[3] == pytest.approx(voc, abs=5e-6)
    assert result.precision[3] == pytest.approx(p, abs=5e-6)


def test_one_ranking_in_six_definitions() -> None:
    data = ranking([1, 0, 0, 1, 1, 0, 1, 0, 0, 0])
    voc = evaluate_retrieval(*data, map_at=(2, 5))
    found = evaluate_retrieval(*data, map_at=(2, 5), truncated_denominator="hits")
    assert evaluate_retrieval(*data, interpolation=None).map == pytest.approx(0.667857, abs=5e-7)
    assert voc.map == pytest.approx(0.692857, abs=5e-7)
    assert [voc.map_at[5], voc.map_at[2]] == pytest.approx([0.55, 0.5], abs=EXACT)
    assert found.map_at[2] == 1.0
    plain = evaluate_retrieval(*data, map_at=(5,), truncated_denominator="hits", interpolation=None)
    assert plain.map_at[5] == pytest.approx(0.7, abs=EXACT)


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
@pytest.mark.parametrize("interpolation", ["voc", None])
def test_matches_the_slow_loop(kind: str, interpolation: str | None) -> None:
    data = problem(17, 60, 5, 6, seed=1)
    options = {"map_at": (1, 7, 200), "precision_at": (1, 10, 100), "interpolation": interpolation}
    for denominator, cutoff in [("min_k_r", "k"), ("hits", "min_k_r")]:
        options |= {"truncated_denominator": denominator, "precision_cutoff": cutoff}
        expected = oracle.evaluate(*[t.numpy() for t in data], kind=kind, **options)
        check_against_oracle(evaluate_retrieval(*data, distance=kind, **options), expected, data[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken_at_face_value(dtype: torch.dtype) -> None:
    query, query_labels, gallery, gallery_labels = problem(9, 40, 3, 4, seed=2)
    query, gallery = query.to(dtype), gallery.to(dtype)
    expected = oracle.evaluate(query.double().numpy(), query_labels.numpy(), gallery.double().numpy(), gallery_labels.numpy())
    check_against_oracle(evaluate_retrieval(query, query_labels, gallery, gallery_labels, map_at=()), expected, query_labels)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 25),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["euclidean", "hamming"]),
    st.sampled_from(["voc", None]),
    st.sampled_from(["min_k_r", "hits"]),
    st.sampled_from(["k", "min_k_r"]),
    st.integers(1, 30),
    st.integers(1, 60),
)
def test_heavy_ties_go_by_gallery_index(
    queries, size, width, classes, seed, levels, kind, interpolation, denominator, cutoff, k, block
) -> None:
    data = problem(queries, size, width, classes, seed, levels)
    if kind == "hamming":
        data = data[0].byte(), data[1], data[2].byte(), data[3]
    options = {
        "map_at": (k,),
        "precision_at": (k,),
        "interpolation": interpolation,
        "truncated_denominator": denominator,
        "precision_cutoff": cutoff,
    }
    expected = oracle.evaluate(*[t.numpy() for t in data], kind=kind, **options)
    check_against_oracle(evaluate_retrieval(*data, distance=kind, block=block, **options), expected, data[1])


def test_matches_scikit_learn_without_interpolation() -> None:
    query, query_labels, gallery, gallery_labels = problem(40, 500, 16, 10, seed=3)
    result = evaluate_retrieval(query, query_labels, gallery, gallery_labels, interpolation=None)
    scores = -torch.cdist(query.double(), gallery.double())
    expected = [
        average_precision_score((gallery_labels == c).numpy(), row.numpy()) for row, c in zip(scores, query_labels, strict=True)
    ]
    np.testing.assert_allclose(result.ap.numpy(), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("kind", ["euclidean", "cosine", "hamming"])
def test_every_block_size_gives_the_same_bits(kind: str) -> None:
    query, query_labels, gallery, gallery_labels = problem(50, 400, 33, 7, seed=4)
    gallery[200:] = gallery[:200]  # exact duplicates, of other classes: only their order tells them apart
    if kind == "hamming":
        query, gallery = (query > 0).byte(), (gallery > 0).byte()
    whole = evaluate_retrieval(query, query_labels, gallery, gallery_labels, distance=kind)
    for block in (1, 401, 5000):
        part = evaluate_retrieval(query, query_labels, gallery, gallery_labels, distance=kind, block=block)
        assert torch.equal(part.ap, whole.ap)
        assert part.to_dict() | {"pr_curve": None} == whole.to_dict() | {"pr_curve": None}
        torch.testing.assert_close(part.pr_curve, whole.pr_curve, rtol=1e-13, atol=0)  # summed in another order
    one = evaluate_retrieval(query[31:32], query_labels[31:32], gallery, gallery_labels, distance=kind)
    assert one.ap[0] == whole.ap[31]


def test_never_queries_by_gallery() -> None:
    query, query_labels, gallery, gallery_labels = problem(300, 500, 4, 5, seed=5)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else [out]:
                largest = max(largest, t.numel() if isinstance(t, torch.Tensor) else 0)
            return out

    for kind, block in [("euclidean", 5000), ("cosine", 5000), ("hamming", 5000)]:
        data = (query.byte(), gallery.byte()) if kind == "hamming" else (query, gallery)
        with Watch():
            evaluate_retrieval(data[0], query_labels, data[1], gallery_labels, distance=kind, block=block)
        assert 4000 < largest <= 3 * 5000  # three counts for each of the relevant items of a block


def test_near_duplicates_far_from_the_origin_keep_their_order() -> None:
    base = torch.full((1, 64), 1e6)
    gallery = base.repeat(5, 1)
    gallery[:, 0] += torch.tensor([4.0, 1.0, 3.0, 0.0, 2.0])
    result = evaluate_retrieval(base, torch.tensor([1]), gallery, torch.tensor([0, 1, 0, 1, 0]), interpolation=None)
    assert result.map == 1.0


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_magnitudes_whose_squares_leave_the_range(scale: float) -> None:
    query, query_labels, gallery, gallery_labels = problem(8, 30, 4, 3, seed=6)
    query, gallery = query.double(), gallery.double()
    for kind in ("euclidean", "cosine"):
        plain = evaluate_retrieval(query, query_labels, gallery, gallery_labels, distance=kind)
        scaled = evaluate_retrieval(query * scale, query_labels, gallery * scale, gallery_labels, distance=kind)
        torch.testing.assert_close(scaled.ap, plain.ap, rtol=0, atol=EXACT)


def test_cosine_ignores_length_and_gives_a_zero_vector_similarity_zero() -> None:
    query, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    gallery = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.5, 0.5], [8.0, 8.0], [100.0, 0.0]])
    for position, rank in zip(range(5), [5, 4, 2, 3, 1], strict=True):
        gallery_labels = torch.zeros(5, dtype=torch.int64)
        gallery_labels[position] = 1
        assert evaluate_retrieval(query, labels, gallery, gallery_labels, distance="cosine").map == 1 / rank


def test_query_class_absent_from_the_gallery() -> None:
    query, gallery = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    result = evaluate_retrieval(query, torch.tensor([5, 6, 5]), gallery, torch.tensor([5, 7]))
    assert (result.num_queries, result.num_valid_queries) == (3, 2)
    assert torch.isnan(result.ap).tolist() == [False, True, False]
    assert result.map == result.map_macro == 0.75
    assert result.per_class[5] == 0.75 and math.isnan(result.per_class[6])
    nothing = evaluate_retrieval(query, torch.tensor([1, 2, 3]), gallery, torch.tensor([5, 7]))
    assert nothing.num_valid_queries == 0 and math.isnan(nothing.map) and math.isnan(nothing.chance_map)
    assert nothing.to_dict()["map"] is None


def test_to_dict_survives_strict_json() -> None:
    result = evaluate_retrieval(*problem(5, 20, 3, 9, seed=7), preset="dsn")
    values = result.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["protocol"]["name"] == "dsn" and "then over classes" in values["protocol"]["sentence"]
    assert set(values["precision"]) == {"100"} and len(values["pr_curve"]) == 101


def test_progress_reports_queries_done() -> None:
    seen: list[int] = []
    evaluate_retrieval(*problem(10, 7, 2, 2, seed=8), block=21, progress=seen.append)
    assert len(seen) > 1 and seen == sorted(set(seen)) and seen[-1] == 10


def test_labels_may_be_lists_and_arrays() -> None:
    query, query_labels, gallery, gallery_labels = problem(5, 20, 3, 2, seed=9)
    expected = evaluate_retrieval(query, query_labels, gallery, gallery_labels)
    result = evaluate_retrieval(query.requires_grad_(), query_labels.tolist(), gallery, gallery_labels.int().numpy())
    assert result.to_dict() == expected.to_dict()


def test_chance_is_the_mean_over_all_orders() -> None:
    for relevant, size in [(1, 1), (1, 4), (2, 5), (3, 6), (6, 6)]:
        labels = torch.tensor([1] * relevant + [0] * (size - relevant))
        orders = oracle.rankings([0.0] * size)
        mean = np.mean([oracle.average_precision([i < relevant for i in order]) for order in orders])
        assert chance_map(torch.tensor([1]), labels) == pytest.approx(mean, abs=EXACT)
    assert chance_map([1, 0, 0, 9], [1, 0]) == 0.75
    assert math.isnan(chance_map([3], [1, 0]))
    result = evaluate_retrieval(*problem(30, 50, 2, 4, seed=10))
    assert result.chance_precision == pytest.approx(0.25, abs=0.1)
