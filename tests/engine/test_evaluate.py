from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_data import tiny_config

from zsml.data import load_dataset
from zsml.engine.embed import embed, load_part, open_run, write_embeddings
from zsml.engine.evaluate import BinaryOptions, directions_of, evaluate, first_rows, unseen_map
from zsml.engine.report import query_examples, write_run_report
from zsml.engine.train import train
from zsml.errors import CorruptImage, InputError
from zsml.systems import SYSTEMS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(tiny_config(tiny_folder, out, epochs=1), SYSTEMS["mathm"])
    return open_run(out, CPU)


def voc_ap(relevant: np.ndarray) -> float:
    """Interpolated average precision of a ranking, straight from the definition."""
    precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    return float(np.mean([precision[rank:].max() for rank in np.flatnonzero(relevant)]))


def mean_ap(query, query_labels, gallery, gallery_labels) -> float:
    query, gallery = query.double().numpy(), gallery.double().numpy()
    aps = []
    for vector, label in zip(query, query_labels.numpy(), strict=True):
        order = np.argsort(((gallery - vector) ** 2).sum(axis=1), kind="stable")
        aps.append(voc_ap(gallery_labels.numpy()[order] == label))
    return float(np.mean(aps))


def by_hand(run, part: str, modality: str) -> torch.Tensor:
    """Embeddings of one image at a time."""
    dataset = load_part(run.config, part, modality)
    with torch.no_grad():
        rows = [run.model(image[None], torch.tensor([kind])).embedding[0] for image, _, kind in dataset]
    return torch.stack([row / row.norm() for row in rows])


@pytest.mark.parametrize("workers", [0, 2])
def test_embeddings_are_the_unit_outputs_of_the_model_in_order(run, workers):
    dataset = load_part(run.config, "test", "sketch")
    run.model.train()
    found = embed(run.model, dataset, device=CPU, batch_size=5, workers=workers)
    assert run.model.training
    run.model.eval()
    torch.testing.assert_close(found.embedding, by_hand(run, "test", "sketch"), atol=1e-5, rtol=0)
    assert torch.equal(found.labels, dataset.labels) and found.items.tolist() == list(range(28)) and found.skipped == []


def test_every_direction_agrees_with_the_definition(run):
    sketch, photo = (by_hand(run, "test", modality) for modality in ("sketch", "photo"))
    labels = torch.tensor([0] * 14 + [1] * 14)
    first = torch.tensor(([True] * 10 + [False] * 4) * 2)
    results = evaluate(run.model, run.config, device=CPU, preset="mathm").results
    assert list(results) == ["sketch->photo", "photo->photo", "sketch->sketch"]
    assert results["sketch->photo"].map == pytest.approx(mean_ap(sketch, labels, photo, labels), abs=1e-3)
    for name, x in (("photo->photo", photo), ("sketch->sketch", sketch)):
        assert (results[name].num_queries, results[name].gallery_size) == (20, 8)
        assert results[name].map == pytest.approx(mean_ap(x[first], labels[first], x[~first], labels[~first]), abs=1e-3)
    assert unseen_map(run.model, run.config, CPU, "mathm") == results["sketch->photo"].map


@pytest.mark.parametrize("fit", ["gallery", "query", "train"])
@pytest.mark.parametrize("center", ["fit", "own"])
def test_codes_are_compared_by_hamming_distance(run, fit, center):
    from zsml.quantize import ITQ

    results = evaluate(run.model, run.config, device=CPU, preset="mathm", binary=BinaryOptions(8, fit=fit, center=center)).results
    names = ["sketch->photo", "photo->photo", "sketch->sketch"]
    assert list(results) == [name for direction in names for name in (direction, f"{direction}, 8 bits")]
    sketch, photo, basis = (by_hand(run, *which) for which in (("test", "sketch"), ("test", "photo"), ("train", "photo")))
    itq = ITQ(bits=8).fit({"gallery": photo, "query": sketch, "train": basis}[fit])
    bits = [torch.from_numpy(np.unpackbits(itq.transform(x, center=center).numpy(), axis=1)) for x in (sketch, photo)]
    labels = torch.tensor([0] * 14 + [1] * 14)
    # embeddings batched and one by one differ in the last digit, and so may a bit
    assert results["sketch->photo, 8 bits"].map == pytest.approx(mean_ap(bits[0], labels, bits[1], labels), abs=0.02)
    assert results["sketch->photo, 8 bits"].protocol.distance == "hamming"


@pytest.mark.parametrize("bits", [0, -8, 17])
def test_bits_must_fit_the_embedding(run, bits):
    with pytest.raises(InputError, match="bits"):
        evaluate(run.model, run.config, device=CPU, preset="mathm", binary=BinaryOptions(bits))


@pytest.mark.parametrize("seed", range(5))
def test_first_rows_against_a_loop(seed):
    labels = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(seed))
    seen: dict[int, int] = {}
    expected = []
    for label in labels.tolist():
        expected.append(seen.get(label, 0) < 3)
        seen[label] = seen.get(label, 0) + 1
    assert first_rows(labels, 3).tolist() == expected


