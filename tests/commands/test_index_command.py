"""`zsml index` and `zsml search`: from images to an index, what is found in it, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_data import tiny_flags, write_tiny_folder
from torch.nn import functional as F

from zsml.cli import main
from zsml.data.decode import decode
from zsml.engine import indexing
from zsml.models import create_model, load_model, save_model
from zsml.models.preprocessing import Preprocessing
from zsml.retrieval import Index


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("images"), per_class=4)


def tiny_model(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = create_model("test_resnet", num_classes=0, embedding_dim=16)
    model.preprocessing = Preprocessing(image_size=32)
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def index(images, model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("index") / "photos.index"
    assert run("index", model, images / "photo", "--out", out, "--bits", 8) == 0
    return out


@pytest.fixture
def changed(index, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(index, tmp_path / "changed.index"))


def run(*words: object) -> int:
    words = [str(word) for word in words]
    if words[1] not in ("verify", "delete", "codes"):
        words += ["--device", "cpu"]
        words += ["--workers", "0"] if words[0] == "index" and "--workers" not in words else []
    return main(words)


def result(capsys, *words: object) -> dict:
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    assert run(*words) == 2
    return capsys.readouterr().err


def test_the_index_holds_the_models_embeddings_of_the_images(index, images, model):
    opened = Index.open(index)
    paths = sorted(images.glob("photo/*/*.png"))
    assert [item["path"] for item in opened.items()] == [str(path) for path in paths]
    assert [item["label"] for item in opened.items()] == [path.parent.name for path in paths]
    network = load_model(model)
    prepared = network.preprocessing([decode(path) for path in paths], "photo")
    with torch.inference_mode():
        expected = F.normalize(network(*prepared).embedding)
    torch.testing.assert_close(opened.embeddings(opened.ids), expected, rtol=0, atol=1e-3)
    assert opened.bits == 8 and opened.verify() == [] and opened.image_path(3) == paths[3]
    shutil.copytree(index, copy := index.parent / "elsewhere")  # an index is whole without the model's own folder
    torch.testing.assert_close(Index.open(copy).encoder()([decode(paths[0])], "photo"), expected[:1], rtol=0, atol=1e-5)


def test_the_same_line_goes_on_and_adds(changed, images, model, tmp_path, capsys, monkeypatch):
    root = Path(shutil.copytree(images / "photo", tmp_path / "more"))
    (root / "cow" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    listed = tmp_path / "list.txt"
    listed.write_text("more/cow/00.png\tkuh\nmore/cow/broken.jpg\n\n")
    done = result(capsys, "index", model, images / "photo", listed, "--out", changed)
    assert (done["added"], done["already"], done["items"], done["bits"]) == (1, 24, 25, 8)
    assert done["skipped_images"] == [str(root / "cow" / "broken.jpg")]
    assert Index.open(changed).items([24])[0]["label"] == "kuh" and Index.open(changed).verify() == []
    monkeypatch.setattr(indexing, "SAVED", 4)
    assert "add" not in refused(capsys, "index", model, root, "--out", changed, "--strict-images", "--batch-size", 2)
    kept = len(Index.open(changed))
    assert 25 < kept < 48
    done = result(capsys, "index", model, root, "--out", changed)
    assert done["added"] == 48 - kept and done["items"] == 48
    assert len({item["path"] for item in Index.open(changed).items()}) == 48


def test_delete_codes_and_verify(changed, images, capsys):
    assert result(capsys, "index", "delete", changed, images / "photo" / "dog", images / "photo/cow/01.png")["deleted"] == 5
    assert not any("/dog/" in item["path"] for item in Index.open(changed).items())
    assert "has no image" in refused(capsys, "index", "delete", changed, images / "photo/ant", "nothing.png")
    assert len(Index.open(changed)) == 19
    assert result(capsys, "index", "codes", changed, "--bits", 16)["bits"] == 16
    assert "--bits must be 1 to 16" in refused(capsys, "index", "codes", changed, "--bits", 17)
    assert run("index", "verify", changed) == 0 and "as it was written" in capsys.readouterr().out
    assert result(capsys, "index", "codes", changed, "--bits", 0)["bits"] == 0
    (changed / "model" / "model.safetensors").write_bytes(b"another")
    assert run("index", "verify", changed) == 1 and "is not the model" in capsys.readouterr().out
    assert "is not the model that made" in refused(capsys, "search", images / "photo/ant/00.png", "--index", changed)


def test_search_finds_the_photo_itself(index, images, tmp_path, capsys):
    asked = [images / "photo/ant/00.png", images / "photo/fox"]
    found = result(capsys, "search", *asked, "--index", index, "-k", 3, "--modality", "photo")
    assert len(found["queries"]) == 5
    for query in found["queries"]:
        assert query["hits"][0]["path"] == query["query"] and query["hits"][0]["distance"] < 1e-3
    by_bits = result(capsys, "search", *asked, "--index", index, "--bits", "--modality", "photo")
    assert by_bits["method"] == "bits" and len(by_bits["queries"][0]["hits"]) == 20
    assert all(isinstance(hit["distance"], int) for hit in by_bits["queries"][0]["hits"])
    every = result(capsys, "search", *asked, "--index", index, "--rerank", 24, "--modality", "photo", "-k", 3)
    assert every["queries"] == found["queries"]
    pictures = ["--sheet", tmp_path / "a.png", "--html", tmp_path / "a.html"]
    assert run("search", images / "sketch/bee/00.png", "--index", index, "-k", 12, *pictures) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 15 and shown[0] == str(images / "sketch/bee/00.png") and shown[1].split()[0] == "1"
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (1336, 304)
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/jpeg") == 13 and "http" not in page


def test_pictures_do_without_images_that_are_gone(tmp_path, images, model, capsys):
    root = Path(shutil.copytree(images / "photo" / "ant", tmp_path / "<b>ant"))
    assert run("index", model, tmp_path, "--out", tmp_path / "x.index") == 0
    shutil.rmtree(root)
    pictures = ["--sheet", tmp_path / "a.jpg", "--html", tmp_path / "a.html"]
    assert run("search", images / "sketch/ant", "--index", tmp_path / "x.index", *pictures) == 0
    page = (tmp_path / "a.html").read_text()
    assert page.count("no image") == 16 and "<b>ant" not in page


def test_a_run_is_indexed_as_it_was_trained(tmp_path, images, capsys):
    assert main(["train", "mathm", *tiny_flags(images, tmp_path / "run", "--epochs", "1", "--batches-per-epoch", "1")]) == 0
    capsys.readouterr()
    assert result(capsys, "index", tmp_path / "run", images / "photo/ant", "--out", tmp_path / "x.index")["width"] == 16
    about = Index.open(tmp_path / "x.index").model
    assert about["preprocessing"]["image_size"] == 32 and about["l2"] is True and about["arch"] == "test_resnet"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{images}/nowhere"], "there is no such file or folder"),
        (["{model}"], "there is no image"),
        (["{model}/config.json"], "is neither a folder, nor an image"),
        (["{images}", "--bits", "17"], "--bits must be 1 to 16"),
        (["{images}", "--bits", "0"], "--bits must be 1 to 16"),
        (["{images}", "--batch-size", "0"], "--batch-size must be 1 or more"),
        (["{images}", "--workers", "-1"], "--workers must be 0 or more"),
        (["{images}", "--out", "{model}"], "holds other files"),
    ],
)
def test_index_refuses(words, message, images, model, tmp_path, capsys):
    words = [word.format(images=images, model=model) for word in words]
    assert message in refused(capsys, "index", model, "--out", tmp_path / "new", *words)


def test_index_of_another_model_is_refused(index, images, tmp_path, capsys):
    other = tiny_model(tmp_path / "other", seed=1)
    assert "built by another model" in refused(capsys, "index", other, images / "photo", "--out", index)
    plain = create_model("test_resnet", num_classes=0, embedding_dim=16)
    save_model(plain, tmp_path / "plain")
    assert "does not say how its images" in refused(capsys, "index", tmp_path / "plain", images, "--out", tmp_path / "x")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"\x89PNG")
    assert "none of the 1 images can be decoded" in refused(capsys, "index", other, tmp_path / "bad", "--out", tmp_path / "y")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-k", "0"], "k must be 1 or more"),
        (["--rerank", "0"], "rerank must be 1 or more"),
        (["--rerank", "9", "--bits"], "exclude each other"),
        (["--sheet", "a.gif"], "--sheet must end in .png or .jpg"),
        (["--html", "/proc/nowhere/a.html"], "cannot be written"),
        (["--index", "nowhere"], "holds no index"),
        (["nowhere.png"], "there is no such file or folder"),
        (["{images}/broken.png"], "cannot be decoded"),
    ],
)
def test_search_refuses(words, message, index, images, capsys):
    (images / "broken.png").write_bytes(b"\x89PNG")
    words = [word.format(images=images) for word in words]
    assert message in refused(
        capsys, "search", images / "sketch/ant/00.png", *words, *(() if "--index" in words else ("--index", index))
    )
    (images / "broken.png").unlink()


def test_two_runs_at_once_store_every_image_once(images, model, tmp_path, monkeypatch):
    """The second run starts while the first embeds, finishes before it, and sees nothing of what the first will add."""
    out, found, done = tmp_path / "index", indexing.find_images([images / "photo"]), []
    first, embed = indexing.open_or_create(out, model), indexing._embeddings

    def meanwhile(*arguments):
        monkeypatch.setattr(indexing, "_embeddings", embed)
        half = dict(list(found.items())[:12])
        done.append(indexing.add_images(indexing.open_or_create(out, model), half, modality="photo", device=torch.device("cpu")))
        yield from embed(*arguments)

    monkeypatch.setattr(indexing, "_embeddings", meanwhile)
    done.append(indexing.add_images(first, found, modality="photo", device=torch.device("cpu")))
    assert [(part["added"], part["already"]) for part in done] == [(12, 0), (12, 12)]
    assert sorted(item["path"] for item in Index.open(out).items()) == sorted(found)
    assert Index.open(out).verify() == []


def test_an_image_whose_name_is_not_utf8_is_skipped_and_named(images, model, tmp_path, capsys):
    root = Path(shutil.copytree(images / "photo" / "ant", tmp_path / "ant"))
    try:
        (root / "02.png").rename(root / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    done = result(capsys, "index", model, root, "--out", tmp_path / "x.index")
    assert (done["added"], done["skipped_images"]) == (3, [f"{root}/caf\\udce9.png"])
    assert "caf\\udce9.png' cannot be indexed" in refused(
        capsys, "index", model, root, "--out", tmp_path / "y.index", "--strict-images"
    )


def test_a_list_may_begin_with_a_byte_order_mark(images, tmp_path):
    (tmp_path / "list.txt").write_text(f"{images}/photo/ant/00.png\tant\n", encoding="utf-8-sig")
    assert indexing.find_images([tmp_path / "list.txt"]) == {f"{images}/photo/ant/00.png": "ant"}


def test_search_refuses_an_index_without_images_or_codes(images, model, tmp_path, capsys):
    indexing.open_or_create(tmp_path / "x.index", model)
    asked = ("search", images / "sketch/ant/00.png", "--index", tmp_path / "x.index")
    assert "is empty; `zsml index` adds" in refused(capsys, *asked)
    assert run("index", model, images / "photo/ant", "--out", tmp_path / "x.index") == 0
    message = refused(capsys, *asked, "--bits")
    assert f"`zsml index codes {tmp_path / 'x.index'} --bits 16`" in message and "rebuild_codes" not in message


def test_names_cannot_steer_the_terminal(images, model, tmp_path, capsys):
    root = Path(shutil.copytree(images / "photo" / "ant", tmp_path / "\x1b[2Jant\n"))
    assert run("index", model, root.parent, "--out", tmp_path / "x.index") == 0
    capsys.readouterr()
    assert run("search", root / "00.png", "--index", tmp_path / "x.index", "-k", 4) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 5 and "\x1b" not in shown and r"\x1b[2Jant\n" in shown.splitlines()[1]
