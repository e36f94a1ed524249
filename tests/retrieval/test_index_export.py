"""What Faiss and LanceDB find in an exported index is what we find in ours."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch

from zsml.cli import main
from zsml.errors import InputError
from zsml.quantize import ITQ
from zsml.retrieval import Index, index_changes
from zsml.retrieval.index_export import export_faiss, export_lancedb


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 24, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(params=["float32", "float16"])
def index(request, tmp_path, monkeypatch) -> Index:
    """Several shards, an item less, ids that are not the rows."""
    monkeypatch.setattr(index_changes, "ROWS", 256)
    x = rows(700)
    index = Index.create(tmp_path / "index", width=24, dtype=request.param, quantizer=ITQ(12).fit(x))
    index.add(x, [{"path": f"ä {n}.jpg", "label": f"class, {n % 3}"} for n in range(700)])
    index.delete([0, 7, 300])
    return index


def same_order(distance: torch.Tensor, ids: torch.Tensor, hits) -> None:
    """The same distances, and the same items but for the order, and the choice at the end, of equally distant ones."""
    torch.testing.assert_close(distance, hits.distance.double(), rtol=1e-3, atol=1e-3)
    for q in range(len(ids)):
        for value in hits.distance[q].unique()[:-1]:
            ours = hits.ids[q][hits.distance[q] == value].tolist()
            assert set(ours) <= set(ids[q].tolist())


@pytest.mark.parametrize("kind", ["flat", "binary", "ivf"])
def test_faiss_finds_the_same(index, tmp_path, kind):
    faiss = pytest.importorskip("faiss")
    done = export_faiss(index, tmp_path / "out", kind)
    assert done["items"] == 697 and sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.faiss", "items.csv"]
    query, path = rows(9, seed=1), str(tmp_path / "out" / "index.faiss")
    if kind == "binary":
        distance, ids = faiss.read_index_binary(path).search(index.quantizer.transform(query).numpy(), 40)
        hits = index.search(query, 40, method="bits")
        same_order(torch.from_numpy(distance).double(), torch.from_numpy(ids), hits)
    else:
        theirs = faiss.read_index(path)
        if kind == "ivf":
            assert theirs.nlist > 1
            theirs.nprobe = theirs.nlist
        squared, ids = theirs.search(query.numpy(), 40)
        hits = index.search(query, 40)
        same_order(torch.from_numpy(squared).double().clamp(min=0).sqrt(), torch.from_numpy(ids), hits)
        assert (torch.from_numpy(ids) == hits.ids).float().mean() > 0.99  # float32 may turn two that are as near as its rounding
    with (tmp_path / "out" / "items.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [{**row, "id": int(row["id"])} for row in table] == index.items()


def test_lancedb_finds_the_same(index, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    assert export_lancedb(index, tmp_path / "out")["items"] == 697
    table = lancedb.connect(tmp_path / "out").open_table("items")
    query = rows(3, seed=1)
    codes = index.quantizer.transform(query)
    assert table.count_rows() == 697
    for q in range(3):
        found = table.search(query[q].numpy(), vector_column_name="vector").distance_type("l2").limit(30).to_list()
        hits = index.search(query[q : q + 1], 30)
        distance = torch.tensor([[row["_distance"] for row in found]], dtype=torch.float64).sqrt()
        same_order(distance, torch.tensor([[row["id"] for row in found]]), hits)
        found = table.search(codes[q].numpy(), vector_column_name="code").distance_type("hamming").limit(30).to_list()
        hits = index.search(query[q : q + 1], 30, method="bits")
        distance = torch.tensor([[row["_distance"] for row in found]], dtype=torch.float64)
        same_order(distance, torch.tensor([[row["id"] for row in found]]), hits)
        named = {item["id"]: (item["path"], item["label"]) for item in index.items([row["id"] for row in found])}
        assert named == {row["id"]: (row["path"], row["label"]) for row in found}


def test_the_command_and_what_it_refuses(tmp_path, capsys, monkeypatch):
    pytest.importorskip("faiss")
    index = Index.create(tmp_path / "index", width=24)
    folder, out = str(tmp_path / "index"), str(tmp_path / "out")

    def refused(*words: str) -> str:
        assert main(["index", "export", folder, "--out", out, *words]) == 2
        assert not Path(out).exists()
        return capsys.readouterr().err

    assert "is empty" in refused("--to", "faiss")
    index.add(rows(5), [{"path": str(n)} for n in range(5)])
    assert "has no binary codes" in refused("--to", "faiss", "--kind", "binary")
    assert "--kind is of Faiss" in refused("--to", "lancedb", "--kind", "binary")
    with monkeypatch.context() as patch:
        for name, extra in (("faiss", "zsml[faiss]"), ("lancedb", "zsml[lancedb]")):
            patch.setitem(sys.modules, name, None)
            assert f"pip install '{extra}'" in refused("--to", name)
    assert main(["index", "export", folder, "--out", out, "--to", "faiss"]) == 0
    assert "5 items" in capsys.readouterr().out
    assert main(["index", "export", folder, "--out", out, "--to", "faiss"]) == 2 and "is there already" in capsys.readouterr().err
    with pytest.raises(InputError, match="kind must be one of flat, binary, ivf"):
        export_faiss(index, tmp_path / "other", "hnsw")
    with pytest.raises(InputError, match="cannot be written"):
        export_faiss(index, Path("/proc/nowhere/out"))
