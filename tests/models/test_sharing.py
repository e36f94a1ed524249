"""save_pretrained, from_pretrained, push_to_hub: a model as others get it, with a card whose numbers are its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from hub import SHA, Hub
from PIL import Image
from tiny_data import tiny_flags, write_tiny_folder

from zsml.cli import main
from zsml.commit import commit
from zsml.engine.embed import open_run
from zsml.errors import InputError
from zsml.models import EmbeddingModel, Preprocessing, create_model
from zsml.models.io import weights_sha256


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root, out = write_tiny_folder(tmp_path_factory.mktemp("images")), tmp_path_factory.mktemp("run")
    assert main(["train", "mathm", *tiny_flags(root, out), "--epochs", "1"]) == 0
    assert main(["evaluate", str(out), "--workers", "0", "--examples", "0", "--bits", "8", "--protocol", "sake"]) == 0
    return out


@pytest.fixture
def model(run):
    return open_run(run, torch.device("cpu")).model


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        places = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", places)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server
        server.shutdown()


def same(one, other) -> bool:
    return weights_sha256(one) == weights_sha256(other) and one.preprocessing == other.preprocessing


def test_the_card_has_the_numbers_of_the_report_with_protocol_and_commit(run, model, tmp_path):
    model.save_pretrained(tmp_path, run / "report")
    text, numbers = (tmp_path / "README.md").read_text(), json.loads((run / "report" / "metrics.json").read_text())
    for task, result in numbers["results"].items():
        mean = "map_macro"  # SAKE averages over classes
        line = next(line for line in text.splitlines() if line.startswith(f"| {task} |"))
        assert f"| {result['num_queries']} | {result['gallery_size']} | {result[mean]:.4f} |" in line
        assert result["protocol"]["sentence"] in text
    assert f"measured at commit {commit()}" in text and f"sha256 of the weights | `{weights_sha256(model)}`" in text
    for words in ("mathm, Modality-Aware Triplet Hard Mining", "resized to 32 x 32 pixels", "folder, 2 unseen classes"):
        assert words in text
    assert text.startswith("---\nlibrary_name: zsml\n") and sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


def test_others_get_the_same_embeddings_by_the_lines_on_the_card(model, tmp_path):
    model.save_pretrained(tmp_path / "shared")
    path = tmp_path / "sketch.png"
    Image.effect_noise((50, 40), 80).save(path)
    snippet = re.search(r"```python\n(.*?)```", (tmp_path / "shared" / "README.md").read_text(), re.DOTALL)[1]
    names: dict[str, object] = {"path": path}
    exec(snippet, names)
    with torch.no_grad():
        wanted = model(*model.preprocessing([Image.open(path)], "sketch")).embedding
    assert torch.allclose(names["embedding"], wanted, atol=1e-5)
    assert same(names["model"], model) and not names["model"].training


def test_numbers_of_other_weights_are_refused_and_forgotten(run, model, tmp_path):
    model.save_pretrained(tmp_path / "one", run / "report" / "metrics.json")
    again = EmbeddingModel.from_pretrained(tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    assert "measured at commit" in (tmp_path / "two" / "README.md").read_text()
    with torch.no_grad():
        again.bottleneck.bias += 1
    again.save_pretrained(tmp_path / "three")
    assert "Not measured yet" in (tmp_path / "three" / "README.md").read_text()
    with pytest.raises(InputError, match="is of other weights than this model; run `zsml evaluate`"):
        again.save_pretrained(tmp_path / "four", run / "report")
    assert not (tmp_path / "four").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "is not as `zsml evaluate` writes it"),
        ('{"facts": {}, "protocol": {}, "title": "x", "results": {"a": {}}}', "is not as `zsml evaluate` writes it"),
        ('{"facts": {}, "protocol": {}, "title": "x", "results": {}}', "too old to say of which weights"),
    ],
)
def test_reports_that_cannot_be_used(model, tmp_path, text, message):
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=message):
        model.save_pretrained(tmp_path / "out", tmp_path if text is not None else tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_a_model_of_which_nothing_is_known(tmp_path):
    model = create_model("test_resnet", num_classes=0, embedding_dim=4)
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count("not recorded") == 1 and "Not measured yet" in text and "# test_resnet\n" in text


def test_text_of_others_stays_text(tmp_path):
    model = create_model("test_resnet", num_classes=0, embedding_dim=4)
    model.card = {"system": "sake", "source": {"file": "a|`b`\n<script>", "bytes": 3, "sha256": "ab"}}
    model.preprocessing = replace(Preprocessing(), image_size=64)
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "a??b???script>" in text and "<script" not in text


def test_a_repository_of_the_hub_and_back(model, run, hub, tmp_path):
    url = model.push_to_hub("someone/sketches", run / "report")
    assert url.endswith(f"someone/sketches/commit/{SHA}") and set(hub.files["someone/sketches"]) >= {"README.md", "config.json"}
    assert b"from_pretrained('someone/sketches')" in hub.files["someone/sketches"]["README.md"]
    hub.asked.clear()
    with pytest.raises(InputError, match="was not downloaded before \\(download=True fetches it\\)"):
        EmbeddingModel.from_pretrained("someone/sketches")
    assert hub.asked == []  # nobody asked the network
    assert same(EmbeddingModel.from_pretrained("someone/sketches", download=True), model)
    hub.asked.clear()
    assert same(EmbeddingModel.from_pretrained("someone/sketches"), model) and hub.asked == []
    with pytest.raises(InputError, match="model 'someone/else' cannot be downloaded"):
        EmbeddingModel.from_pretrained("someone/else", download=True)


def test_names_that_cannot_be(model, tmp_path):
    for repository, error in (("sketches", InputError), ("a/b/c", InputError), ("../x", InputError), (None, TypeError)):
        with pytest.raises(error, match="repository must be"):
            model.push_to_hub(repository)
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        EmbeddingModel.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="revision='v1' has no meaning for a folder"):
        EmbeddingModel.from_pretrained(tmp_path, revision="v1")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file")


def test_no_way_to_the_hub_is_said(model, hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(InputError, match=r"repository 'a/b' cannot be written \(`hf auth login` first\?\)"):
        model.push_to_hub("a/b")


def test_best_and_last_model_of_a_run_keep_where_they_come_from(tmp_path):
    flags = [
        *tiny_flags(write_tiny_folder(tmp_path / "images"), tmp_path / "run"),
        "--epochs",
        "1",
        "--selection",
        "val_accuracy",
    ]
    assert main(["train", "mathm", *flags]) == 0
    for weights in ("best", "last"):
        model = open_run(tmp_path / "run", torch.device("cpu"), weights).model
        assert (model.card["system"], model.card["commit"]) == ("mathm", commit()) and model.preprocessing.image_size == 32
        model.save_pretrained(tmp_path / weights)
        text = (tmp_path / weights / "README.md").read_text()
        assert ("| chosen | epoch 1, best by val_accuracy (" in text) == (weights == "best")
