"""`zsml evaluate`: clusters, sweeps, generalised retrieval and codes from class centres by their flags."""

from __future__ import annotations

import json
from functools import partial

import pytest
from tiny_data import tiny_flags, write_tiny_folder

from zsml.cli import main
from zsml.quantize import CentreHash


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = write_tiny_folder(tmp_path_factory.mktemp("images"))
    out = tmp_path_factory.mktemp("run")
    assert main(["train", "mathm", *tiny_flags(root, out, "--epochs", "1")]) == 0
    return out


def evaluate(run, *flags: str) -> int:
    return main(["evaluate", str(run), "--workers", "0", "--device", "cpu", "--examples", "1", *flags])


def test_clusters_a_sweep_and_all_classes_in_one_call(run, capsys):
    flags = ["--cluster", "2,3", "--cluster-model", "kmeans", "--sweep", "2,2-3", "4,2", "--generalised"]
    assert evaluate(run, *flags, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    names = ["sketch->photo", "sketch->photo, clusters", "sketch->photo, generalised", "sketch->photo, generalised, clusters"]
    assert [name for name in result["results"] if name.startswith("sketch->photo")] == names
    sentence = result["results"]["sketch->photo, clusters"]["protocol"]["sentence"]
    assert "M=2, K=3, kmeans, fitted on the whole gallery: transductive" in sentence and "0.2 x Euclidean distance" in sentence
    assert [name for name in result["sweep"] if "generalised" not in name] == [
        f"sketch->photo, {cell}" for cell in ("M=2, K=2", "M=2, K=3", "M=4, K=2")
    ]
    assert {cell["note"] for cell in result["sweep"].values()} == {"chosen on test"}
    same = [result["results"]["sketch->photo, clusters"], result["sweep"]["sketch->photo, M=2, K=3"]]
    assert same[0]["map"] == same[1]["map"]
    assert result["results"]["sketch->photo, generalised"]["gallery_size"] == 84
    assert evaluate(run, *flags) == 0
    shown = capsys.readouterr().out
    assert sum("chosen on test" in line for line in shown.splitlines()) == 6 and "sketch->photo, generalised" in shown


def test_a_sweep_comes_beside_the_clusters_fixed_beforehand(run, capsys):
    assert evaluate(run, "--sweep", "2,2", "--cluster-fuse", "0", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert "K by BIC" in result["results"]["sketch->photo, clusters"]["protocol"]["sentence"]
    assert "1 x squared distance" in result["sweep"]["sketch->photo, M=2, K=2"]["protocol"]["sentence"]


def test_another_protocol_makes_other_embeddings(run, capsys):
    assert evaluate(run, "--protocol", "mems", "--distance", "cosine", "--json") == 0
    result = json.loads(capsys.readouterr().out)["results"]["sketch->photo"]
    assert result["protocol"]["sentence"].startswith("Protocol mems: Angle, the least over image and mirror image")
    assert evaluate(run, "--distance", "cosine") == 0
    assert "Protocol mathm (changed: distance): Cosine distance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cluster", "two"], "--cluster must be M,K"),
        (["--cluster", "3,2"], "--cluster: 3 blocks do not divide the 16 dimensions of this model's embeddings"),
        (["--cluster", "2,99"], "n_components=99 is more than the 28 rows of gallery"),
        (["--cluster", "2,2", "--cluster-fuse", "2"], "fuse must be 0 to 1, got 2.0"),
        (["--cluster-model", "kmeans"], "--cluster-model has no meaning without --cluster or --sweep"),
        (["--sweep", "2"], "--sweep must name K in every cell"),
        (["--bits", "8", "--itq-fit", "centers"], "--itq-fit centers: the objective of mathm has no class centres"),
        (["--itq-fit", "query"], "--itq-fit, --itq-center and --itq-update need --bits"),
        (["--bits", "8", "--itq-fit", "centers", "--itq-update", "released"], "no meaning with --itq-fit centers"),
    ],
)
def test_flags_that_cannot_be_are_named(run, flags, said, capsys):
    assert evaluate(run, *flags) == 2
    assert said in capsys.readouterr().err


def test_centres_are_those_of_the_last_model_only(run, tmp_path, capsys):
    from zsml.models import load_model, save_model

    checkpoint = next((run / "checkpoints").iterdir())
    save_model(load_model(checkpoint), tmp_path)
    root = json.loads((checkpoint / "state.json").read_text())["config"]["root"]
    data = ["--data", "folder", "--root", root, "--unseen", "elk", "fox", "--image-size", "32"]
    assert evaluate(tmp_path, *data, "--bits", "8", "--itq-fit", "centers") == 2
    assert "kept with the last model of a run only; this is imported" in capsys.readouterr().err


def test_mems_is_evaluated_by_mirror_images_and_codes_from_its_centres(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("zsml.engine.binary.CentreHash", partial(CentreHash, steps=200))
    root = json.loads(next((run / "checkpoints").glob("*/state.json")).read_text())["config"]["root"]
    small = ["--arch", "test_resnet", "--embedding-dim", "16", "--image-size", "32", "--epochs", "1", "--batches-per-epoch", "2"]
    data = ["--data", "folder", "--root", root, "--unseen", "elk", "fox", "--workers", "0", "--device", "cpu"]
    small += ["--sketches-per-batch", "4", "--photos-per-batch", "4"]
    assert main(["train", "mems", *data, *small, "--out", str(tmp_path)]) == 0
    assert evaluate(tmp_path, "--bits", "24") == 0  # more bits than the embedding is wide, which no ITQ can
    shown = capsys.readouterr().out
    assert "Protocol mems: Squared Euclidean distance, the least over image and mirror image of both sides" in shown
    assert "sketch->sketch, 24 bits: Protocol mems: Hamming distance" in shown
    assert "a hash map learned from the class centres" in (tmp_path / "report" / "report.html").read_text()
