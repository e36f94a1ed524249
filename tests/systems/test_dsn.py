"""DSN: its published settings, and its objective against the formulas, alone and over several ranks."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from ranks import on_ranks
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from zsml.engine.config import TrainConfig
from zsml.engine.distributed import Step
from zsml.engine.train import train
from zsml.errors import InputError
from zsml.systems import SYSTEMS

DSN, CLASSES = SYSTEMS["dsn"], ["ant", "bee", "cow"]
SETTINGS = {"data": "synthetic", "arch": "test_resnet", "embedding_dim": 8, "teacher": "random", "image_size": 32}


def setting(**changes: object) -> TrainConfig:
    return TrainConfig(system="dsn", **{**DSN.settings_for("synthetic"), **SETTINGS, **changes})


def built(config: TrainConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same model and objective every time."""
    torch.manual_seed(0)
    return DSN.build_model(config, 3), DSN.build_objective(config, CLASSES)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(12, 3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))  # [B, views, 3, S, S]
    return images, torch.arange(3).repeat(4), torch.arange(12) // 6


def gradients(config: TrainConfig) -> list[Tensor | None]:
    model, objective = built(config)
    loss, _ = objective(model, *batch())
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("data", "sketches", "photos", "epochs", "drop_last", "selection"),
    [
        ("sketchy", 32, 64, 20, True, "val_map"),
        ("sketchy2", 32, 64, 20, True, "val_map"),
        ("tuberlin", 9, 81, 16, False, "last"),
        ("folder", 32, 64, 20, False, "last"),
    ],
)
def test_published_batches_and_schedule(data, sketches, photos, epochs, drop_last, selection):
    config = replace(TrainConfig(), **DSN.settings_for(data))
    assert (config.sketches_per_batch, config.photos_per_batch, config.epochs) == (sketches, photos, epochs)
    assert (config.drop_last, config.selection, config.batch, config.batches_per_epoch) == (drop_last, selection, "random", 0)
    assert (config.lr, config.weight_decay, config.frozen_epochs, config.embedding_dim) == (1e-4, 5e-4, 0, 64)
    expected = {0: 1e-4, 8: 3.16e-6, 15: 1.54e-7} if epochs == 16 else {1: 7.08e-5, 19: 1.41e-7}
    assert config.amp == "off"
    rates = [config.lr * DSN.lr_factor(config, epoch, part=0.5) for epoch in expected]
    assert rates == pytest.approx(list(expected.values()), rel=2e-3)


def test_what_its_code_does_otherwise():
    assert DSN.settings_for("sketchy", "released") == {
        **DSN.settings_for("sketchy"),
        "variant": "released",
        "memory_gradient": False,
    }
    assert DSN.binary_for("released") == {"fit": "query", "center": "own", "update": "released"}


def test_the_objective_is_the_weighted_sum_of_its_four_terms():
    config = setting(contrastive_weight=0.3, contrastive_temperature=0.5, memory_weight=0.7, distillation_weight=0.9)
    model, objective = built(config)
    images, labels, modality = batch()
    loss, parts = objective(model.eval(), images, labels, modality)  # BatchNorm as it is: it would see only one view below
    base = model(images[:, 0], modality)
    h = torch.cat([model(images[:, view], modality).embedding for view in (1, 2)]).detach().double()
    f = model.features(images[:, 0], modality).detach().double()
    z, y = h / h.norm(dim=1, keepdim=True), labels.repeat(2).tolist()
    contrastive = 0.0
    for i in range(24):
        others = [a for a in range(24) if a != i]
        log_sum = torch.stack([z[i] @ z[a] / 0.5 for a in others]).logsumexp(0)
        positive = [p for p in others if y[p] == y[i]]
        contrastive += float(sum(log_sum - z[i] @ z[p] / 0.5 for p in positive)) / len(positive) / 24
    sketches = [f[(labels == c) & (modality == 0)].mean(dim=0) for c in range(3)]
    near = [torch.cosine_similarity(f[i], sketches[labels[i]], dim=0) for i in range(6, 12)]
    told = objective.teacher(images[6:, 0]).softmax(dim=1)
    expected = {
        "classification": torch.nn.functional.cross_entropy(base.logits, labels).item(),
        "distillation": torch.nn.functional.cross_entropy(base.imagenet_logits[6:], told).item(),
        "contrastive": contrastive,
        "memory": 1 - float(torch.stack(near).mean()),
    }
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-4)
    weights = {"classification": 1, "distillation": 0.9, "contrastive": 0.3, "memory": 0.7}
    assert loss.item() == pytest.approx(sum(weights[name] * expected[name] for name in weights), rel=1e-4)


