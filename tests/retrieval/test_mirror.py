"""Distances over an image and its mirror image: against numpy, the pair by the pair; what the minimum must satisfy; bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zsml.errors import InputError
from zsml.metrics import PRESETS, Protocol
from zsml.retrieval.mirror import MirrorDistances, mirror_distances


def embeddings(rows: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 20 * torch.randn(rows, 2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_it_is_the_least_of_the_four_combinations(distance: str, dtype: torch.dtype) -> None:
    query, gallery = embeddings(5, 0, dtype), embeddings(9, 1, dtype)
    found = mirror_distances(query, gallery, distance)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    for q, row in zip(query.double().numpy(), found.numpy(), strict=True):
        for g, value in zip(gallery.double().numpy(), row, strict=True):
            if distance == "euclidean":
                four = [((a - b) ** 2).sum() for a in q for b in g]
            else:
                four = [math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a in q for b in g]
            assert value == pytest.approx(min(four), rel=1e-6)


def test_mirroring_either_side_changes_nothing_and_a_mirrored_copy_is_at_distance_zero() -> None:
    query, gallery = embeddings(4, 0), embeddings(4, 1)
    for distance in ("euclidean", "cosine"):
        plain = mirror_distances(query, gallery, distance)
        torch.testing.assert_close(mirror_distances(query.flip(1), gallery, distance), plain)
        torch.testing.assert_close(mirror_distances(query, gallery.flip(1), distance), plain)
        of_itself = mirror_distances(query, query.flip(1), distance).diagonal()
        torch.testing.assert_close(of_itself, torch.zeros(4), rtol=0, atol=1e-6)  # the cosine, clamped, is no NaN


def test_the_angle_ranks_as_the_cosine_and_does_not_see_lengths() -> None:
    query, gallery = embeddings(4, 0), embeddings(30, 1)
    angles = mirror_distances(query, gallery, "cosine")
    torch.testing.assert_close(mirror_distances(3 * query, gallery / 7, "cosine"), angles)
    unit = [torch.nn.functional.normalize(x.double(), dim=2) for x in (query, gallery)]
    cosines = torch.einsum("qid,njd->qnij", *unit).amax(dim=(2, 3))
    assert torch.equal(angles.argsort(dim=1), (-cosines).argsort(dim=1))
    assert mirror_distances(torch.zeros(1, 2, 6), gallery, "cosine")[0].tolist() == pytest.approx([math.pi / 2] * 30)


def test_blocks_of_queries_give_the_rows_of_the_whole() -> None:
    query, gallery = embeddings(7, 0), embeddings(5, 1)
    distances = MirrorDistances(gallery)
    torch.testing.assert_close(torch.cat([distances(query[:3]), distances(query[3:])]), mirror_distances(query, gallery))


def test_presets_say_which_embeddings_they_are_for() -> None:
    assert (PRESETS["mems"].normalize, PRESETS["mems"].mirror) == (False, "min")
    assert all(p.normalize and p.mirror == "none" for name, p in PRESETS.items() if name != "mems")
    with pytest.raises(InputError, match="mirror must be one of 'none', 'min', 'mean', got 'flip'"):
        Protocol(mirror="flip")
    with pytest.raises(InputError, match="distance must be one of 'euclidean', 'cosine', 'hamming', got 'given'"):
        Protocol(distance="given")


GOOD = torch.zeros(3, 2, 4)


@pytest.mark.parametrize(
    ("query", "gallery", "options", "error", "words"),
    [
        (GOOD[:, 0], GOOD, {}, InputError, r"query must have shape \[rows, V, D\]"),
        (GOOD, GOOD[:0], {}, InputError, r"gallery must have shape \[rows, V, D\] with nothing empty"),
        (GOOD[:, :1], GOOD, {}, InputError, r"query must have shape \[q, 2, 4\] as the gallery's items, got \[3, 1, 4\]"),
        (GOOD / 0, GOOD, {}, InputError, r"query has NaN or infinite values in row\(s\) 0, 1, 2"),
        (GOOD, GOOD.long(), {}, TypeError, "gallery must be a real-valued tensor"),
        ([[1.0]], GOOD, {}, TypeError, "query must be a torch tensor"),
        (GOOD, GOOD, {"distance": "angular"}, InputError, "distance must be one of 'euclidean', 'cosine', got 'angular'"),
    ],
)
def test_bad_input_is_named(query: object, gallery: object, options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        mirror_distances(query, gallery, **options)
