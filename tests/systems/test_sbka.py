"""SBKA: its settings, its objective and gradients against the formulas, and who learns when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from zsml.cli import main
from zsml.data.affinity import Affinity
from zsml.engine.config import TrainConfig
from zsml.engine.train import train
from zsml.errors import InputError
from zsml.losses import DistillationLoss
from zsml.systems import find_system

SBKA = find_system("sbka")
CLASSES = ["ant", "bee", "cow"]
AFFINITY = torch.rand(3, 1000, generator=torch.Generator().manual_seed(1))
# Of 6 classes: 6 batches of 4 sketches and 5 photos, the teacher learns in the second half.
TINY = TrainConfig(system="sbka", **{
    **SBKA.settings_for("synthetic"), "data": "synthetic", "arch": "test_resnet", "embedding_dim": 96, "image_size": 32,
    "teacher": "random", "samples_per_class": 6, "unseen": ("94",), "epochs": 2, "batches_per_epoch": 3, "sketches_per_batch": 4,
    "photos_per_batch": 5, "teacher_warmup_epochs": 1, "lr": 1e-3, "workers": 0, "device": "cpu", "transform": "test",
})  # fmt: skip


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Makes model and objective in an epoch, in eval mode: what they compute is then a function of their input."""
    path = tmp_path_factory.mktemp("affinity") / "table.npz"
    Affinity(CLASSES, AFFINITY).save(path)

    def build(epoch: int, **changes):
        config = replace(TINY, affinity=path, **changes)
        torch.manual_seed(0)
        model, objective = SBKA.build_model(config, 3).eval(), SBKA.build_objective(config, CLASSES)
        objective.set_epoch(epoch)
        return model, objective

    return build


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of 3 classes, labels, and modality: 4 sketches, 5 photos."""
    images = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return images, torch.arange(9) % 3, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])


# ---- the published settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sketches", "photos", "warmup", "teacher_lr", "selection"),
    [
        ("sketchy", 70, 140, 10, 1e-4, "val_accuracy"),
        ("sketchy2", 70, 140, 10, 1e-4, "val_accuracy"),
        ("tuberlin", 21, 189, 6, 5e-5, "val_accuracy"),
        ("quickdraw", 11, 99, 4, 1e-4, "last"),
    ],
)
def test_settings_of_each_data_set(data, sketches, photos, warmup, teacher_lr, selection):
    config = TrainConfig(data=data, **SBKA.settings_for(data))
    assert (config.batch, config.batches_per_epoch) == ("random", 0)
    assert (config.sketches_per_batch, config.photos_per_batch) == (sketches, photos)
    assert (config.teacher_warmup_epochs, config.epochs, config.selection) == (warmup, 20, selection)
    assert (config.lr, config.lr if config.teacher_lr is None else config.teacher_lr) == (1e-4, teacher_lr)
    assert (config.weight_decay, config.backbone_lr_factor, config.frozen_epochs) == (5e-4, 1.0, 0)
    assert (config.distillation_weight, config.distillation_temperature, config.alignment_weight) == (1.0, 1.0, 0.1)
    assert config.affinity_bonus == (0.0 if data == "quickdraw" else 0.3)
    assert (config.arch, config.embedding_dim, config.transform) == ("convnextv2_tiny", 768, "sake")
    assert config.teacher_trainable == "head" and config.detach_targets and config.amp == "off"
    assert [epoch for epoch in range(20) if SBKA.may_keep(config, epoch)] == list(range(warmup, 20))
    assert SBKA.settings_for(data, "released")["detach_targets"] is False


def test_the_learning_rate_falls_by_a_thousand_over_the_training():
    config = TrainConfig(**SBKA.settings_for("sketchy"))
    rates = [config.lr * SBKA.lr_factor(config, epoch, 0.5) for epoch in (0, 1, 10, 19)]
    assert rates == pytest.approx([1e-4, 7.0795e-5, 3.1623e-6, 1.4125e-7], rel=1e-4)


# ---- the objective -----------------------------------------------------------------------------------------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def towards(q: np.ndarray, p: np.ndarray, affinity: np.ndarray) -> float:
    """H(q|p): cross-entropy of q against p, which has the bonus; mean over rows."""
    return float(-(softmax(p + 0.3 * affinity) * np.log(softmax(q))).sum(axis=1).mean())


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("detach_targets", [True, False])
def test_the_objective_is_the_formula(build, epoch, detach_targets):
    model, objective = build(epoch, detach_targets=detach_targets, distillation_weight=0.7)
    images, labels, modality = batch()
    torch.manual_seed(5)
    loss, parts = objective(model, images, labels, modality)
    torch.manual_seed(5)
    e = torch.randn(9, 96).double().numpy()
    with torch.no_grad():
        x, logits, z_s = (t.double().numpy() for t in model(images))
        z_t = objective.teacher(images).double().numpy()
    photo, a = modality.numpy() == 1, AFFINITY[labels].double().numpy()
    expected = {
        "classification": -np.log(softmax(logits))[np.arange(9), labels.numpy()].mean(),
        "distillation": towards(z_s[photo], z_t[photo], a[photo]),
        "alignment": (softmax(e) * np.log(softmax(e) / softmax(x))).sum(axis=1).mean(),
    }
    total = expected["classification"] + 0.7 * expected["distillation"] + 0.1 * expected["alignment"]
    if epoch == 1:
        expected["teacher"] = towards(z_t[photo], z_s[photo], a[photo])
        total += expected["teacher"]
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=2e-5)
    assert loss.item() == pytest.approx(total, rel=2e-5)


def two_backward_passes(model, objective, images, labels, modality) -> dict[str, torch.Tensor]:
    """Gradients as the published code has them: neither target detached, the teacher's cleared between the two losses."""
    torch.manual_seed(5)
    output, photo = model(images, modality), modality == 1
    teacher = objective.teacher(images)
    h, a = DistillationLoss(), AFFINITY[labels]
    classification = torch.nn.functional.cross_entropy(output.logits, labels)
    student_loss = classification + h(output.imagenet_logits, teacher, a, photo) + 0.1 * objective.alignment(output.embedding)
    teacher_loss = h(teacher, output.imagenet_logits, a, photo)
    student_loss.backward(retain_graph=True)
    stray = [p.grad.clone() for p in objective.learning]
    assert all(grad.abs().max() > 0 for grad in stray)  # there is something to clear
    for parameter in objective.learning:
        parameter.grad = None
    teacher_loss.backward()
    return gradients(model, objective)


