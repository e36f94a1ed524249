from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from zsml.engine.config import TrainConfig
from zsml.engine.config_file import merged, read_toml, to_toml
from zsml.errors import InputError


def test_defaults_are_the_published_mathm_setting(tmp_path):
    config = TrainConfig(root=tmp_path)
    config.validate()
    assert (config.arch, config.embedding_dim, config.image_size) == ("cse_resnet50", 512, 224)
    assert (config.lr, config.lr * config.backbone_lr_factor, config.weight_decay) == (1e-4, pytest.approx(1e-5), 5e-4)
    assert (config.epochs, config.batches_per_epoch) == (40, 200)
    assert config.classes_per_batch * 2 * config.samples_per_modality == 128
    assert (config.frozen_epochs, config.warmup_epochs, config.margin, config.beta) == (2, 5, None, 20.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs must be 1 or more, got 0"),
        ({"batches_per_epoch": 0}, "--batches-per-epoch must be 1 or more"),
        ({"classes_per_batch": 1}, "--classes-per-batch must be 2 or more"),
        ({"samples_per_modality": 0}, "--samples-per-modality must be 1 or more"),
        ({"image_size": 31}, "--image-size must be 32 or more"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"lr": float("nan")}, "--lr must be above 0, got nan"),
        ({"weight_decay": -1.0}, "--weight-decay must be 0 or more"),
        ({"margin": float("inf")}, "--margin must be 0 or more, got inf"),
        ({"workers": -1}, "--workers must be 0 or more"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"data": "sketches"}, "--data 'sketches' is not known; choose from synthetic, folder"),
        ({"transform": "blur"}, "--transform 'blur' is not known; choose from"),
        ({"amp": "fp8"}, "--amp 'fp8' is not known"),
        ({"device": "tpu"}, "--device 'tpu' is not known"),
        ({"amp": "fp16", "device": "cpu"}, "--amp fp16 needs a GPU"),
        ({"pretrained": "nowhere.pth"}, "--pretrained 'nowhere.pth' is neither no, imagenet nor a file"),
        ({"batches_per_epoch": 5, "accumulate": 2}, "must be a multiple of --accumulate"),
        ({"frozen_epochs": 41}, r"--frozen-epochs \(41\) must not exceed --epochs"),
        ({"data": "folder", "root": None}, "--root is missing"),
        ({"data": "tuberlin", "unseen": ("3",)}, "--unseen has no meaning for --data tuberlin"),
        ({"data": "folder", "samples_per_class": 9}, "--samples-per-class has no meaning for --data folder"),
        ({"samples_per_class": 1}, "--samples-per-class must be 2 or more, got 1"),
    ],
)
def test_every_bad_setting_is_named_before_any_work(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**{"root": tmp_path, **changes}).validate()


def test_a_folder_that_is_missing_is_named(tmp_path):
    config = TrainConfig(data="tuberlin", root=tmp_path / "nothing", lists=tmp_path / "none")
    with pytest.raises(InputError, match=r"--root '.*nothing' is not a folder\n--lists '.*none' is not a folder"):
        config.validate()


def test_all_problems_are_told_at_once():
    with pytest.raises(InputError) as caught:
        TrainConfig(epochs=0, lr=-1.0, transform="blur").validate()
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["--epochs", "--lr", "--transform", "--root"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="--device cuda: no usable GPU found"):
        TrainConfig(root=tmp_path, device="cuda").validate()


@pytest.mark.parametrize(("given", "meant"), [((), None), (("3",), 3), (("dog",), ["dog"]), (("3", "4"), ["3", "4"])])
def test_unseen_is_names_or_one_count(given, meant):
    assert TrainConfig(unseen=given).unseen_classes == meant


def test_toml_says_the_same_after_a_round_trip(tmp_path):
    config = TrainConfig(
        system="baseline", root=tmp_path / 'a "quoted" földer', unseen=("hot air balloon", "7"), lr=1e-5, workers=3,
        tensorboard=True, beta=0.0, weighting="mean", out=tmp_path / "back\\slash",
    )  # fmt: skip
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert merged(read_toml(path)) == config


def test_layers_win_over_the_ones_before():
    assert merged({"epochs": 3, "lr": 1.0}, {"epochs": 4}) == replace(TrainConfig(), epochs=4, lr=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown key 'epoch'; did you mean 'epochs'"),
        ("colour = 3", "unknown key 'colour'; known keys: system, variant, data"),
        ("epochs = '3'", r"epochs \(--epochs\) cannot be '3'; it takes a whole number"),
        ("epochs = 3.0", "it takes a whole number"),
        ("epochs = true", "it takes a whole number"),
        ("lr = 'fast'", "it takes a number"),
        ("strict_images = 1", "it takes true or false"),
        ("root = 3", "it takes a path in quotes"),
        ("unseen = [1.5]", "it takes a list of strings"),
        ("amp = 16", "it takes one of auto, off, bf16, fp16"),
        ("[train]\nepochs = 3", "unknown key 'train'"),
        ("epochs = ", "is not valid TOML"),
    ],
)
def test_a_broken_file_is_explained(tmp_path, text, message):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_toml(path)
    assert "x.toml" in str(caught.value)


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(InputError, match=r"--config '.*x.toml' cannot be read: No such file"):
        read_toml(tmp_path / "x.toml")


def test_numbers_in_toml_may_be_written_without_a_point(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("lr = 1\nunseen = 2\nworkers = 0")
    settings = read_toml(path)
    assert settings == {"lr": 1.0, "unseen": ("2",), "workers": 0}
    assert isinstance(settings["lr"], float)


def test_every_setting_is_explained():
    import inspect

    source = inspect.getsource(TrainConfig).splitlines()
    for field in fields(TrainConfig):
        line = next(number for number, text in enumerate(source) if text.startswith(f"    {field.name}:"))
        assert source[line + 1].strip().startswith('"""'), field.name
