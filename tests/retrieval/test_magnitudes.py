"""Rankings do not suffer from rows of very different length, nor from near duplicates."""

from __future__ import annotations

import pytest
import torch

from zsml.errors import InputError
from zsml.metrics import RetrievalEvaluator, evaluate_retrieval


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(20, 8, generator=generator), torch.randn(200, 8, generator=generator)
    return query, torch.arange(20) % 4, gallery, torch.arange(200) % 4


@pytest.mark.parametrize("far", [1e10, 1e24, 1e37])
def test_one_far_query_changes_no_other(far: float) -> None:
    query, query_labels, gallery, gallery_labels = problem()
    plain = evaluate_retrieval(query, query_labels, gallery, gallery_labels).ap
    query[7, 3] = far
    others = torch.arange(20) != 7
    assert torch.equal(evaluate_retrieval(query, query_labels, gallery, gallery_labels).ap[others], plain[others])


@pytest.mark.parametrize("length", [1e-30, 1e-25, 1e25, 1e30])
def test_cosine_does_not_depend_on_lengths(length: float) -> None:
    query, query_labels, gallery, gallery_labels = problem()
    plain = evaluate_retrieval(query, query_labels, gallery, gallery_labels, distance="cosine").ap
    assert torch.equal(evaluate_retrieval(query, query_labels, gallery * length, gallery_labels, distance="cosine").ap, plain)
    spread = torch.logspace(-30, 30, 200, dtype=torch.float64)[:, None]
    scaled = evaluate_retrieval(query.double(), query_labels, gallery.double() * spread, gallery_labels, distance="cosine").ap
    assert torch.equal(scaled, plain)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-6])
def test_near_duplicates_of_other_classes_keep_their_order(distance: str, step: float) -> None:
    """Around each query a line of near duplicates of alternating class: AP follows from their order alone."""
    generator = torch.Generator().manual_seed(1)
    query = torch.nn.functional.normalize(torch.randn(30, 64, generator=generator, dtype=torch.float64), dim=1).float()
    aside = torch.randn(30, 64, generator=generator, dtype=torch.float64)
    aside -= (aside * query).sum(dim=1, keepdim=True) * query / query.double().square().sum(dim=1, keepdim=True)
    aside /= aside.norm(dim=1, keepdim=True)
    steps = step * torch.arange(1, 7, dtype=torch.float64)
    gallery = (query.double()[:, None] + steps[:, None] * aside[:, None]).flatten(0, 1).float()  # [180, 64]
    truth = evaluate_retrieval(
        query.double(), torch.zeros(30).long(), gallery.double(), torch.arange(180) % 2, distance=distance, interpolation=None
    )
    found = evaluate_retrieval(
        query, torch.zeros(30).long(), gallery, torch.arange(180) % 2, distance=distance, interpolation=None
    )
    torch.testing.assert_close(found.ap, truth.ap, rtol=1e-12, atol=0)


def test_unusual_tensors_are_named() -> None:
    query, query_labels, gallery, gallery_labels = problem()
    with pytest.raises(TypeError, match="query must be a real-valued tensor"):
        evaluate_retrieval(query.to(torch.float8_e4m3fn), query_labels, gallery, gallery_labels)
    with pytest.raises(TypeError, match=r"gallery must be dense, got torch.sparse_coo; use gallery.to_dense\(\)"):
        evaluate_retrieval(query, query_labels, gallery.to_sparse(), gallery_labels)


def test_the_evaluator_names_bad_options_at_once() -> None:
    with pytest.raises(TypeError, match="no such option: foo; choose from average"):
        RetrievalEvaluator(foo=3)
    with pytest.raises(TypeError, match="query_modality must be an int"):
        RetrievalEvaluator(query_modality="sketch")
    with pytest.raises(TypeError, match=r"embeddings must be packed codes, uint8, got torch\.float32"):
        RetrievalEvaluator(distance="hamming").update(torch.zeros(2, 3), [0, 1], 0)
    evaluator = RetrievalEvaluator()
    with pytest.raises(TypeError, match=r"embeddings must be real-valued .* got torch\.uint8"):
        evaluator.update(torch.zeros(2, 3, dtype=torch.uint8), [0, 1], 0)
    with pytest.raises(TypeError, match="labels must be integers"):
        evaluator.update(torch.zeros(2, 3), None, 0)
    with pytest.raises(TypeError, match="modality must be integers"):
        evaluator.update(torch.zeros(2, 3), [0, 1], "sketch")
    evaluator.update(torch.zeros(2, 3), [0, 1], torch.tensor(0))
    with pytest.raises(InputError, match="labels must be 2 integers"):
        evaluator.update(torch.zeros(2, 3), [0.5, 1], 0)
