"""What is done to images goes with the model: a folder alone gives the embeddings of the run it came from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from zsml.data import build_transform
from zsml.engine.config import TrainConfig
from zsml.errors import InputError
from zsml.models import Preprocessing, create_model, load_model, pixel_statistics, save_model
from zsml.models.io import read_preprocessing


def small():
    return create_model("test_resnet", num_classes=0, embedding_dim=4)


def test_images_are_resized_and_normalised_as_stated():
    pixels = np.random.RandomState(0).randint(0, 256, (20, 20, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    images, modality = Preprocessing(20, "test", mean, std)([Image.fromarray(pixels)] * 2, "photo")
    wanted = (pixels / 255 - np.array(mean)) / np.array(std)
    assert modality.tolist() == [1, 1] and images.dtype == torch.float32
    assert np.allclose(images[1].permute(1, 2, 0).double(), wanted, atol=1e-6)


def test_modes_of_images():
    grey, clear = Image.new("L", (9, 5), 51), Image.new("RGBA", (9, 5), (0, 0, 0, 0))
    images, modality = Preprocessing(8, mean=None, std=None)([grey, clear], 0)
    assert modality.tolist() == [0, 0]
    assert torch.allclose(images[0], torch.tensor(0.2)) and torch.allclose(images[1], torch.tensor(1.0))  # on white paper


def test_the_transform_may_depend_on_the_modality():
    image = Image.fromarray(np.random.RandomState(1).randint(0, 256, (40, 30, 3), dtype=np.uint8))
    made = Preprocessing(16, "mems-test", None, None)
    for modality in ("sketch", "photo"):
        wanted = build_transform("mems-test", modality, 16, normalize="none")(image)
        assert torch.equal(made([image], modality)[0][0], wanted)


@pytest.mark.parametrize(
    ("normalize", "arch"), [("auto", "resnet50"), ("auto", "vit_base_patch16_clip_224.openai"), ("none", "x")]
)
def test_of_a_run_it_is_what_its_evaluation_does(normalize, arch):
    config = TrainConfig(image_size=48, normalize=normalize, arch=arch)
    made = config.preprocessing
    assert (made.image_size, made.transform) == (48, "test")
    assert (made.mean, made.std) == ((None, None) if normalize == "none" else pixel_statistics(arch))


def test_it_is_saved_with_the_model(tmp_path):
    model = small()
    save_model(model, tmp_path)
    assert read_preprocessing(tmp_path) is None and load_model(tmp_path).preprocessing is None
    model.preprocessing = Preprocessing(96, "mems-test", (0.25, 0.5, 0.75), (1.0, 2.0, 3.0))
    save_model(model, tmp_path)
    assert read_preprocessing(tmp_path) == load_model(tmp_path).preprocessing == model.preprocessing
    shown = json.loads((tmp_path / "config.json").read_text())
    assert shown.pop("preprocessing") == model.preprocessing.to_dict() and shown == model.config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transform": "tets"}, "transform='tets' is not known"),
        ({"image_size": 0}, "image_size=0 must be 1 or more"),
        ({"mean": None}, "both mean and std, or neither"),
        ({"mean": 3}, "mean must be three numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
        ({"std": (1.0, 1.0)}, "three numbers"),
        ({"mean": (float("nan"),) * 3}, "not understood"),
    ],
)
def test_values_that_cannot_be_used(tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(**values)
    metadata = {"format": "zsml-model-1", "config": json.dumps(small().config)}
    metadata["preprocessing"] = json.dumps({**Preprocessing().to_dict(), **values})
    save_file(small().state_dict(), tmp_path / "model.safetensors", metadata)
    for read in (read_preprocessing, load_model):
        with pytest.raises(InputError, match=r"model\.safetensors cannot be used"):
            read(tmp_path)


@pytest.mark.parametrize("values", [None, [], {"image_size": 3}, {**Preprocessing().to_dict(), "more": 1}])
def test_another_form_is_refused(values):
    with pytest.raises(InputError, match="must be a dict of image_size, transform, mean, std"):
        Preprocessing.from_dict(values)
    with pytest.raises(InputError, match="image_size must be an int"):
        Preprocessing.from_dict({**Preprocessing().to_dict(), "image_size": "7"})


def test_images_that_are_none():
    prepare, image = Preprocessing(8), Image.new("RGB", (8, 8))
    for images, modality, error, message in [
        ([], "photo", InputError, "at least one image"),
        (image, "photo", TypeError, "a list of PIL images, got Image"),
        (["a.png"], "photo", TypeError, "PIL images, got str at place 0"),
        ([image], "drawing", InputError, "modality='drawing' must be 'sketch' or 'photo'"),
    ]:
        with pytest.raises(error, match=message):
            prepare(images, modality)
    model = small()
    model.preprocessing = {"image_size": 8}
    with pytest.raises(TypeError, match=r"model\.preprocessing must be a Preprocessing or None, got dict"):
        save_model(model, "unused")
