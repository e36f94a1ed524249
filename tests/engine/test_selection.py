"""Which epoch's model is kept, and which model is then used."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_data import tiny_config

from zsml.data import load_dataset
from zsml.engine import selection
from zsml.engine.config import TrainConfig
from zsml.engine.embed import load_part, open_run
from zsml.engine.selection import val_accuracy, val_map
from zsml.engine.train import train
from zsml.errors import InputError
from zsml.metrics import evaluate_retrieval
from zsml.models import create_model, load_model, save_model
from zsml.quantize import ITQ
from zsml.systems import SYSTEMS

CPU = torch.device("cpu")


def setting(folder, out, **changes) -> TrainConfig:
    return tiny_config(folder, out, **{"selection": "val_accuracy", "epochs": 3, **changes})


def by_hand(model, config) -> float:
    sketches = load_dataset("folder", config.root, "val", "sketch", **config.dataset_options())
    right = [int(model(image[None], torch.tensor([kind])).logits.argmax()) == label for image, label, kind in sketches]
    return sum(right) / len(right)


def test_the_best_epoch_is_kept_and_used(tiny_folder, tmp_path):
    config = setting(tiny_folder, tmp_path)
    result = train(config, SYSTEMS["mathm"])
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    values = [row["val_accuracy"] for row in logged if row["kind"] == "epoch"]
    assert len(values) == 3 and result["val_accuracy"] == max(values)
    assert result["best_epoch"] == values.index(max(values)) + 1  # the first of equals

    best, last = open_run(tmp_path, CPU), open_run(tmp_path, CPU, weights="last")
    assert f"epoch {result['best_epoch']}, best by val_accuracy" in best.what and "the last" in last.what
    assert by_hand(best.model, config) == pytest.approx(max(values))
    assert by_hand(last.model, config) == pytest.approx(values[-1])


def test_a_run_resumed_keeps_the_best_of_before(tiny_folder, tmp_path, monkeypatch):
    values = iter([0.5, 0.9, 0.1])
    monkeypatch.setattr(selection, "val_accuracy", lambda *_: next(values))
    train(setting(tiny_folder, tmp_path, epochs=2), SYSTEMS["mathm"])
    before = load_file(tmp_path / "best" / "model.safetensors")
    result = train(setting(tiny_folder, tmp_path, epochs=3), SYSTEMS["mathm"], resume=True)
    after = load_file(tmp_path / "best" / "model.safetensors")
    assert (result["best_epoch"], result["val_accuracy"]) == (2, 0.9)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_system_may_bar_epochs_from_being_kept(tiny_folder, tmp_path):
    class Late(type(SYSTEMS["mathm"])):
        def may_keep(self, config, epoch):
            return epoch >= 2

    assert train(setting(tiny_folder, tmp_path), Late())["best_epoch"] == 3


def test_selection_changes_nothing_in_training(tiny_folder, tmp_path):
    plain = train(setting(tiny_folder, tmp_path / "plain", selection="last"), SYSTEMS["mathm"])
    for rule in ("val_accuracy", "val_map"):
        chosen = train(setting(tiny_folder, tmp_path / rule, selection=rule), SYSTEMS["mathm"])
        a, b = (load_file(f"{run['checkpoint']}/model.safetensors") for run in (plain, chosen))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_val_map_is_the_map_of_binary_codes_of_drawn_pairs(tiny_folder, tmp_path):
    config = setting(tiny_folder, tmp_path)
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=4, embedding_dim=3)
    found = val_map(model, config, CPU, "dsn")

    def embedded(part, modality):
        data = load_dataset("folder", config.root, part, modality, **config.dataset_options())
        with torch.no_grad():
            rows = model.eval()(torch.stack([data[i][0] for i in range(len(data))]), torch.full((len(data),), data.modality))
        return torch.nn.functional.normalize(rows.embedding), data.labels

    (queries, query_labels), (gallery, gallery_labels) = embedded("val", "sketch"), embedded("train", "photo")
    # Every class has one held-out sketch in this folder: the draw of pairs has no choice but how often each asks.
    rows = torch.tensor([int((query_labels == label).nonzero()[0]) for label in gallery_labels.tolist()])
    assert len(query_labels) == len(query_labels.unique())
    query = queries[rows]
    itq = ITQ(bits=3).fit(query)  # four different sketches span no more
    codes = itq.transform(query, center="own"), itq.transform(gallery, center="own")
    expected = evaluate_retrieval(
        codes[0], query_labels[rows], codes[1], gallery_labels, preset="dsn", distance="hamming"
    ).map_macro
    assert found == pytest.approx(expected)


def test_val_map_searches_as_many_photos_as_published(tiny_folder, tmp_path, monkeypatch):
    """300 batches of 48 pairs; or all there are."""
    from zsml.engine import selection

    assert selection.PAIRS == 300 * 48
    searched = []
    monkeypatch.setattr(selection, "evaluate_retrieval", lambda *data, **_: searched.append(data) or SimpleNamespace(map_macro=0))
    model = create_model("test_resnet", num_classes=4, embedding_dim=3)
    for most in (7, 14_400):
        monkeypatch.setattr(selection, "PAIRS", most)
        val_map(model, setting(tiny_folder, tmp_path), CPU, "dsn")
    few, every = searched
    assert [len(x) for x in few] == [7] * 4 and len(every[2]) == len(load_part(setting(tiny_folder, tmp_path), "train", "photo"))
    assert torch.equal(few[1], few[3])  # each photo with a sketch of its class


def test_no_held_out_sketches_and_no_best_model_are_explained(tiny_folder, tmp_path):
    train(setting(tiny_folder, tmp_path, selection="last", epochs=1), SYSTEMS["mathm"])
    with pytest.raises(InputError, match=r"--weights best: .* has none; a run keeps its best model with --selection"):
        open_run(tmp_path, CPU, weights="best")
    with pytest.raises(InputError, match="--selection 'best' is not known; choose from last, val_accuracy, val_map"):
        setting(tiny_folder, tmp_path, selection="best").validate()


def test_a_model_that_selection_did_not_keep_is_named(tiny_folder, tmp_path):
    train(setting(tiny_folder, tmp_path, epochs=1), SYSTEMS["mathm"])
    save_model(create_model("test_resnet", num_classes=4, embedding_dim=16), tmp_path / "best")
    with pytest.raises(InputError, match=r"best' was not kept by --selection: its model says no epoch"):
        open_run(tmp_path, CPU)


def test_a_kill_between_the_best_model_and_its_checkpoint_is_made_good(tiny_folder, tmp_path, monkeypatch):
    """The redone epoch comes out worse, as it may on a GPU: what is kept must still be the epoch that the run says."""
    values = iter([0.5, 0.4])
    monkeypatch.setattr(selection, "val_accuracy", lambda *_: next(values))
    train(setting(tiny_folder, tmp_path, epochs=1), SYSTEMS["mathm"])
    model = load_model(tmp_path / "best")
    model.card = {**model.card, "selection": {**model.card["selection"], "epoch": 2}}  # saved in epoch 2, then killed
    save_model(model, tmp_path / "best")
    assert train(setting(tiny_folder, tmp_path, epochs=2), SYSTEMS["mathm"], resume=True)["best_epoch"] == 2
    assert open_run(tmp_path, CPU).what == "epoch 2, best by val_accuracy (0.4000)"


def test_accuracy_counts_every_held_out_sketch(tiny_folder, tmp_path):
    config = setting(tiny_folder, tmp_path)
    torch.manual_seed(1)
    model = create_model("test_resnet", num_classes=4, embedding_dim=8).train()
    assert val_accuracy(model, config, CPU) == pytest.approx(by_hand(model.eval(), config))
    assert model.train().training
