"""Several processes, each with its share of the shards, find what one finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from tiny_data import write_tiny_folder

from zsml.cli import main
from zsml.models import Preprocessing, create_model, save_model
from zsml.quantize import ITQ
from zsml.retrieval import Index, index_changes
from zsml.retrieval.index_search import METHODS, find

K = (1, 12, 100)


def queries() -> torch.Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def searched(rank: int, world: int, folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    index = Index.open(folder)
    return [find(index, queries(), k, method, 15, "sketch", "cpu", spread=True) for method in METHODS for k in K]


def test_every_process_gets_the_answer_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(index_changes, "ROWS", 8)
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).repeat(2, 1)  # every item twice, in other shards
    index = Index.create(tmp_path / "index", width=8, quantizer=ITQ(4).fit(x))
    index.add(x, [{"path": str(n)} for n in range(60)])
    assert len(index.shards) == 8
    expected = [index.search(queries(), k, method=method, rerank=15) for method in METHODS for k in K]
    for found in on_ranks(2, tmp_path / "ranks", searched, tmp_path / "index"):
        for (ids, distance), hits in zip(found, expected, strict=True):
            assert torch.equal(ids, hits.ids) and torch.equal(distance, hits.distance)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(index_changes, "ROWS", 4)
    write_tiny_folder(tmp_path / "images", classes=("ant", "bee"), per_class=5)
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=0, embedding_dim=16)
    model.preprocessing = Preprocessing(image_size=32)
    save_model(model, tmp_path / "model")
    flags = ["--device", "cpu", "--workers", "0", "--bits", "8"]
    assert main(["index", f"{tmp_path}/model", f"{tmp_path}/images/photo", "--out", f"{tmp_path}/x.index", *flags]) == 0
    return tmp_path / "x.index"


def test_the_command_under_torchrun(index, capsys):
    words = ["search", f"{index.parent}/images/sketch/ant", "--index", str(index), "--rerank", "4", "--json", "--device", "cpu"]
    capsys.readouterr()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun does
    assert main(words) == 0
    torch.set_num_threads(threads)
    alone = json.loads(capsys.readouterr().out)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "zsml"]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == alone
    assert len(alone["queries"]) == 5 and len(alone["queries"][0]["hits"]) == 10
