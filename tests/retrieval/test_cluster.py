"""One-to-many matching: the distance from its formula, codewords from scikit-learn, the order of ties, files, bad input."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from zsml.errors import InputError
from zsml.metrics import evaluate_distances, evaluate_retrieval
from zsml.retrieval import ClusterMatcher, cluster, cluster_fit


def photos(rows: int = 240, width: int = 12, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors around class centres, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.arange(rows) % classes
    x = centres[labels] + 0.5 * torch.randn(rows, width, generator=generator)
    return torch.nn.functional.normalize(x), labels


def by_hand(codewords: np.ndarray, query: np.ndarray, gallery: np.ndarray, fuse: float) -> np.ndarray:
    """The distance, a pair at a time, in float64."""
    codewords, query, gallery = (x.astype(np.float64) for x in (codewords, query, gallery))
    blocks, _, width = codewords.shape
    found = np.empty((len(query), len(gallery)))
    for i, q in enumerate(query):
        for j, p in enumerate(gallery):
            clusters = 0.0
            for m in range(blocks):
                cut = slice(m * width, (m + 1) * width)
                code = min(range(len(codewords[m])), key=lambda k: ((p[cut] - codewords[m][k]) ** 2).sum())
                clusters += ((q[cut] - codewords[m][code]) ** 2).sum()
            found[i, j] = (1 - fuse) * clusters + fuse * math.sqrt(((q - p) ** 2).sum())
    return found


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("fuse", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_distances_are_those_of_the_formula(blocks: int, fuse: float, dtype: torch.dtype) -> None:
    gallery, query = photos(40)[0].to(dtype), photos(9, seed=1)[0].to(dtype)
    codewords = torch.randn(blocks, 6, 12 // blocks, generator=torch.Generator().manual_seed(2)).to(dtype)
    matcher = ClusterMatcher.from_codewords(codewords, gallery, fuse=fuse)
    found = matcher.distances(query)
    assert found.dtype == torch.promote_types(dtype, torch.float32) and matcher.codes.shape == (40, blocks)
    expected = by_hand(*(x.double().numpy() for x in (codewords, query, gallery)), fuse)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6)
    assert torch.equal(matcher.codewords, codewords.to(matcher.codewords.dtype))


def test_a_worked_example() -> None:
    """Two blocks, codewords (0) and (1) in each; q = (1, 0) is exactly the photo, whose codes are 1 and 0."""
    codewords = torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]]])
    gallery = torch.tensor([[0.9, 0.2], [0.1, 0.2], [1.0, 0.0]])
    matcher = ClusterMatcher.from_codewords(codewords, gallery)
    assert matcher.codes.tolist() == [[1, 0], [0, 0], [1, 0]]
    near, far = 0.2 * math.sqrt(0.1**2 + 0.2**2), 0.8 * 1 + 0.2 * math.sqrt(0.9**2 + 0.2**2)
    torch.testing.assert_close(matcher.distances(torch.tensor([[1.0, 0.0]])), torch.tensor([[near, far, 0.0]]))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("model", ["gmm_full", "gmm_diag", "gmm_spherical", "kmeans"])
def test_codewords_are_what_scikit_learn_finds(model: str, blocks: int) -> None:
    gallery, _ = photos()
    matcher = ClusterMatcher(blocks, 5, model).fit(gallery)
    for m, part in enumerate(gallery.double().numpy().reshape(240, blocks, -1).transpose(1, 0, 2)):
        if model == "kmeans":
            expected = KMeans(5, n_init=10, random_state=123).fit(part).cluster_centers_
        else:
            expected = GaussianMixture(5, covariance_type=model[4:], random_state=123).fit(part).means_
        np.testing.assert_allclose(matcher.codewords[m], expected, atol=1e-6)
        nearest = ((part[:, None] - expected) ** 2).sum(axis=2).argmin(axis=1)  # not the component of highest posterior
        np.testing.assert_array_equal(matcher.codes[:, m], nearest)
    again = ClusterMatcher(blocks, 5, model).fit(gallery.numpy())
    assert torch.equal(again.codewords, matcher.codewords) and torch.equal(again.codes, matcher.codes)


def test_clusters_at_the_number_of_classes_raise_the_precision_of_weak_queries() -> None:
    gallery, labels = photos(600, 32, 10)
    query, query_labels = photos(100, 32, 10)
    query = torch.nn.functional.normalize(query + 0.4 * torch.randn(query.shape, generator=torch.Generator().manual_seed(5)))
    matcher = ClusterMatcher(2, 10).fit(gallery)
    plain = evaluate_retrieval(query, query_labels, gallery, labels).map
    assert evaluate_distances(matcher.keys(query), query_labels, labels).map > plain + 0.05


@pytest.mark.parametrize("fuse", [0.0, 0.2])
def test_ties_are_broken_by_the_distance_to_the_photo_then_by_index(fuse: float) -> None:
    gallery = torch.randint(-2, 3, (60, 2), generator=torch.Generator().manual_seed(0)).float()  # many rows twice
    matcher = ClusterMatcher.from_codewords(torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]]), gallery, fuse=fuse)
    query = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    distance, index = matcher.rank(query)
    for q, row, found, order in zip(query, matcher.distances(query), distance, index, strict=True):
        euclidean = [math.dist(q.tolist(), p.tolist()) for p in gallery]
        assert order.tolist() == sorted(range(60), key=lambda n: (float(row[n]), euclidean[n], n))
        assert torch.equal(found, row[order])
    nearest = matcher.rank(query, 7)
    assert torch.equal(nearest[0], distance[:, :7]) and torch.equal(nearest[1], index[:, :7])
    labels = torch.arange(60) % 3
    ranked = torch.empty_like(index).scatter_(1, index, torch.arange(60).expand(2, -1))
    by_keys = evaluate_distances(matcher.keys(query), [0, 1], labels)
    assert torch.equal(by_keys.ap, evaluate_distances(ranked, [0, 1], labels).ap)


def test_one_block_without_fusion_has_k_distances_whose_order_is_defined() -> None:
    gallery, labels = photos(600, 32, 10)
    query, query_labels = photos(50, 32, 10)
    query = query + 0.4 * torch.randn(query.shape, generator=torch.Generator().manual_seed(5))
    matcher = ClusterMatcher(1, 6, fuse=0).fit(gallery)
    distances = matcher.distances(query)
    assert all(len(row.unique()) <= 6 for row in distances)
    alone = evaluate_distances(distances, query_labels, labels)
    assert alone.map_best > alone.map_worst + 0.005  # what an unstable sort may return lies somewhere between
    ordered = evaluate_distances(matcher.keys(query), query_labels, labels)
    assert alone.map_worst <= ordered.map <= alone.map_best and ordered.map_best == ordered.map_worst == ordered.map


def test_large_sets_are_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, _ = photos()
    matcher, query = ClusterMatcher(2, 4, "kmeans").fit(gallery), photos(23, seed=3)[0]
    whole, ranked = matcher.distances(query), matcher.rank(query, 5)
    monkeypatch.setattr(cluster, "BLOCK", 500)
    sizes = []
    pair = matcher._pair
    monkeypatch.setattr(matcher, "_pair", lambda rows: (sizes.append(len(rows)), pair(rows))[1])
    torch.testing.assert_close(matcher.distances(query), whole)
    assert torch.equal(matcher.rank(query, 5)[1], ranked[1]) and max(sizes) == 2


@pytest.mark.parametrize(("classes", "low", "high"), [(1, 1, 2), (6, 6, 6), (12, 10, 14)])
def test_the_number_of_clusters_is_found_without_labels(classes: int, low: int, high: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    centres = 2 * torch.randn(classes, 40, generator=generator)
    rows = 60 * classes
    gallery = centres[torch.arange(rows) % classes] + torch.randn(rows, 40, generator=generator)
    matcher = ClusterMatcher(2, model="kmeans").fit(gallery)
    chosen = matcher.codewords.shape[1]
    assert low <= chosen <= high
    assert chosen == min(matcher.bic, key=matcher.bic.__getitem__) and set(matcher.bic) <= set(cluster_fit.RANGE)
    assert "K by BIC" in matcher.describe() and matcher.n_components is None


def test_the_criterion_is_that_of_a_mixture_over_the_leading_components() -> None:
    gallery = photos(200, 8)[0].double()
    _, found = cluster_fit.choose_components(gallery, seed=4)
    centred = gallery - gallery.mean(0)
    projected = centred.numpy() @ np.linalg.svd(centred.numpy(), full_matrices=False)[2].T
    mixture = GaussianMixture(3, random_state=4).fit(projected / np.sqrt((projected**2).mean()))
    log_likelihood = 200 * mixture.score(projected / np.sqrt((projected**2).mean()))
    unknowns = 3 * (8 + 8 * 9 / 2) + 2
    assert found[3] == pytest.approx(-2 * log_likelihood + unknowns * math.log(200), rel=1e-6)


def test_a_gallery_of_one_photo_or_of_copies_has_one_cluster() -> None:
    for gallery in (torch.ones(1, 4), torch.ones(50, 4)):
        matcher = ClusterMatcher(fuse=0).fit(gallery)
        assert matcher.codewords.shape == (2, 1, 2)
        torch.testing.assert_close(matcher.distances(torch.zeros(1, 4)), torch.full((1, len(gallery)), 4.0))


def test_save_and_load(tmp_path: Path) -> None:
    gallery, _ = photos(60)
    path = tmp_path / "matcher.safetensors"
    for matcher in (
        ClusterMatcher(2, 3, "gmm_diag", fuse=0.3, seed=1).fit(gallery),
        ClusterMatcher(model="kmeans").fit(gallery.double()),
        ClusterMatcher.from_codewords(torch.ones(3, 2, 4), gallery.half()),
    ):
        matcher.save(path)
        loaded = ClusterMatcher.load(path)
        assert loaded.describe() == matcher.describe() and loaded.bic == matcher.bic and repr(loaded) == repr(matcher)
        assert torch.equal(loaded.distances(gallery), matcher.distances(gallery))
        assert torch.equal(loaded.codes, matcher.codes) and loaded.codewords.dtype == matcher.codewords.dtype
    with pytest.raises(InputError, match="save needs a fitted ClusterMatcher"):
        ClusterMatcher().save(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "matcher.safetensors"
    with pytest.raises(InputError, match="no ClusterMatcher file"):
        ClusterMatcher.load(path)
    ClusterMatcher(2, 3).fit(photos(60)[0]).save(path)
    tensors = load_file(path)
    about = {"kind": "zsml.cluster_matcher", "settings": "{}"}
    for change, settings, words in (
        ({"codewords": torch.zeros(2, 3, 5, dtype=torch.float64)}, {}, "must hold exactly the tensors"),
        ({"gallery": tensors["gallery"].float()}, {}, "gallery must be finite float64"),
        ({"more": torch.zeros(1)}, {}, "must hold exactly the tensors"),
        ({}, {}, "unusable settings"),
        ({}, {"kind": "zsml.itq"}, "of kind 'zsml.itq'"),
        ({}, {"settings": '{"dtypes": ["int8", "float32"], "bic": {}, "model": "kmeans"}'}, "unusable settings"),
    ):
        save_file({**tensors, **change}, path, {**about, **settings})
        with pytest.raises(InputError, match=words):
            ClusterMatcher.load(path)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_blocks": 0}, InputError, "n_blocks must be 1 to"),
        ({"n_blocks": 2.0}, TypeError, "n_blocks must be an int, got 2.0"),
        ({"n_components": 0}, InputError, "n_components must be 1 to"),
        ({"n_components": "25"}, TypeError, "n_components must be an int or None, got '25'"),
        ({"model": "gmm"}, InputError, "model must be one of 'gmm_full', 'gmm_diag', 'gmm_spherical', 'kmeans', got 'gmm'"),
        ({"fuse": 1.5}, InputError, "fuse must be 0 to 1, got 1.5"),
        ({"fuse": math.nan}, InputError, "fuse must be 0 to 1, got nan"),
        ({"fuse": None}, TypeError, "fuse must be a float, got None"),
        ({"seed": -1}, InputError, "seed must be 0 to"),
    ],
)
def test_bad_settings_are_named(options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        ClusterMatcher(**options)


def test_bad_galleries_are_named() -> None:
    gallery, _ = photos(20)
    with pytest.raises(InputError, match="n_blocks=5 does not divide the 12 columns of gallery"):
        ClusterMatcher(5, 2).fit(gallery)
    with pytest.raises(InputError, match="n_components=21 is more than the 20 rows of gallery"):
        ClusterMatcher(2, 21).fit(gallery)
    with pytest.raises(InputError, match="n_components=3 is more than the 2 distinct rows of gallery in block 0 of 2"):
        ClusterMatcher(2, 3).fit(gallery[:2].repeat(5, 1))
    with pytest.raises(InputError, match=r"gallery has NaN or infinite values in row\(s\) 3"):
        ClusterMatcher(2, 2).fit(gallery.index_fill(0, torch.tensor([3]), math.nan))
    with pytest.raises(InputError, match=r"gallery must have shape \[rows, D\]"):
        ClusterMatcher(2, 2).fit(gallery[0])
    with pytest.raises(TypeError, match="gallery must be a real-valued tensor"):
        ClusterMatcher(2, 2).fit(gallery.long())


@pytest.mark.parametrize(
    ("codewords", "error", "words"),
    [
        (torch.zeros(12), InputError, r"codewords must have shape \[M, K, D / M\]"),
        (torch.zeros(2, 0, 6), InputError, "nothing empty"),
        (torch.zeros(2, 3, 5), InputError, r"the 12 columns of gallery in M blocks, got \[2, 3, 5\]: 2 \* 5 = 10"),
        (torch.full((2, 3, 6), math.nan), InputError, "codewords has NaN"),
        (torch.zeros(2, 3, 6).long(), TypeError, "codewords must be a real-valued tensor"),
        ([[1.0]], TypeError, "codewords must be a torch tensor"),
        (torch.zeros(2, 3, 6, device="meta"), InputError, "codewords and gallery must be on one device"),
    ],
)
def test_bad_codewords_are_named(codewords: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        ClusterMatcher.from_codewords(codewords, photos(20)[0])


def test_bad_queries_are_named() -> None:
    matcher = ClusterMatcher.from_codewords(torch.zeros(2, 3, 6), photos(20)[0])
    for call in (matcher.distances, matcher.keys, matcher.rank):
        with pytest.raises(InputError, match="query must have the 12 columns of the gallery, got 11"):
            call(torch.zeros(3, 11))
        with pytest.raises(InputError, match="query has NaN or infinite"):
            call(torch.full((3, 12), math.inf))
        with pytest.raises(InputError, match=r"query must have at least 1 row"):
            call(torch.zeros(0, 12))
        with pytest.raises(TypeError, match="query must be a real-valued tensor"):
            call(torch.zeros(3, 12, dtype=torch.int32))
    for k, error in ((0, InputError), (21, InputError), (2.0, TypeError)):
        with pytest.raises(error, match="k must be"):
            matcher.rank(torch.zeros(1, 12), k)
    for call in ("distances", "keys", "rank"):
        with pytest.raises(InputError, match=f"{call} needs a fitted ClusterMatcher"):
            getattr(ClusterMatcher(), call)(torch.zeros(1, 12))
    with pytest.raises(InputError, match="fuse must be 0 to 1"):
        ClusterMatcher.from_codewords(torch.zeros(2, 3, 6), photos(20)[0], fuse=-0.1)
