"""What an index keeps, finds and refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from zsml.errors import InputError
from zsml.ops import hamming_distance
from zsml.quantize import ITQ
from zsml.retrieval import Index, index_changes, nearest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which only a power cut could tell


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_changes, "ROWS", 16)


def rows(n: int, width: int = 12, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)))


def listed(n: int, first: int = 0) -> list[dict]:
    return [{"path": f"{i}.jpg", "label": f"class {i % 3}", "size": i} for i in range(first, first + n)]


def filled(folder: Path, x: torch.Tensor, bits: int = 0, step: int = 0, **options) -> Index:
    index = Index.create(folder, width=x.shape[1], quantizer=ITQ(bits).fit(x) if bits else None, **options)
    for start in range(0, len(x), step or len(x)):
        part = x[start : start + (step or len(x))]
        index.add(part, listed(len(part), start))
    return index


def brute_force(query: torch.Tensor, stored: torch.Tensor, ids: torch.Tensor, k: int):
    """By (distance, id), every distance from its differences in float64."""
    distance = (query.double()[:, None] - stored.double()[None]).square().sum(dim=2).sqrt()
    order = np.lexsort((np.broadcast_to(ids, distance.shape), distance), axis=1)[:, :k]
    return ids[torch.from_numpy(order)], distance.gather(1, torch.from_numpy(order)).float()


def brute_force_codes(codes: torch.Tensor, stored: torch.Tensor, ids: torch.Tensor, k: int):
    distance = hamming_distance(codes, stored)
    order = np.lexsort((np.broadcast_to(ids, distance.shape), distance), axis=1)[:, :k]
    return ids[torch.from_numpy(order)], distance.gather(1, torch.from_numpy(order))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_float_search_is_brute_force_with_ties_by_id(tmp_path, small_shards, dtype, k):
    x = torch.cat([rows(40), rows(20)])  # the second part repeats the first 20 rows: exact ties, in other shards
    index = filled(tmp_path, x, step=13, dtype=dtype)
    query = torch.cat([rows(5, seed=1), rows(3)])
    hits = index.search(query, k)
    ids, distance = brute_force(query, x.to(getattr(torch, dtype)), torch.arange(60), k)
    assert torch.equal(hits.ids, ids)
    torch.testing.assert_close(hits.distance, distance, rtol=1e-6, atol=0)
    assert hits.ids.shape == (8, min(k, 60))


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e18, 3e37])
def test_float_search_at_any_magnitude(tmp_path, monkeypatch, scale):
    monkeypatch.setattr(nearest, "SPARE", 1)
    x = rows(300, 5)
    x[100:200] = x[100] + 1e-7 * rows(100, 5, seed=2)  # nearer to one another than float32 products can tell
    x = x * scale
    index = filled(tmp_path, x, dtype="float32")
    ids, _ = brute_force(x[95:105], x, torch.arange(300), 20)
    assert torch.equal(index.search(x[95:105], 20).ids, ids)


def test_search_by_codes_and_reranked(tmp_path, small_shards):
    x = rows(100)
    index = filled(tmp_path, x, bits=10, step=9)
    query, stored = rows(6, seed=3), x.half()
    codes = index.quantizer.transform(stored)
    expected = brute_force_codes(index.quantizer.transform(query), codes, torch.arange(100), 30)
    hits = index.search(query, 30, method="bits")
    assert torch.equal(hits.ids, expected[0]) and torch.equal(hits.distance, expected[1])
    reranked = index.search(query, 5, method="rerank", rerank=30)
    for q in range(6):
        near = expected[0][q].sort().values
        ids, distance = brute_force(query[q : q + 1], stored[near], near, 5)
        assert torch.equal(reranked.ids[q], ids[0])
        torch.testing.assert_close(reranked.distance[q], distance[0])
    assert torch.equal(index.search(query, 9, method="rerank", rerank=100).ids, index.search(query, 9).ids)
    assert index.search(query, 500, method="rerank", rerank=1).ids.shape == (6, 100)


def test_one_shard_or_many_give_the_same(tmp_path, monkeypatch):
    x = rows(90).repeat(2, 1)
    one = filled(tmp_path / "one", x, bits=8)
    monkeypatch.setattr(index_changes, "ROWS", 16)
    many = filled(tmp_path / "many", x, bits=8, step=45)
    many.rebuild_codes(one.quantizer)
    assert len(one.manifest.shards) == 1 and len(many.manifest.shards) > 10
    for method in ("float", "bits", "rerank"):
        a, b = (index.search(rows(7, seed=4), 40, method=method, rerank=60) for index in (one, many))
        assert torch.equal(a.ids, b.ids) and torch.equal(a.distance, b.distance)


def test_ids_stay_and_what_is_deleted_is_gone(tmp_path, small_shards):
    x = rows(50)
    index = filled(tmp_path, x, bits=8, step=25)
    assert index.delete([3, 3, 20, *range(30, 49)]) == 21
    assert index.add(x[:2], listed(2)).tolist() == [50, 51]
    kept = torch.tensor([i for i in range(50) if i not in (3, 20) and not 30 <= i < 49])
    ids = torch.cat([kept, torch.tensor([50, 51])])
    stored = torch.cat([x[kept], x[:2]]).half()
    for opened in (index, Index.open(tmp_path)):
        assert torch.equal(opened.ids, ids) and len(opened) == 31
        found, _ = brute_force(x[:4], stored, ids, 31)
        assert torch.equal(opened.search(x[:4], 31).ids, found)
        assert torch.equal(opened.embeddings([51, 0]), x[[1, 0]].half().float())
        assert opened.items([50, 49]) == [
            {"id": 50, "path": "0.jpg", "label": "class 0", "size": 0},
            {"id": 49, "path": "49.jpg", "label": "class 1", "size": 49},
        ]
    assert index.verify() == []
    assert index.delete(index.ids) == 31 and len(Index.open(tmp_path)) == 0
    assert index.search(x[:2], 5).ids.shape == (2, 0) and index.search(x[:2], 5, method="bits").ids.shape == (2, 0)
    assert index.add(x[:1], listed(1)).tolist() == [52]


def test_hits_name_their_items(tmp_path):
    index = filled(tmp_path, rows(10))
    item = index.search(rows(10)[4:5], 3).items()[0]
    assert {**item, "distance": 0} == {"id": 4, "path": "4.jpg", "label": "class 1", "size": 4, "distance": 0}
    assert item["distance"] < 1e-3


def test_many_small_additions_leave_few_shards_and_no_other_files(tmp_path):
    index = filled(tmp_path, rows(17), bits=8, step=1)
    assert len(index.manifest.shards) == 2  # 16 and 1
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {".lock", "manifest.json", *(entry.file for entry in index.manifest.files)}
    assert index.verify() == []


def test_other_peoples_files_in_the_folder_stay(tmp_path):
    index = filled(tmp_path, rows(8))
    (tmp_path / "shards" / "00000001-0.rows.safetensors.tmp").write_bytes(b"")
    kept = [tmp_path / "20240101.jpg", tmp_path / "shards" / "00000007.png", tmp_path / "shards" / "00000007-1.rows.txt"]
    for path in kept:
        path.write_bytes(b"")
    index.add(rows(9), listed(9))
    assert all(path.is_file() for path in kept)
    assert len(list((tmp_path / "shards").iterdir())) == 2 * len(index.shards) + 2
    with pytest.raises(InputError, match=r"holds other files \(20240101\.jpg"):
        (tmp_path / "manifest.json").unlink()
        Index.create(tmp_path, width=3)


def test_codes_are_rebuilt_and_dropped(tmp_path):
    x = rows(30)
    index = filled(tmp_path, x)
    with pytest.raises(InputError, match="needs binary codes"):
        index.search(x, 1, method="bits")
    index.rebuild_codes(ITQ(6).fit(x))
    assert index.bits == 6 and index.search(x[:1], 1, method="bits").distance.item() <= 1
    index.rebuild_codes(None)
    assert Index.open(tmp_path).bits == 0 and index.verify() == []


def test_another_opened_index_keeps_its_state_and_writes_after_the_newest(tmp_path):
    x = rows(30)
    index = filled(tmp_path, x, bits=8)
    other = Index.open(tmp_path)
    index.delete(range(20))
    assert other.items([0])[0]["path"] == "0.jpg"  # its files have lost their names only
    assert torch.equal(other.search(x[:1], 3).ids[0, :1], torch.tensor([0]))
    assert other.add(x[:1], listed(1)).tolist() == [30] and len(other) == 11


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.search(rows(1), 0), "k must be 1 or more, got 0"),
        (lambda index: index.search(rows(1), 3, rerank=0), "rerank must be 1 or more, got 0"),
        (lambda index: index.search(rows(1), True), "k must be an int, got bool"),
        (lambda index: index.search(rows(1), 3, method="cosine"), "method must be one of float, bits, rerank, got 'cosine'"),
        (lambda index: index.search(rows(1, 5), 3), "query must have the 12 columns of this index's embeddings, got 5"),
        (lambda index: index.search(rows(1) * torch.nan, 3), "query has NaN or infinite values in row"),
        (lambda index: index.search(rows(1).double() * 1e300, 3), "query, as float32, has NaN or infinite values"),
        (lambda index: index.search(rows(0), 3), "query must have at least 1 row"),
        (lambda index: index.search("sketch.png", 3), "query must be a torch tensor"),
        (lambda index: index.search([rows(1)], 3), "holds no model: search with embeddings"),
        (lambda index: index.add(rows(2), listed(1)), "items has 1 entries but embeddings has 2 rows"),
        (lambda index: index.add(rows(1), [{"label": "x"}]), r"items\[0\] must be a dict with texts path and label"),
        (lambda index: index.add(rows(1), [{"path": "x", "id": 7}]), "names id or distance"),
        (lambda index: index.add(rows(1), [{"path": "x", "y": {1}}]), r"items\[0\] cannot be stored"),
        (lambda index: index.add(rows(1), [{"path": "\udc80"}]), r"items\[0\] cannot be stored"),
        (lambda index: index.add(rows(1, 13), listed(1)), "embeddings must have the 12 columns of this index, got 13"),
        (lambda index: index.add(rows(1) * torch.inf, listed(1)), "embeddings has NaN or infinite values"),
        (lambda index: index.add(rows(1) * 1e6, listed(1)), "more than float16 holds; normalise them"),
        (lambda index: index.delete([1, 99]), "the index has no item 99; it has 20"),
        (lambda index: index.delete([0.5]), "ids must be whole numbers"),
        (lambda index: index.items([-1]), "the index has no item -1"),
        (lambda index: index.embeddings([20]), "the index has no item 20"),
        (lambda index: index.rebuild_codes(ITQ(4)), "quantizer must be a fitted ITQ"),
        (lambda index: index.rebuild_codes(ITQ(4).fit(rows(9, 5))), "fitted on embeddings of width 5, this index has width 12"),
        (lambda index: index.rebuild_codes("itq"), "quantizer must be a zsml.quantize.ITQ or None, got str"),
        (lambda index: index.image_path(3), "is not at .*3.jpg' any more"),
        (lambda index: Index.create(index.folder, width=3), "holds an index already"),
        (lambda index: Index.create(index.folder.parent, width=3), "holds other files"),
        (lambda index: Index.create(index.folder / "a", width=0), "width must be 1 or more"),
        (lambda index: Index.create(index.folder / "a", width=2.0), "width must be an int"),
        (lambda index: Index.create(index.folder / "a", width=3, dtype="int8"), "dtype must be one of float16, float32"),
        (lambda index: Index.create(index.folder / "a", width=3, model="net"), "model must be the dict of"),
        (lambda index: Index.open(index.folder / "nowhere"), "holds no index: there is no manifest.json"),
    ],
)
def test_bad_input_is_named_and_the_index_stays(tmp_path, call, message):
    index = filled(tmp_path / "index", rows(20), bits=4)
    with pytest.raises((InputError, TypeError), match=message):
        call(index)
    assert len(Index.open(index.folder)) == 20 and index.verify() == []


def test_paths_of_images(tmp_path):
    index = Index.create(tmp_path / "index", width=2)
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "index" / "shards" / "b.jpg").write_bytes(b"")
    index.add(torch.eye(2).repeat(2, 1)[:3], [{"path": str(tmp_path / "a.jpg")}, {"path": "../a.jpg"}, {"path": "shards/b.jpg"}])
    assert index.image_path(0) == tmp_path / "a.jpg" and index.image_path(2).name == "b.jpg"
    with pytest.raises(InputError, match="outside the index"):
        index.image_path(1)


def test_manifest_says_what_is_there(tmp_path):
    filled(tmp_path, rows(20), bits=4)
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert (found["format"], found["version"], found["width"], found["bits"]) == ("zsml-index", 1, 12, 4)
    assert found["next_id"] == 20 and found["generation"] == 1 and found["shards"][0]["count"] == 20
