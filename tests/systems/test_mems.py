"""MEMS: its objective with every softmax, its margins and schedule, its networks, and a training of a few steps."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from zsml.cli import main
from zsml.engine.config import TrainConfig
from zsml.engine.stopping import Interrupted
from zsml.engine.train import train
from zsml.errors import InputError
from zsml.models import load_model
from zsml.systems import find_system

MEMS = find_system("mems")
PUBLISHED = TrainConfig(system="mems", data="synthetic", **MEMS.settings_for("synthetic"))
# Of 6 classes: 6 batches of 4 sketches and 4 photos.
TINY = replace(
    PUBLISHED, arch="dase_resnet18", embedding_dim=8, image_size=32, samples_per_class=6, unseen=("94",), epochs=2,
    batches_per_epoch=3, sketches_per_batch=4, photos_per_batch=4, annealing_steps=4, lr=1e-3, workers=0, device="cpu",
)  # fmt: skip


class Given(nn.Module):
    """Stands for a network: the images are the embeddings."""

    def forward(self, images, modality):
        return SimpleNamespace(embedding=images)


def objective_of(centers: list, **changes) -> nn.Module:
    config = replace(PUBLISHED, embedding_dim=2, **changes)
    MEMS.check(config)
    objective = MEMS.build_objective(config, ["ant", "bee", "cow"])
    objective.loss.centers.data.copy_(torch.tensor(centers))
    return objective


def value(objective: nn.Module, embedding: list) -> float:
    loss, parts = objective(Given(), torch.tensor([embedding]), torch.tensor([0]), torch.tensor([0]))
    assert loss.item() == parts["softmax"].item()
    return loss.item()


# ---- the objective -----------------------------------------------------------------------------------------------------------

EUCLIDEAN = [[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]], [1.0, 0.0]  # squared distances 1, 1, 10
ANGULAR = [[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]], [3.0, 4.0]  # cosines 0.6, 0.8, 0.1414


@pytest.mark.parametrize(
    ("case", "settings", "expected"),
    [
        (EUCLIDEAN, {"margin": 1.0}, 0.6932088836),
        (EUCLIDEAN, {"margin": 2.0}, 3.0487049017),
        (EUCLIDEAN, {}, 15.0001237081),
        (EUCLIDEAN, {"arch": "dase_alexnet"}, 3.0487049017),
        (EUCLIDEAN, {"softmax": "ems", "margin": 2.0}, 1.3940280804),
        (EUCLIDEAN, {"softmax": "ems"}, 3.1525921662),
        (ANGULAR, {"softmax": "cosface"}, 17.6000000234),
        (ANGULAR, {"softmax": "a-softmax"}, 9.8205272502),
    ],
)
def test_golden_values_with_the_published_margins(case, settings, expected):
    centers, embedding = case
    assert value(objective_of(centers, annealing_steps=0, **settings), embedding) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(
    ("softmax", "expected"),
    [("cosface", [6.4016601791, 12.0000061449, 17.6000000234]), ("a-softmax", [1.3400555680, 5.4328531110, 9.8205272502])],
)
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_margin_grows_with_the_steps_and_the_published_code_starts_one_later(softmax, expected, variant):
    centers, embedding = ANGULAR
    objective = objective_of(centers, softmax=softmax, annealing_steps=2, variant=variant)
    expected = expected[:1] * (variant == "released") + expected
    assert [value(objective, embedding) for _ in expected] == pytest.approx(expected, rel=2e-6)


def test_the_loss_is_the_formula_over_both_modalities():
    torch.manual_seed(0)
    system, config = MEMS, replace(TINY, margin=1.5, annealing_steps=0, arch="test_resnet")
    model, objective = system.build_model(config, 3).eval(), system.build_objective(config, ["ant", "bee", "cow"])
    images, labels, modality = torch.randn(6, 3, 32, 32), torch.arange(3).repeat(2), torch.arange(6) // 3
    x, c = model(images, modality).embedding.double(), objective.loss.centers.double()
    logits = -(x[:, None] - c).square().sum(dim=2) * torch.where(torch.arange(3) == labels[:, None], 1.5**2, 1.0)
    expected = -logits.log_softmax(dim=1)[torch.arange(6), labels].mean()
    assert objective(model, images, labels, modality)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradients_are_the_closed_form():
    """dL/dx_i = -2/B sum_j g_ij w_ij (x_i - c_j), dL/dc_j = 2/B sum_i of it; g = p - [j = y]; w = m^2 for j = y, else 1."""
    objective = objective_of(EUCLIDEAN[0], margin=2.0, annealing_steps=0).double()
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(7, 2, generator=generator, dtype=torch.float64).requires_grad_(), torch.arange(7) % 3
    loss, c = objective.loss, objective.loss.centers
    loss(x, labels).backward()
    own = torch.arange(3) == labels[:, None]
    apart, w = x.detach()[:, None] - c.detach(), torch.where(own, 4.0, 1.0).double()
    g = (-w * apart.square().sum(dim=2)).softmax(dim=1) - own.double()
    share = 2 / 7 * (g * w)[:, :, None] * apart  # [B, C, D]
    torch.testing.assert_close(x.grad, -share.sum(dim=1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(c.grad, share.sum(dim=0), rtol=1e-9, atol=1e-12)


# ---- settings ----------------------------------------------------------------------------------------------------------------


def test_the_published_schedule_in_steps():
    steps = PUBLISHED.epochs * PUBLISHED.batches_per_epoch
    assert (steps, PUBLISHED.annealing_steps) == (200_000, 100_000)

    def rate(step):
        epoch, batch = divmod(step, PUBLISHED.batches_per_epoch)
        return PUBLISHED.lr * MEMS.lr_factor(PUBLISHED, epoch, batch / PUBLISHED.batches_per_epoch)

    expected = {0: 1e-4, 99_999: 1e-4, 100_000: 1e-4, 125_000: 7.5e-5, 150_500: 4.95e-5, 199_999: 1e-9}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


def test_the_centres_have_no_weight_decay_and_all_one_learning_rate():
    model, objective = MEMS.build_model(TINY, 3), MEMS.build_objective(TINY, ["ant", "bee", "cow"])
    groups = MEMS.parameter_groups(TINY, model, objective)
    decay = {id(p): (group["share"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert set(decay) == {id(p) for p in (*model.parameters(), objective.loss.centers)}
    assert decay.pop(id(objective.loss.centers)) == (1.0, 0.0) and set(decay.values()) == {(1.0, 1e-4)}


def test_other_settings_are_the_published_ones():
    assert (PUBLISHED.sketches_per_batch, PUBLISHED.photos_per_batch, PUBLISHED.batch) == (22, 22, "random")
    assert (PUBLISHED.transform, PUBLISHED.test_transform, PUBLISHED.normalize) == ("mems", "mems-test", "none")
    assert (PUBLISHED.arch, PUBLISHED.embedding_dim, PUBLISHED.selection) == ("dase_resnext101", 512, "last")
    assert PUBLISHED.amp == "off"
    PUBLISHED.validate()
    MEMS.check(PUBLISHED)
    assert MEMS.settings_for("annotations", "released")["tag_init"] == "random" and MEMS.protocol == "mems"


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_networks(variant):
    config = replace(TINY, variant=variant, tag_init="random" if variant == "released" else "zero")
    torch.manual_seed(0)
    x, tags = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    model = MEMS.build_model(config, 3).eval()
    assert model.classifier is None and model.conditional
    same = torch.allclose(model(x, tags).embedding, model(x, 1 - tags).embedding, atol=1e-6)
    assert same == (variant == "paper")
    alexnet = MEMS.build_model(replace(config, arch="dase_alexnet"), 3)
    assert alexnet.conditional == (variant == "paper")


def test_the_released_variant_of_a_backbone_without_gates_has_none_to_start_at_random():
    config = replace(TINY, arch="test_resnet", **MEMS.released, variant="released")
    MEMS.check(config)
    assert MEMS.build_model(config, 3).arch == "test_resnet"


# ---- a training --------------------------------------------------------------------------------------------------------------


def run(config: TrainConfig, **options) -> Path:
    return Path(train(config, MEMS, **options)["checkpoint"])


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {**load_file(checkpoint / "model.safetensors"), **load_file(checkpoint / "training.safetensors")}


def test_a_training_keeps_centres_and_step_of_the_margin_in_its_checkpoint(tmp_path):
    checkpoint = run(replace(TINY, epochs=1, out=tmp_path))
    torch.manual_seed(TINY.seed)
    start = MEMS.build_objective(TINY, ["a", "b", "c", "d", "e", "f"]).loss.centers
    state = tensors(checkpoint)
    assert state["objective.loss.step"].item() == 3
    assert not torch.allclose(state["objective.loss.centers"], start.detach(), atol=1e-5)  # [6, 8]
    assert load_model(checkpoint).arch == "dase_resnet18"


class Stopped(type(MEMS)):
    """Someone presses Ctrl-C in the fifth batch, when the margin is half way to its full size."""

    def build_objective(self, config, classes):
        objective, calls = super().build_objective(config, classes), []

        def count(*_) -> None:
            calls.append(1)
            if len(calls) == 5:
                signal.raise_signal(signal.SIGINT)

        objective.register_forward_pre_hook(count)
        return objective


def test_a_run_that_was_stopped_goes_on_with_its_margin(tmp_path):
    config = replace(TINY, arch="test_resnet", annealing_steps=10, out=tmp_path / "stopped")
    with pytest.raises(Interrupted):
        train(config, Stopped())
    resumed = tensors(run(config, resume=True))
    straight = tensors(run(replace(config, out=tmp_path / "straight")))
    assert resumed.keys() == straight.keys() and straight["objective.loss.step"].item() == 6
    assert [name for name, tensor in straight.items() if not torch.equal(tensor, resumed[name])] == []


@pytest.mark.parametrize("softmax", ["ems", "cosface", "arcface", "a-softmax"])
def test_every_softmax_trains(softmax, tmp_path):
    config = replace(TINY, softmax=softmax, arch="test_resnet", epochs=1, out=tmp_path / "run")
    state = load_file(run(config) / "training.safetensors")
    assert state["objective.loss.centers"].isfinite().all() and state["objective.loss.step"].item() == 3


def test_it_learns(tmp_path):
    config = replace(TINY, arch="test_resnet", transform="test", epochs=6, batches_per_epoch=8, lr=1e-2, annealing_steps=0,
                     margin=1.0, out=tmp_path / "run")  # fmt: skip
    run(config)
    losses = [row["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
              if (row := json.loads(line))["kind"] == "epoch"]  # fmt: skip
    assert losses[-1] < 0.7 * losses[0]


# ---- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 16.0}, "--scale has no meaning with --softmax mems, whose logits have none; leave it out"),
        ({"scale": 16.0, "softmax": "a-softmax"}, "--scale has no meaning with --softmax a-softmax"),
        ({"margin": 0.0}, r"--margin must be .*got 0\.0 \(--softmax mems\)"),
        ({"margin": 3.5, "softmax": "a-softmax"}, r"--margin must be a whole number, at least 1, got 3\.5"),
        ({"margin": 4.0, "softmax": "arcface"}, r"--margin must be a number, from 0 to 3\.14159, got 4\.0"),
        ({"tag_init": "random", "arch": "resnet18"}, "--tag-init random needs gates .* --arch resnet18 has none"),
        ({"selection": "val_accuracy"}, "--selection val_accuracy needs a classifier"),
        ({"weighting": "mean"}, "--weighting has no meaning for mems"),
    ],
)
def test_settings_without_meaning(changes, message):
    with pytest.raises(InputError, match=message):
        MEMS.check(replace(PUBLISHED, **changes))
    MEMS.check(replace(PUBLISHED, softmax="cosface", scale=16.0))


def test_bad_settings_end_the_command_with_status_2(capsys):
    assert main(["train", "mems", "--data", "synthetic", "--scale", "16"]) == 2
    assert "--scale has no meaning with --softmax mems" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["train", "mems", "--data", "synthetic", "--softmax", "memes"])
    assert end.value.code == 2 and "a-softmax" in capsys.readouterr().err
