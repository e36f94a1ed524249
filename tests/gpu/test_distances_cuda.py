"""On a GPU: cluster matching, mirror distances and evaluate_distances give what they give on the CPU."""

from __future__ import annotations

import pytest
import torch

from zsml.metrics import evaluate_distances
from zsml.retrieval import ClusterMatcher
from zsml.retrieval.mirror import mirror_distances

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def embeddings(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int16, torch.int64])
def test_scores_of_given_distances(kind: torch.dtype) -> None:
    distances, second = (10 * embeddings(40, 700, seed=seed).abs() // 1 for seed in (0, 1))
    labels, photo_labels = torch.arange(40) % 7, torch.arange(700) % 6
    pair = (distances.to(kind), second.to(kind))
    cpu = evaluate_distances(pair, labels, photo_labels, block=3000)
    gpu = evaluate_distances(tuple(x.cuda() for x in pair), labels.cuda(), photo_labels.cuda())
    assert torch.equal(gpu.ap.nan_to_num(-1), cpu.ap.nan_to_num(-1)) and gpu.to_dict() == cpu.to_dict()


def test_cluster_matching(tmp_path) -> None:
    gallery, query = embeddings(300, 12), embeddings(9, 12, seed=1)
    cpu = ClusterMatcher(2, 5, "kmeans").fit(gallery)
    gpu = ClusterMatcher(2, 5, "kmeans").fit(gallery.cuda())
    assert gpu.codes.is_cuda and gpu.codewords.is_cuda
    torch.testing.assert_close(gpu.codewords.cpu(), cpu.codewords)
    given = ClusterMatcher.from_codewords(cpu.codewords.cuda(), gallery.cuda())
    assert torch.equal(given.codes.cpu(), cpu.codes)
    torch.testing.assert_close(given.distances(query.cuda()).cpu(), cpu.distances(query))
    assert torch.equal(given.rank(query.cuda(), 20)[1].cpu(), cpu.rank(query, 20)[1])
    gpu.save(tmp_path / "matcher")
    assert ClusterMatcher.load(tmp_path / "matcher").codes.device.type == "cpu"
    with pytest.raises(ValueError, match="query must be on the gallery's device"):
        gpu.distances(query)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_mirror_distances(distance: str) -> None:
    query, gallery = embeddings(9, 2, 12), embeddings(30, 2, 12, seed=1)
    found = mirror_distances(query.cuda(), gallery.cuda(), distance)
    torch.testing.assert_close(found.cpu(), mirror_distances(query, gallery, distance))
