"""zsml import: what it writes, that it can be evaluated, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from published_cse_resnet50 import random_checkpoint
from safetensors.torch import load_file
from tiny_data import write_tiny_folder

from zsml.cli import main
from zsml.commands import Import
from zsml.engine.importing import model_card
from zsml.errors import InputError
from zsml.models import create_model, load_model, load_released
from zsml.models.io import read_card
from zsml.models.released import LAYOUTS, SYSTEMS
from zsml.systems import SYSTEMS as TRAINABLE

FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def sake_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("published") / "model_best.pth.tar"
    torch.save({"state_dict": random_checkpoint("sake", classes=100, dim=16)}, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def imported(sake_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "new" / "sake"
    assert main(["import", str(sake_file), "--system", "sake", "--out", str(out)]) == 0
    yield out
    (out / "model.safetensors").unlink()


def test_the_folder_holds_the_same_model_and_says_where_it_came_from(imported, sake_file):
    assert sorted(path.name for path in imported.iterdir()) == FILES
    model, published = load_model(imported), load_released(sake_file, "sake")
    assert model.config == published.config and not model.training
    assert all(torch.equal(value, published.state_dict()[name]) for name, value in model.state_dict().items())
    sha256 = hashlib.sha256(sake_file.read_bytes()).hexdigest()
    source = {"file": "model_best.pth.tar", "bytes": sake_file.stat().st_size, "sha256": sha256}
    assert read_card(imported) == model.card == {"system": "sake", "protocol": "sake", "source": source}
    text = (imported / "README.md").read_text()
    for part in (
        sha256,
        "SAKE, Liu et al., ICCV 2019",
        "`model_best.pth.tar`",
        "16 numbers per image",
        "100, as many as sketchy",
    ):
        assert part in text
    assert f"zsml evaluate {imported} --data sketchy --root ROOT" in text
    assert "Protocol sake: Euclidean distance" in text and "L2-normalised before comparing" in text


def test_it_can_be_evaluated_with_the_authors_protocol(imported, tmp_path, capsys):
    root = write_tiny_folder(tmp_path / "data", classes=("ant", "bee", "cow"), per_class=3)
    flags = ["--data", "folder", "--root", str(root), "--unseen", "ant", "bee", "--image-size", "32", "--workers", "0"]
    out = ["--out", str(tmp_path / "report"), "--device", "cpu", "--json"]
    assert main(["evaluate", str(imported), *flags, *out]) == 0
    result = json.loads(capsys.readouterr().out)["results"]["sketch->photo"]
    assert result["protocol"]["sentence"].startswith("Protocol sake: ")
    assert 0 < result["map"] <= 1


def test_importing_the_same_again_and_the_result_as_json_and_text(imported, sake_file, capsys):
    before, card = load_file(imported / "model.safetensors"), read_card(imported)
    assert main(["import", str(sake_file), "--system", "sake", "--out", str(imported), "--json"]) == 0
    after = load_file(imported / "model.safetensors")
    assert read_card(imported) == card and all(torch.equal(value, before[name]) for name, value in after.items())
    result = json.loads(capsys.readouterr().out)
    assert {name: result[name] for name in ("system", "arch", "embedding_dim", "num_classes", "imagenet_classifier")} == {
        "system": "sake", "arch": "cse_resnet50", "embedding_dim": 16, "num_classes": 100, "imagenet_classifier": True,
    }  # fmt: skip
    assert sorted(Path(path).name for path in result["files"]) == FILES
    shown = Import(sake_file, "sake", imported).text(result)
    assert result["source"]["sha256"] in shown and f"now: zsml evaluate {imported} --data" in shown


def test_nothing_of_another_is_written_over(imported, sake_file, tmp_path, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in imported.iterdir()}
    assert main(["import", str(sake_file), "--system", "dsn", "--out", str(imported)]) == 2
    error = capsys.readouterr().err
    assert f"--out '{imported}' already holds model.safetensors, config.json, README.md, not of this checkpoint" in error
    assert {path.name: path.stat().st_mtime_ns for path in imported.iterdir()} == before
    (tmp_path / "README.md").write_text("my notes")
    assert main(["import", str(sake_file), "--system", "sake", "--out", str(tmp_path)]) == 2
    assert "already holds README.md" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "my notes"


def test_what_is_left_of_an_interrupted_import_is_completed(imported, sake_file):
    (imported / "README.md").unlink()
    (imported / "config.json").write_text("{")
    assert main(["import", str(sake_file), "--system", "sake", "--out", str(imported)]) == 0
    assert sorted(path.name for path in imported.iterdir()) == FILES
    assert json.loads((imported / "config.json").read_text())["arch"] == load_model(imported).arch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FILE", "--system", "sakee", "--out", "OUT"], "system 'sakee' is not known; .*did you mean 'sake'"),
        (["FILE", "--system", "mems", "--out", "OUT"], "is a SAKE or DSN checkpoint, not a checkpoint of MEMS"),
        (["/nowhere.pth", "--system", "sake", "--out", "OUT"], "/nowhere.pth is not there"),
        (["FILE", "--system", "sake", "--out", "FILE"], "cannot be written"),
    ],
)
def test_bad_arguments_are_named(sake_file, tmp_path, capsys, arguments, message):
    places = {"FILE": str(sake_file), "OUT": str(tmp_path / "out")}
    assert main(["import", *(places.get(word, word) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    assert re.search(message, captured.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["--system", "--out"])
def test_required_flags(missing, capsys):
    flags = {"--system": "sake", "--out": "x"}
    given = [word for flag, value in flags.items() if flag != missing for word in (flag, value)]
    with pytest.raises(SystemExit) as caught:
        main(["import", "x.pth", *given])
    assert caught.value.code == 2 and missing in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_refused(tiny_state, tmp_path, capsys):
    name = "original_model.layer3.1.bn2.running_var"
    broken = torch.full((256,), 0.5)
    broken[7] = torch.inf
    torch.save({**tiny_state, name: broken}, tmp_path / "m.pth")
    assert main(["import", str(tmp_path / "m.pth"), "--system", "mathm", "--out", str(tmp_path / "out")]) == 2
    assert "not finite, in 1 of our tensors: trunk.layer3.1.bn2.running_var" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_card_of_every_system(tiny_states, tmp_path, system):
    torch.save(tiny_states[system], tmp_path / "a `file` | name\n.pth")
    text = model_card(load_released(tmp_path / "a `file` | name\n.pth", system), "models/my model")
    assert "`a ?file? ? name?.pth`" in text and "zsml evaluate 'models/my model' --data NAME" in text
    assert f"Protocol {system}: " in text and LAYOUTS[system].paper in text
    assert ("in [0, 1], not normalised" in text) == ("embedded as it is and mirrored" in text) == (system == "mems")
    assert ("depend on its modality" in text) == (system != "sbka")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 10 and all(line.count("|") == 3 for line in table)


def test_only_published_models_have_a_card():
    with pytest.raises(InputError, match="has no card"):
        model_card(create_model("test_resnet", num_classes=0, embedding_dim=4), "x")


@pytest.mark.parametrize("system", SYSTEMS)
def test_layouts_and_systems_agree(system):
    settings = TRAINABLE[system].settings_for("sketchy")
    assert (settings.get("normalize") == "none") == (LAYOUTS[system].normalize == "none")
    assert settings.get("test_transform", "test") == LAYOUTS[system].transform
    assert settings.get("arch", "cse_resnet50") == LAYOUTS[system].arch
    assert TRAINABLE[system].protocol == system
