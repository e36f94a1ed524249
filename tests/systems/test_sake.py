"""SAKE: its published settings, its model at the start, and its objective against the formulas."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from zsml.data.affinity import Affinity
from zsml.engine.config import TrainConfig
from zsml.engine.train import train
from zsml.errors import InputError
from zsml.models import ModelOutput
from zsml.systems import SYSTEMS

SAKE, CLASSES = SYSTEMS["sake"], ["ant", "bee", "cow"]
SETTINGS = {"data": "synthetic", "arch": "test_resnet", "embedding_dim": 8, "teacher": "random", "image_size": 32}


def setting(**changes: object) -> TrainConfig:
    return TrainConfig(system="sake", **{**SAKE.settings_for("synthetic"), **SETTINGS, **changes})


def batch() -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(3).repeat(4), torch.arange(12) // 6


def table(path, classes: list[str] = CLASSES) -> str:
    """An affinity table of the published values, written to a file."""
    values = np.random.RandomState(0).choice([0, 0, 0, 0.25, 1 / 3, 1], (len(classes), 1000)).astype("float32")
    Affinity(classes, torch.from_numpy(values), {}).save(path)
    return path


class Says(nn.Module):
    """In the place of a model: what it is told to say, which may want a gradient."""

    def __init__(self, rows: int = 12):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.output = ModelOutput(*(torch.randn(rows, n, generator=draw).requires_grad_() for n in (8, 3, 1000)))

    def forward(self, images: Tensor, modality: Tensor) -> ModelOutput:
        return self.output


@pytest.mark.parametrize(
    ("data", "sketches", "photos"), [("sketchy", 13, 26), ("sketchy2", 13, 26), ("tuberlin", 4, 36), ("folder", 13, 26)]
)
def test_published_batches_and_schedule(data, sketches, photos):
    config = replace(TrainConfig(), **SAKE.settings_for(data))
    assert (config.sketches_per_batch, config.photos_per_batch) == (sketches, photos)
    assert (config.batch, config.batches_per_epoch, config.drop_last, config.epochs) == ("random", 0, False, 20)
    assert (config.lr, config.weight_decay, config.frozen_epochs, config.amp) == (1e-4, 5e-4, 0, "off")
    assert (config.embedding_dim, config.transform, config.selection) == (512, "sake", "val_accuracy")
    rates = [config.lr * SAKE.lr_factor(config, epoch, part=0.5) for epoch in (0, 1, 5, 10, 19)]
    assert rates == pytest.approx([1e-4, 7.08e-5, 1.78e-5, 3.16e-6, 1.41e-7], rel=2e-3)


def test_one_learning_rate_and_weight_decay_on_everything_but_the_teacher():
    config = setting()
    model, objective = SAKE.build_model(config, 3), SAKE.build_objective(config, CLASSES)
    groups = SAKE.parameter_groups(config, model, objective)
    assert {(group["share"], group["weight_decay"]) for group in groups} == {(1.0, 5e-4)}
    trained = [parameter for group in groups for parameter in group["params"]]
    assert set(trained) == set(model.parameters()) and len(trained) == len(set(trained))


@pytest.mark.parametrize(
    ("width", "classes", "parameters"),
    [
        (64, 100, 26_256_764), (64, 104, 26_257_024), (64, 220, 26_264_564),
        (512, 100, 27_667_516), (512, 104, 27_669_568), (512, 220, 27_729_076),
    ],
)  # fmt: skip
def test_the_published_network_has_as_many_parameters(width, classes, parameters):
    config = TrainConfig(system="sake", **{**SAKE.settings_for("sketchy"), "embedding_dim": width})
    with torch.device("meta"):
        model = SAKE.build_model(config, classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_teacher_of_the_published_network_is_plain_se_resnet50():
    teacher = SAKE.build_objective(setting(arch="cse_resnet50"), CLASSES).teacher
    assert sum(parameter.numel() for parameter in teacher.parameters()) == 28_088_024


def test_it_starts_from_the_imagenet_classifier_split_in_two(tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("test_resnet")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    config = setting(teacher="", pretrained=str(tmp_path / "weights.pth"))
    SAKE.check(config)
    model, objective = SAKE.build_model(config, 3), SAKE.build_objective(config, CLASSES)
    weight = source.get_classifier().weight.detach().double().numpy()
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    product = model.imagenet_classifier.weight @ model.bottleneck.weight
    np.testing.assert_allclose(product.detach().numpy(), (u[:, :8] * s[:8]) @ vt[:8], atol=1e-5)
    assert not torch.equal(model.imagenet_classifier.bias, source.get_classifier().bias)  # which has no place in the product
    images = batch()[0]
    torch.testing.assert_close(objective.teacher(images), source.eval()(images))  # --teacher open: the same weights


def test_the_objective_is_cross_entropy_and_distillation_of_photos(tmp_path):
    config = setting(affinity=table(tmp_path / "a.npz"), distillation_weight=0.7, affinity_bonus=2.0, distillation_temperature=3)
    model, objective = Says(), SAKE.build_objective(config, CLASSES)
    images, labels, modality = batch()
    loss, parts = objective(model, images, labels, modality)
    _, logits, student = (t.detach().double() for t in model.output)
    affinity = torch.from_numpy(np.load(tmp_path / "a.npz")["affinity"]).double()
    classification = -logits.log_softmax(1)[torch.arange(12), labels].mean()
    distillation = 0.0
    for i in range(6, 12):  # the photos
        raised = objective.teacher(images)[i].double() / 3 + 2 * affinity[labels[i]]
        distillation -= float((raised.softmax(0) * student[i].log_softmax(0)).sum()) / 6
    assert parts["classification"].item() == pytest.approx(classification.item(), rel=1e-5)
    assert parts["distillation"].item() == pytest.approx(distillation, rel=1e-5)
    assert loss.item() == pytest.approx(classification.item() + 0.7 * distillation, rel=1e-5)


def test_sketches_get_no_gradient_from_the_teacher_and_the_teacher_none_at_all():
    model, objective = Says(), SAKE.build_objective(setting(), CLASSES)
    loss, _ = objective(model, *batch())
    loss.backward()
    gradient = model.output.imagenet_logits.grad
    assert (gradient[:6] == 0).all() and (gradient[6:] != 0).any(dim=1).all()
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in objective.parameters())
    assert not objective.train().teacher.training


def test_a_batch_without_photos_is_classified_only():
    model, objective = Says(), SAKE.build_objective(setting(), CLASSES)
    images, labels, modality = batch()
    loss, parts = objective(model, images, labels, torch.zeros_like(modality))
    loss.backward()
    assert parts["distillation"].item() == 0 and loss.item() == parts["classification"].item()
    assert (model.output.imagenet_logits.grad == 0).all()


def test_affinity_of_other_classes_is_refused_and_none_is_said_once(tmp_path):
    with pytest.raises(InputError, match=r"--affinity .*no row for 1 of the 3 classes: cow"):
        SAKE.build_objective(setting(affinity=table(tmp_path / "b.npz", ["ant", "bee"])), CLASSES)
    assert SAKE.build_objective(setting(), CLASSES).affinity(torch.tensor([0])) is None
    assert sum("no --affinity" in note for note in SAKE.notes(setting())) == 1
    assert not any("affinity" in note for note in SAKE.notes(setting(affinity_bonus=0.0)))  # no bonus was asked for


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": ""}, "--teacher is missing: sake learns from an ImageNet network"),
        ({"margin": 0.3}, "--margin has no meaning for sake"),
        ({"memory_size": 5}, "--memory-size has no meaning for sake"),
    ],
)
def test_what_it_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        SAKE.check(setting(**changes))


def test_it_trains_and_keeps_the_epoch_with_the_best_accuracy(tmp_path):
    config = setting(
        out=tmp_path, samples_per_class=4, epochs=2, batches_per_epoch=2, sketches_per_batch=4, photos_per_batch=8,
        lr=1e-3, workers=0, device="cpu", embedding_dim=16,
    )  # fmt: skip
    result = train(config, SAKE)
    assert result["steps"] == 4 and result["best_epoch"] in (1, 2) and 0 <= result["val_accuracy"] <= 1
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "lr_factor" not in line):
        assert line["loss"] == pytest.approx(line["classification"] + line["distillation"], rel=1e-5)
    assert [line["lr_factor"] for line in lines if "lr_factor" in line] == pytest.approx([1, 0.001**0.5])
