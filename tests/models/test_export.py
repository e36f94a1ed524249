"""A model as one file: it gives the model's embeddings, in any batch, from plain pixels, or it is not written."""

from __future__ import annotations

import builtins
import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_data import tiny_flags, write_tiny_folder

from zsml.cli import main
from zsml.errors import InputError
from zsml.models import EmbeddingModel, Preprocessing, create_model, export
from zsml.models.export import export_model

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.75)


def make(arch="test_resnet", size=32, **options):
    torch.manual_seed(0)
    model = create_model(arch, num_classes=3, embedding_dim=8, **options).eval()
    model.preprocessing = Preprocessing(size, "test", MEAN, STD)
    return model


def by_hand(model, images, modality):
    """Embeddings of images from 0 to 1, normalised outside the model."""
    shape = (3, 1, 1)
    with torch.no_grad():
        return model((images - torch.tensor(MEAN).reshape(shape)) / torch.tensor(STD).reshape(shape), modality).embedding


def run_onnx(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {name: value.numpy() for name, value in inputs.items()})[0]


def close(found, wanted):
    return np.abs(np.asarray(found) - wanted.numpy()).max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize(("arch", "options"), [("cse_resnet50", {}), ("test_vit", {"img_size": 32}), ("convnextv2_atto", {})])
def test_onnx_gives_the_models_embeddings(arch, options, tmp_path):
    model, path = make(arch, **options), tmp_path / "encoder.onnx"
    told = export_model(model, path)
    assert told["largest_error"] <= told["tolerance"] == 1e-4 and told["bytes"] == path.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == ["encoder.onnx"]
    for batch in (1, 5):
        images, modality = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 2
        inputs = {"images": images, "modality": modality} if model.conditional else {"images": images}
        assert close(run_onnx(path, **inputs), by_hand(model, images, modality))
    kept = json.loads({each.key: each.value for each in onnx.load(path).metadata_props}["zsml"])
    assert Preprocessing.from_dict(kept["preprocessing"]) == model.preprocessing and kept["arch"] == arch
    assert model.classifier is not None and model.trunk is not None  # as it was


def test_torch_export_gives_them_too_and_a_wrong_modality_makes_nan(tmp_path):
    model = make(gate=True)
    with torch.no_grad():
        for parameter in model.gate.parameters():
            parameter.normal_()  # no longer the identity
    told = export_model(model, tmp_path / "encoder.pt2", "torch-export")
    assert told["inputs"] == {"images": ["B", 3, 32, 32], "modality": ["B"]}
    extra = {"zsml.json": ""}
    found = torch.export.load(tmp_path / "encoder.pt2", extra_files=extra).module()
    images = torch.rand(4, 3, 32, 32)
    sketches, photos = (by_hand(model, images, torch.full((4,), tag)) for tag in (0, 1))
    assert close(found(images, torch.zeros(4, dtype=torch.int64)), sketches) and not close(photos, sketches)
    embedding = found(images, torch.tensor([1, 7, 1, 1]))
    assert embedding[1].isnan().all() and close(embedding[2:], photos[2:])
    assert json.loads(extra["zsml.json"])["embedding_dim"] == 8


def test_a_file_that_would_be_wrong_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "encoder.onnx"
    path.write_text("before")
    monkeypatch.setattr(export, "_run_onnx", lambda made: lambda images: torch.ones(len(images), 8))
    with pytest.raises(InputError, match=r"test_resnet: the exported file differs from the model by .* nothing was written"):
        export_model(make(), path)
    assert path.read_text() == "before" and [each.name for each in tmp_path.iterdir()] == ["encoder.onnx"]


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    model = make()
    with pytest.raises(TypeError, match="got ResNet"):
        export_model(model.trunk, tmp_path / "x")
    with pytest.raises(InputError, match="format 'onxx' is not known; choose from onnx, torch-export"):
        export_model(model, tmp_path / "x", "onxx")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file '.*' cannot be written"):
        export_model(model, tmp_path / "file" / "x", "torch-export")
    monkeypatch.setattr(export, "LARGEST_ONNX", 1000)
    with pytest.raises(InputError, match=r"up to 2 GiB in a file, and test_resnet has .* bytes; choose torch-export"):
        export_model(model, tmp_path / "x")
    model.preprocessing = None
    with pytest.raises(InputError, match=r"model\.preprocessing is None: set it"):
        export_model(model, tmp_path / "x")


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    there = builtins.__import__

    def without(name, *rest, **named):
        if name == "onnxscript":
            raise ImportError("no", name=name)
        return there(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"needs onnxscript: pip install 'zsml\[export\]', or choose torch-export"):
        export_model(make(), tmp_path / "x")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root, out = write_tiny_folder(tmp_path_factory.mktemp("images")), tmp_path_factory.mktemp("run")
    assert main(["train", "mathm", *tiny_flags(root, out), "--epochs", "1", "--batches-per-epoch", "1"]) == 0
    return out


def test_the_command_exports_a_run_and_a_model(run, tmp_path, capsys):
    assert main(["export", str(run), "--format", "folder", "--out", str(tmp_path / "shared")]) == 0
    assert "no report: the card has no numbers" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--workers", "0", "--examples", "0"]) == 0
    assert main(["export", str(run), "--format", "folder", "--out", str(tmp_path / "shared")]) == 0
    assert "its card has the numbers of the report" in capsys.readouterr().out
    model = EmbeddingModel.from_pretrained(tmp_path / "shared")
    assert model.card["evaluation"]["results"] and model.preprocessing.image_size == 32
    capsys.readouterr()
    for folder in (run, tmp_path / "shared"):
        assert main(["export", str(folder), "--format", "torch-export", "--out", str(tmp_path / "e.pt2"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["inputs"] == {"images": ["B", 3, 32, 32]}
    assert main(["export", str(run), "--format", "torch-export", "--out", str(tmp_path / "e.pt2")]) == 0
    assert "images ['B', 3, 32, 32] -> embedding [B, 16]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["RUN", "--format", "onnx", "--out", "HERE"], "is a folder; --format onnx writes a file"),
        (["RUN", "--format", "onnx", "--out", "HERE/x", "--report", "HERE"], "--report has no meaning with --format onnx"),
        (["RUN", "--format", "folder", "--out", "RUN"], "is what is to be exported; choose another folder"),
        (["RUN", "--format", "folder", "--out", "HERE/x", "--report", "HERE"], "report '.*' cannot be read"),
        (["HERE", "--format", "folder", "--out", "HERE/x"], "holds no checkpoint"),
    ],
)
def test_flags_that_cannot_be_are_named(run, tmp_path, flags, said, capsys):
    places = {"RUN": str(run), "HERE": str(tmp_path)}
    assert main(["export", *(places.get(word, word.replace("HERE", str(tmp_path))) for word in flags)]) == 2

    assert re.search(said, capsys.readouterr().err) and not any(tmp_path.iterdir())