def gradients(model, objective) -> dict[str, torch.Tensor]:
    named = {**dict(model.named_parameters()), **{f"teacher {i}": p for i, p in enumerate(objective.learning)}}
    found = {name: p.grad.clone() for name, p in named.items()}
    for parameter in named.values():
        parameter.grad = None
    return found


def test_one_backward_pass_has_the_gradients_of_the_published_two(build):
    model, objective = build(1, detach_targets=False)
    expected = two_backward_passes(model, objective, *batch())
    torch.manual_seed(5)
    objective(model, *batch())[0].backward()
    found = gradients(model, objective)
    assert found.keys() == expected.keys() and {"teacher 0", "teacher 1", "trunk.conv1.0.weight"} <= found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max() + 1e-12), msg=name)


def test_a_detached_target_passes_nothing_on(build):
    found = {}
    for epoch, detach in ((0, True), (1, True), (1, False)):
        model, objective = build(epoch, detach_targets=detach)
        torch.manual_seed(5)
        objective(model, *batch())[0].backward()
        found[epoch, detach] = model.imagenet_classifier.weight.grad, [p.grad for p in objective.learning]
    assert found[0, True][1] == [None, None]  # in the warm-up nothing reaches the teacher
    torch.testing.assert_close(found[1, True][0], found[0, True][0])  # the student's is as before
    assert not torch.allclose(found[1, False][0], found[0, True][0], rtol=1e-2)
    for one, other in zip(found[1, True][1], found[1, False][1], strict=True):
        torch.testing.assert_close(one, other)  # and the teacher's is the same either way