def test_all_views_go_through_the_network_at_once():
    model, objective = built(setting())
    seen = []
    model.trunk.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    objective(model, *batch())
    assert seen == [36]


def test_the_memory_trains_the_network_in_the_paper_and_not_in_the_code():
    paper, without = gradients(setting()), gradients(setting(memory_weight=0.0))
    released = gradients(setting(**DSN.settings_for("synthetic", "released") | SETTINGS))
    assert not all(torch.equal(a, b) for a, b in zip(paper, without, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(released, without, strict=True))
    losses = []
    for variant in ("paper", "released"):
        model, objective = built(setting(**DSN.settings_for("synthetic", variant) | SETTINGS))
        losses.append(objective(model, *batch())[1]["memory"].item())
    assert losses[0] == losses[1] > 0  # it is reported all the same


def test_the_memory_is_emptied_once_per_epoch_and_outlives_a_checkpoint():
    model, objective = built(setting())
    objective.set_epoch(0)
    objective(model, *batch())
    assert objective.memory.filled.tolist() == [2, 2, 2]
    _, resumed = built(setting())
    resumed.load_state_dict(copy.deepcopy(objective.state_dict()))
    resumed.set_epoch(0)  # within the epoch
    assert torch.equal(resumed.memory.bank, objective.memory.bank) and resumed.memory.filled.tolist() == [2, 2, 2]
    resumed.set_epoch(1)
    assert resumed.memory.filled.tolist() == [0, 0, 0]


def test_a_batch_without_photos_or_without_sketches():
    for modality in (torch.zeros(12, dtype=torch.int64), torch.ones(12, dtype=torch.int64)):
        model, objective = built(setting())
        images, labels, _ = batch()
        loss, parts = objective(model, images, labels, modality)
        loss.backward()
        assert loss.isfinite() and parts["memory"].item() == 0
        assert (parts["distillation"].item() == 0) == (modality[0] == 0)


def test_what_it_refuses():
    with pytest.raises(InputError, match="--transform sake: dsn trains on three views of each image, which dsn makes"):
        DSN.check(setting(transform="sake"))
    with pytest.raises(InputError, match="--teacher is missing: dsn learns from an ImageNet network"):
        DSN.check(setting(teacher=""))
    with pytest.raises(InputError, match="--margin has no meaning for dsn"):
        DSN.check(setting(margin=0.3))
    model, objective = built(setting())
    with pytest.raises(InputError, match=r"images must have shape \[B, V, 3, S, S\] with V >= 2 views, got \[12, 3, 32, 32\]"):
        objective(model, batch()[0][:, 0], *batch()[1:])


def test_it_trains_and_goes_on(tmp_path):
    config = setting(
        out=tmp_path, samples_per_class=4, epochs=1, batches_per_epoch=2, sketches_per_batch=4, photos_per_batch=8,
        lr=1e-3, workers=0, device="cpu", embedding_dim=16,
    )  # fmt: skip
    train(config, DSN)
    result = train(replace(config, epochs=2), DSN, resume=True)
    assert result["steps"] == 4
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "lr_factor" not in line):
        weighted = line["classification"] + line["distillation"] + 0.1 * line["contrastive"] + line["memory"]
        assert line["loss"] == pytest.approx(weighted, rel=1e-5)


# ---- several ranks -------------------------------------------------------------------------------------------------------------

SIZES = [5, 7]


def two_steps(rank: int, world: int) -> list[dict]:
    """Loss and gradients of two batches, the second of an epoch that has begun, on this rank's part of each."""
    model, objective = built(setting())
    network = Step(objective, model.eval())  # BatchNorm as it is: on each rank it would see its own part alone
    if world > 1:
        network = DistributedDataParallel(network)
    found = []
    objective.set_epoch(0)
    for seed in range(2):
        model.zero_grad()
        loss, parts = network(*(t.split(SIZES)[rank] if world > 1 else t for t in batch(seed)))
        (loss * world).backward()
        grads = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append({"loss": loss.detach(), "grads": grads, "memory": parts["memory"].detach(), "bank": objective.memory.bank})
    return found


def test_two_ranks_are_one_process(tmp_path):
    expected = two_steps(0, 1)
    for found in on_ranks(2, tmp_path, two_steps):
        for ours, right in zip(found, expected, strict=True):
            for name in ("loss", "memory", "bank"):
                torch.testing.assert_close(ours[name], right[name], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(ours["grads"], right["grads"], rtol=1e-3, atol=1e-5)
