from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from zsml.engine.config import TrainConfig
from zsml.errors import InputError
from zsml.losses import MATHMLoss
from zsml.metrics import PRESETS
from zsml.models import create_model
from zsml.systems import SYSTEMS, find_system

CLASSES = ["ant", "bee", "cow"]
CONFIG = TrainConfig(data="synthetic", arch="test_resnet", embedding_dim=96)  # as wide as its features, which some systems take


def batch(views: int | None = None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, *([views] if views else []), 3, 32, 32, generator=generator)
    labels = torch.arange(3).repeat(4)
    return images, labels, torch.arange(12) // 6  # modality


def settings_of(name):
    tiny = {"arch": CONFIG.arch, "embedding_dim": CONFIG.embedding_dim}
    tiny |= {"teacher": "random"} if "teacher" in SYSTEMS[name].settings else {}
    return replace(CONFIG, system=name, **{**SYSTEMS[name].settings_for("synthetic"), **tiny})


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_builds_and_trains_what_it_says(name):
    system, config = find_system(name), settings_of(name)
    config.validate()
    system.check(config)
    assert system.protocol in PRESETS and "arXiv" in system.source
    torch.manual_seed(0)
    model, objective = system.build_model(config, 3), system.build_objective(config, CLASSES)
    assert model.num_classes in (0, 3) and model.embedding_dim == 96
    if hasattr(objective, "set_epoch"):
        objective.set_epoch(config.epochs - 1)  # when everything trains
    loss, parts = objective(model, *batch(views=3 if config.transform == "dsn" else None))
    loss.backward()
    assert loss.shape == () and all(part.shape == () for part in parts.values())
    if set(parts) == {"classification", "triplet"}:
        assert loss.item() == pytest.approx(parts["classification"].item() + parts["triplet"].item())
    trained = [parameter for group in system.parameter_groups(config, model, objective) for parameter in group["params"]]
    assert len(trained) == len(set(trained)) and all(parameter.grad is not None for parameter in trained)


def test_mathm_is_cross_entropy_plus_its_weighted_loss():
    config = replace(settings_of("mathm"), margin=0.4, beta=5.0, weighting="released", triplet_weight=0.3)
    torch.manual_seed(0)
    model, objective = SYSTEMS["mathm"].build_model(config, 3).eval(), SYSTEMS["mathm"].build_objective(config, CLASSES)
    images, labels, modality = batch()
    output = model(images, modality)
    expected = -output.logits.log_softmax(dim=1)[torch.arange(12), labels].mean()
    expected = expected + 0.3 * MATHMLoss(margin=0.4, beta=5.0, weighting="released")(output.embedding, labels, modality)
    torch.testing.assert_close(objective(model, images, labels, modality)[0], expected)


def test_the_baseline_is_cross_entropy_plus_hardest_triplets_within_a_modality():
    config = settings_of("baseline")
    torch.manual_seed(0)
    model, objective = SYSTEMS["baseline"].build_model(config, 3).eval(), SYSTEMS["baseline"].build_objective(config, CLASSES)
    images, labels, modality = batch()
    output = model(images, modality)
    x = torch.nn.functional.normalize(output.embedding).detach().double()
    triplets = []
    for i in range(12):
        near = [j for j in range(12) if j != i and modality[j] == modality[i]]
        positive = max((x[i] - x[j]).norm() for j in near if labels[j] == labels[i])
        negative = min((x[i] - x[j]).norm() for j in near if labels[j] != labels[i])
        triplets.append(max(positive - negative + 0.2, torch.tensor(0.0)))
    parts = objective(model, images, labels, modality)[1]
    assert parts["triplet"].item() == pytest.approx(float(sum(triplets)) / 12, rel=1e-4)


def test_the_baseline_differs_from_mathm_in_its_loss_alone():
    mathm, baseline = SYSTEMS["mathm"], SYSTEMS["baseline"]
    assert baseline.settings_for("sketchy") == {**mathm.settings_for("sketchy"), "beta": 0.0}
    assert (baseline.protocol, baseline.binary_for("released")) == (mathm.protocol, mathm.binary_for("released"))


def test_mathm_as_published():
    config = TrainConfig(**SYSTEMS["mathm"].settings_for("tuberlin"))
    assert (config.classes_per_batch, config.samples_per_modality, config.batches_per_epoch, config.epochs) == (16, 4, 200, 40)
    assert (config.lr, config.backbone_lr_factor, config.weight_decay, config.frozen_epochs) == (1e-4, 0.1, 5e-4, 2)
    assert (config.triplet_weight, config.margin, config.beta, config.weighting) == (1.0, 0.2, 20.0, "adaptive")
    assert (config.arch, config.embedding_dim, config.transform, config.selection) == ("cse_resnet50", 512, "mathm", "last")
    released = SYSTEMS["mathm"].settings_for("tuberlin", "released")
    assert (released["weighting"], released["transform"]) == ("released", "mathm-released")
    binary = {"fit": "gallery", "center": "own"}
    assert SYSTEMS["mathm"].binary_for() == {**binary, "update": "procrustes"}
    assert SYSTEMS["mathm"].binary_for("released") == {**binary, "update": "released"}


@pytest.mark.parametrize(
    ("arch", "pretrained", "fast"),
    [
        ("cse_resnet50", "weights.pth", {"trunk.fc_tag", "classifier"}),
        ("cse_resnet50", "no", {"trunk.fc_tag", "classifier", "bottleneck"}),
        ("resnet18", "imagenet", {"classifier", "bottleneck"}),  # of whatever weights, which need not have a classifier
    ],
)
def test_mathms_tags_and_classifier_learn_at_the_full_rate(arch, pretrained, fast):
    system, config = SYSTEMS["mathm"], replace(CONFIG, arch=arch, pretrained=pretrained)
    with torch.device("meta"):
        model = create_model(arch, num_classes=3)
        groups = system.parameter_groups(config, model, torch.nn.Identity())
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["share"] for group in groups for p in group["params"]}
    assert rates.keys() == set(names.values()) and set(rates.values()) == {1.0, 0.1}
    full = {"trunk.fc_tag" if ".fc_tag." in name else name.split(".")[0] for name, rate in rates.items() if rate == 1.0}
    assert full == fast


@pytest.mark.parametrize("weighting", ["adaptive", "released", "mean"])
def test_the_loss_can_be_weighted_in_three_ways(weighting):
    config = replace(settings_of("mathm"), weighting=weighting)
    torch.manual_seed(0)
    model, objective = SYSTEMS["mathm"].build_model(config, 3), SYSTEMS["mathm"].build_objective(config, CLASSES)
    assert objective(model, *batch())[0].isfinite()


def test_mathm_without_a_softplus_is_refused():
    with pytest.raises(InputError, match="beta"):
        SYSTEMS["mathm"].build_objective(replace(settings_of("mathm"), beta=0.0), CLASSES)


def test_an_unknown_system_is_named():
    with pytest.raises(InputError, match="system 'sakee' is not known; choose from mathm, baseline"):
        find_system("sakee")


def test_pretrained_weights_come_from_the_file_named(tmp_path):
    import timm

    torch.manual_seed(1)
    source = timm.create_model("test_resnet")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = SYSTEMS["mathm"].build_model(replace(CONFIG, pretrained=str(tmp_path / "weights.pth")), 3)
    wanted = dict(source.state_dict())
    shared = [name for name in model.state_dict() if name.startswith("trunk.") and name[6:] in wanted]
    assert len(shared) > 20
    assert all(torch.equal(model.state_dict()[name], wanted[name[6:]]) for name in shared)
