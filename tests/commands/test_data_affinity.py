"""`zsml data affinity`: from a data set and a WordNet to the table that training reads."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_wordnet import isolated, write_wordnet

from zsml.cli import main
from zsml.data.affinity import load_table, read_affinity
from zsml.data.affinity_build import imagenet_ids


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> Path:
    """ImageNet's 1,000 synsets by their numbers, and what a hog is: number 341's kind."""
    folder = tmp_path_factory.mktemp("wordnet")
    numbers = [int(id[1:]) for id in imagenet_ids()]
    nouns = isolated(1000)
    nouns[341] = (("hog",), ())
    nouns[342] = (("wild_boar",), (341,))
    write_wordnet(folder, nouns, numbers=numbers)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for name in ("animal", "hogs", "wild boar", "van"):
        for modality in ("sketch", "photo"):
            (root / modality / name).mkdir(parents=True)
            for k in range(3):
                file = f"n02395406_{k}.png" if name == "animal" else f"{k}.png"
                Image.new("RGB", (8, 8)).save(root / modality / name / file)
    return root


def run(capsys, *flags: object) -> dict:
    assert main(["data", "affinity", *map(str, flags), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *flags: object) -> str:
    assert main(["data", "affinity", *map(str, flags)]) == 2
    return capsys.readouterr().err


def test_the_table_is_what_training_reads(folder, wordnet, tmp_path, capsys):
    out = tmp_path / "new" / "t.npz"
    flags = ["folder", "--root", folder, "--unseen", "van", "--wordnet", wordnet, "--out", out]
    result = run(capsys, *flags)
    assert result == {
        "table": str(out), "data": "folder", "mode": "max", "wordnet": "3.0", "published": None, "classes": 3,
        "imagenet_classes": 2, "values": {"1": 4, "1/3": 0, "1/4": 0}, "near_to_none": ["wild boar"],
    }  # fmt: skip
    read = read_affinity(out, ["wild boar", "hogs", "animal"])
    assert read.nonzero().tolist() == [[1, 341], [1, 342], [2, 341], [2, 342]]
    assert load_table(out).provenance["synsets"] == {"animal": ["n02395406"], "hogs": ["n02395406"], "wild boar": []}
    assert run(capsys, *flags, "--phrases", "--mode", "last")["near_to_none"] == []
    assert main(["data", "affinity", *map(str, flags)]) == 0
    shown = capsys.readouterr().out
    assert "3 classes are near to 2 of ImageNet's: 4 of 1," in shown
    assert f"near to none: wild boar\ntable: {out}" in shown


def test_a_wordnet_is_found_by_itself(folder, wordnet, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ZSML_WORDNET", str(wordnet))
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "folder", "--root", folder, "--unseen", "1")["table"] == "folder-affinity.npz"
    assert load_table(tmp_path / "folder-affinity.npz").summary()["classes"] == 3


def test_images_on_lists_need_not_be_there(shared_data, wordnet, tmp_path, capsys):
    lists = shared_data / "splits/Sketchy/zeroshot1"
    flags = ["--root", tmp_path, "--lists", lists, "--affinity", tmp_path / "mask.pickle", "--out", tmp_path / "t.npz"]
    rows = {label: np.eye(1000)[label] for label in range(100)}
    (tmp_path / "mask.pickle").write_bytes(pickle.dumps(rows, protocol=3))
    result = run(capsys, "sketchy", *flags)
    assert result["published"] == "mask.pickle" and result["mode"] is None and result["values"]["1"] == 100
    pig_and_fan = read_affinity(tmp_path / "t.npz", ["fan", "pig"])
    assert torch.equal(pig_and_fan, torch.eye(1000)[[20, 0]])  # the order of the labels
    assert "--affinity takes a table as it is" in refused(capsys, "sketchy", *flags, "--phrases")
    (tmp_path / "mask.pickle").write_bytes(pickle.dumps({0: rows[0]}, protocol=3))
    assert "wrong size: it has 1 rows" in refused(capsys, "sketchy", *flags)


def test_bad_flags(folder, wordnet, tmp_path, capsys):
    good = ["folder", "--root", folder, "--wordnet", wordnet, "--out", tmp_path / "t.npz"]
    assert "did you mean 'tuberlin'" in refused(capsys, "tu-berlin", "--root", folder, "--wordnet", wordnet)
    assert "--root is missing" in refused(capsys, "folder", "--wordnet", wordnet)
    assert f"--wordnet '{tmp_path}' holds no data.noun" in refused(capsys, *good, "--wordnet", tmp_path)
    assert "must be a file that ends in .npz" in refused(capsys, *good, "--out", tmp_path / "t.pickle")
    assert "--affinity" in refused(capsys, "folder", "--root", folder, "--affinity", tmp_path / "no.pickle")
    (tmp_path / "taken").write_text("a file")
    assert "cannot be written" in refused(capsys, *good, "--out", tmp_path / "taken" / "t.npz")
    with pytest.raises(SystemExit) as caught:
        main(["data", "affinity", *map(str, good), "--mode", "first"])
    assert caught.value.code == 2
    assert not (tmp_path / "t.npz").exists() and [path.name for path in tmp_path.iterdir()] == ["taken"]
