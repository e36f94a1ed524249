"""`zsml systems`, and how the settings of systems, data sets and variants lie over one another."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_data import tiny_flags, write_tiny_folder

from zsml.cli import _parse, main
from zsml.commit import commit
from zsml.engine.embed import embed, load_part, open_run
from zsml.models import create_model, load_model, save_model
from zsml.models.io import read_card
from zsml.systems import SYSTEMS


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("images"))


def test_every_system_is_listed_with_its_source(capsys):
    assert main(["systems"]) == 0
    shown = capsys.readouterr().out
    for name, system in SYSTEMS.items():
        assert f"{name}\n  {system.summary}\n  {system.source}; protocol {system.protocol}" in shown


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_system_shows_what_it_reads_and_sets(name, capsys):
    assert main(["systems", name, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    shown = {entry["setting"]: entry for entry in result["settings"]}
    system = SYSTEMS[name]
    for setting in (*system.settings, *system.defaults):
        assert "--" + setting.replace("_", "-") in shown
    for setting, value in system.released.items():
        assert shown["--" + setting.replace("_", "-")]["released"] == value
    assert main(["systems", name]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["systems", "sakee"], "error: system 'sakee' is not known; choose from mathm, baseline"),
        (["systems", "mathm", "--data", "sketchi"], "error: --data 'sketchi' is not known; choose from synthetic, folder"),
        (["train", "mathn", "--data", "synthetic"], "(did you mean 'mathm'?)"),
        (["train", "mathm", "--data", "tuberln"], "(did you mean 'tuberlin'?)"),
        (
            ["train", "baseline", "--data", "synthetic", "--weighting", "mean"],
            "--weighting has no meaning for baseline",
        ),
        (["train", "mathm", "--data", "synthetic", "--photos-per-batch", "5"], "--photos-per-batch has no meaning with --batch"),
        (["train", "mems", "--data", "synthetic", "--classes-per-batch", "5"], "--classes-per-batch has no meaning with --batch"),
        (["train", "sake", "--data", "synthetic", "--teacher-arch", "resnet18", "--pretrained", "imagenet"], "--teacher is miss"),
        (
            ["train", "sake", "--data", "synthetic", "--transform", "dsn"],
            "--transform dsn: sake trains on one view of",
        ),
    ],
)
def test_unknown_names_and_settings_of_other_systems_are_refused(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_flags_win_over_the_variant_and_the_variant_over_the_system():
    released = _parse(["train", "mathm", "--data", "synthetic", "--variant", "released"]).settings
    assert (released.variant, released.weighting) == ("released", "released")
    kept = _parse(["train", "mathm", "--data", "synthetic", "--variant", "released", "--weighting", "mean"]).settings
    assert (kept.variant, kept.weighting) == ("released", "mean")


def test_a_model_without_a_run_is_evaluated_as_its_system_says(tmp_path, tiny_root, capsys):
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=4, embedding_dim=8)
    model.card = {"system": "mathm", "protocol": "mathm"}
    save_model(model, tmp_path / "model")
    flags = ["--data", "folder", "--root", str(tiny_root), "--unseen", "elk", "fox", "--image-size", "32", "--workers", "0"]
    assert main(["evaluate", str(tmp_path / "model"), *flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"]["sketch->photo"]
    assert result["num_queries"] == 28 and result["protocol"]["name"] == "mathm" and 0 < result["map"] <= 1
    assert main(["embed", str(tmp_path / "model"), *flags]) == 0
    assert "embeddings of width 8" in capsys.readouterr().out
    for missing, said in (([], "--data is missing"), (["--data", "folder"], "--root is missing")):
        assert main(["evaluate", str(tmp_path / "model"), *missing]) == 2
        assert said in capsys.readouterr().err


def test_a_run_is_evaluated_on_another_data_set(tmp_path, tiny_root, capsys):
    assert main(["train", *tiny_flags(tiny_root, tmp_path / "run"), "--epochs", "1", "--batches-per-epoch", "1"]) == 0
    other = write_tiny_folder(tmp_path / "other", ("gnu", "hen", "owl"), 4)
    flags = ["--root", str(other), "--unseen", "gnu", "hen", "--workers", "0", "--json"]
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), *flags]) == 0
    result = json.loads(capsys.readouterr().out)["results"]["sketch->photo"]
    assert (result["num_queries"], result["gallery_size"]) == (8, 8)
    assert main(["evaluate", str(tmp_path / "run"), "--data", "sketchy", "--workers", "0"]) == 2
    assert "no folder" in capsys.readouterr().err


def test_a_run_and_its_model_alone_give_the_same_embeddings(tmp_path, tiny_root, capsys):
    flags = [*tiny_flags(tiny_root, tmp_path / "run"), "--epochs", "1", "--batches-per-epoch", "1", "--normalize", "clip"]
    assert main(["train", "baseline", *flags]) == 0
    run = open_run(tmp_path / "run", torch.device("cpu"))
    save_model(run.model, tmp_path / "alone")
    model, card = load_model(tmp_path / "alone"), read_card(tmp_path / "alone")
    assert {name: card[name] for name in ("system", "protocol")} == {"system": "baseline", "protocol": "mathm"}
    assert card["paper"] == SYSTEMS["baseline"].source and card["commit"] == commit()
    assert model.preprocessing == run.config.preprocessing
    sketches = load_part(run.config, "test", "sketch")
    wanted = embed(run.model, sketches, device=torch.device("cpu")).embedding  # [N, D]
    images = [sketches.load(item) for item in range(3)]
    with torch.no_grad():
        found = model(*model.preprocessing(images, "sketch")).embedding
    assert torch.allclose(torch.nn.functional.normalize(found), wanted[:3], atol=1e-5)
    for folder in ("run", "alone"):
        data = ["--data", "folder", "--root", str(tiny_root), "--unseen", "elk", "fox", "--workers", "0"]
        assert main(["embed", str(tmp_path / folder), *data, "--out", str(tmp_path / f"{folder}-embedded")]) == 0
    one, other = (load_file(tmp_path / f"{folder}-embedded" / "embeddings.safetensors") for folder in ("run", "alone"))
    assert torch.equal(one["embedding"], other["embedding"])
    capsys.readouterr()