def test_a_direction_without_a_gallery_is_left_out_and_said_so(run, capsys):
    sketches, photos = (embed(run.model, load_part(run.config, "test", kind), device=CPU) for kind in ("sketch", "photo"))
    few = replace(photos, embedding=photos.embedding[:10], labels=photos.labels[:10], items=photos.items[:10])
    assert [direction.name for direction in directions_of(sketches, few)] == ["sketch->photo", "sketch->sketch"]
    assert "photo->photo left out" in capsys.readouterr().err


@pytest.fixture
def damaged(tiny_folder, tmp_path):
    root = shutil.copytree(tiny_folder, tmp_path / "data")
    (root / "photo" / "elk" / "03.png").write_bytes(b"no image")
    (root / "photo" / "fox" / "13.png").write_bytes((root / "photo" / "fox" / "12.png").read_bytes()[:60])
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_are_skipped_named_and_counted(run, damaged, workers, capsys):
    config = replace(run.config, root=damaged, workers=workers)
    evaluation = evaluate(run.model, config, device=CPU, preset="mathm", batch_size=4)
    assert [path[-10:] for path in evaluation.skipped] == ["elk/03.png", "fox/13.png"]
    assert "skipped corrupt image" in capsys.readouterr().err
    whole = by_hand(run, "test", "photo")
    photos = embed(run.model, load_part(config, "test", "photo"), device=CPU, batch_size=4, workers=workers)
    assert photos.items.tolist() == [n for n in range(28) if n not in (3, 27)]
    torch.testing.assert_close(photos.embedding, whole[photos.items], atol=1e-5, rtol=0)
    assert evaluation.results["sketch->photo"].gallery_size == 26
    assert evaluation.results["photo->photo"].gallery_size == 6  # the eleventh elk moved up into the queries


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_evaluation_ends_at_the_first_corrupt_image(run, damaged, workers):
    config = replace(run.config, root=damaged, workers=workers, strict_images=True)
    with pytest.raises(CorruptImage, match=r"elk/03.png"):
        evaluate(run.model, config, device=CPU, preset="mathm")


def test_a_part_without_one_readable_image_is_an_error(run, tiny_folder, tmp_path):
    root = shutil.copytree(tiny_folder, tmp_path / "data")
    for name in ("elk", "fox"):
        for path in (root / "sketch" / name).iterdir():
            path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 28 images of folder test sketches can be decoded"):
        evaluate(run.model, replace(run.config, root=root), device=CPU, preset="mathm")


def test_examples_are_the_nearest_and_spread_over_the_classes(run):
    evaluation = evaluate(run.model, run.config, device=CPU, preset="mathm")
    examples = query_examples(evaluation.directions[0], 6, seed=0)
    assert sorted(example.query_class for example in examples) == ["elk"] * 3 + ["fox"] * 3
    sketch, photo = (by_hand(run, "test", modality) for modality in ("sketch", "photo"))
    for example in examples:
        distances = [distance for *_, distance in example.results]
        assert len(distances) == 10 and distances == sorted(distances)
        assert all(correct == (name == example.query_class) for _, name, correct, _ in example.results)
        nearest = torch.cdist(sketch, photo).sort(dim=1).values[:, :10]
        assert (nearest - torch.tensor(distances)).abs().amax(dim=1).min() < 1e-4
    again, other = (query_examples(evaluation.directions[0], 6, seed=seed) for seed in (0, 1))
    pixels = [[np.asarray(e.query_image).tobytes() for e in group] for group in (examples, again, other)]
    assert pixels[0] == pixels[1] != pixels[2]


def test_the_report_is_written(run, tmp_path):
    binary = BinaryOptions(8)
    evaluation = evaluate(run.model, run.config, device=CPU, preset="mathm", binary=binary)
    page = write_run_report(tmp_path / "report", run, evaluation, binary, examples=3)
    assert page == tmp_path / "report" / "report.html"
    assert "elk" in page.read_text() and "8 bits" in page.read_text()
    json.loads((tmp_path / "report" / "metrics.json").read_text())


def test_embeddings_on_disk_say_what_each_row_is(run, tmp_path):
    import csv

    from safetensors.torch import load_file

    parts = [embed(run.model, load_part(run.config, "test", kind), device=CPU) for kind in ("sketch", "photo")]
    summary = write_embeddings(tmp_path, parts)
    assert (summary["rows"], summary["width"], summary["skipped_images"]) == (56, 16, [])
    tensors = load_file(summary["embeddings"])
    assert torch.equal(tensors["embedding"], torch.cat([part.embedding for part in parts]))
    assert tensors["modality"].tolist() == [0] * 28 + [1] * 28 and tensors["label"].tolist() == ([0] * 14 + [1] * 14) * 2
    table = json.loads((tmp_path / "items.json").read_text())
    assert [row["row"] for row in table] == list(range(56)) and table[55]["class"] == "fox"
    assert table[30] == {"row": 30, "id": str(parts[1].dataset.paths[2]), "class": "elk", "label": 0, "modality": "photo"}
    assert len(list(csv.DictReader((tmp_path / "items.csv").open()))) == 56


def test_a_label_out_of_range_is_refused(run):
    dataset = load_dataset("folder", run.config.root, "test", "photo", image_size=32, unseen=["elk", "fox"])
    dataset.labels[3] = 2
    with pytest.raises(InputError, match="folder test: label 2 of item 3 is out of range; 2 classes take labels"):
        embed(run.model, dataset, device=CPU)