def test_the_teacher_speaks_of_photos_alone(build):
    model, objective = build(1)
    images, labels, modality = batch()
    others = torch.where((modality == 1)[:, None, None, None], images, torch.randn(images.shape))
    parts = [objective(model, x, labels, modality)[1] for x in (images, others)]
    for name in ("distillation", "teacher"):
        assert torch.equal(parts[0][name], parts[1][name])
    sketches = objective(model, images, labels, torch.zeros_like(modality))[1]
    assert sketches["distillation"] == 0 and sketches["teacher"] == 0


# ---- who learns, when --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "learns"), [("none", 0), ("head", 2), ("all", len(list(timm.create_model("test_resnet").parameters())))]
)
def test_what_of_the_teacher_learns_and_when(build, what, learns):
    model, objective = build(0, teacher_trainable=what, teacher_warmup_epochs=3)
    names = {id(p): name for name, p in objective.named_parameters()}
    if what == "head":
        assert [names[id(p)] for p in objective.learning] == ["teacher.net.fc.weight", "teacher.net.fc.bias"]
    for epoch in (2, 3, 19, 3, 2, 0):  # a resumed run may begin anywhere
        objective.set_epoch(epoch)
        assert sum(p.requires_grad for p in objective.parameters()) == (learns if epoch >= 3 else 0)
        assert ("teacher" in objective(model, *batch())[1]) == (learns > 0 and epoch >= 3)
        assert not objective.train().teacher.net.training


def test_parameter_groups(build):
    config = replace(TINY, teacher_lr=5e-5, lr=1e-4)
    model, objective = build(0)
    groups = SBKA.parameter_groups(config, model, objective)
    assert [group["share"] for group in groups] == [1.0, 1.0, 0.5]
    assert all(group["weight_decay"] == 5e-4 for group in groups)
    assert {id(p) for group in groups[:2] for p in group["params"]} == {id(p) for p in model.parameters()}
    assert [id(p) for p in groups[2]["params"]] == [id(p) for p in objective.teacher.net.fc.parameters()]
    assert [group["share"] for group in SBKA.parameter_groups(TINY, model, objective)] == [1.0, 1.0, 1.0]
    model, objective = build(0, teacher_trainable="none")
    assert len(SBKA.parameter_groups(config, model, objective)) == 2


def test_student_and_teacher_start_from_the_same_weights(tmp_path):
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    config = replace(TINY, pretrained=str(tmp_path / "w.pth"), teacher="")
    model, objective = SBKA.build_model(config, 50).eval(), SBKA.build_objective(config, CLASSES)
    images, _, modality = batch()
    with torch.no_grad():
        output = model(images, modality)
        torch.testing.assert_close(output.imagenet_logits, objective.teacher(images))
    assert output.embedding.shape == (9, 96) and model.bottleneck is None
    assert model.classifier.weight.std().item() == pytest.approx(2e-5, rel=0.05) and not model.classifier.bias.any()


# ---- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": ""}, "--teacher is missing"),
        (
            {"teacher_warmup_epochs": 2},
            r"--teacher-warmup-epochs \(2\) must be less than --epochs \(2\): --selection val_accuracy",
        ),
        ({"memory_size": 3}, "--memory-size has no meaning for sbka"),
    ],
)
def test_settings_it_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        SBKA.check(replace(TINY, **changes))
    SBKA.check(replace(TINY, teacher_warmup_epochs=2, selection="last"))


def test_the_embedding_is_as_wide_as_the_backbone(tmp_path):
    published = SBKA.settings_for("synthetic")["embedding_dim"]
    assert SBKA.build_model(replace(TINY, embedding_dim=published), 3).embedding_dim == 96
    with pytest.raises(InputError, match="embedding_dim must be 96, the width of test_resnet, with bottleneck=False; got 64"):
        train(replace(TINY, embedding_dim=64, out=tmp_path), SBKA)


def test_a_missing_teacher_ends_the_command_with_status_2(capsys, tmp_path):
    assert main(["train", "sbka", "--data", "synthetic", "--out", str(tmp_path / "run")]) == 2
    assert "--teacher is missing: sbka learns from an ImageNet network" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
