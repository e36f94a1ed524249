"""load_released: published checkpoints, against the network written down a second time from their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from published_cse_resnet50 import forward, random_checkpoint, sake_from_mathm

from zsml.errors import InputError
from zsml.models import create_model, load_released, save_model

TAG = torch.tensor([0, 1, 1])


def images(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(TAG), 3, height, width, generator=torch.Generator().manual_seed(seed))


def assert_same(model: torch.nn.Module, state: dict[str, torch.Tensor], x: torch.Tensor, tag: torch.Tensor = TAG) -> None:
    with torch.no_grad():
        truth, exact, rough = forward(state, x, tag), model.double()(x.double(), tag), model.float()(x, tag)
    for name, expected in truth.items():
        assert (expected is None) == (getattr(exact, name) is None), name
        if expected is not None:
            scale = expected.abs().max()  # fifty random layers enlarge a rounding error about 1e5 times
            assert (getattr(exact, name) - expected).abs().max() <= 1e-10 * scale, name
            assert (getattr(rough, name) - expected).abs().max() <= 1e-3 * scale, name  # float32


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (33, 40), (7, 3)])
def test_mathm_equals_the_published_network(mathm_file, mathm_state, size):
    model = load_released(mathm_file, "mathm")
    assert not model.training and (model.num_classes, model.embedding_dim, model.arch) == (7, 16, "cse_resnet50")
    assert_same(model, mathm_state, images(*size))


def test_mathm_at_the_papers_size_with_a_batch_of_one(mathm_file, mathm_state):
    model = load_released(mathm_file, "mathm")
    for tag in (0, 1):
        assert_same(model, mathm_state, images(224, 224)[:1], torch.tensor([tag]))


def variants(state: dict[str, torch.Tensor]) -> dict[str, object]:
    bare = {name.removeprefix("original_model."): value for name, value in state.items()}
    return {
        "module": {f"module.{name}": value for name, value in state.items()},
        "no original_model": {"state_dict": bare},
        "no counters": {"state_dict": {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}},
        "parameters": {"state_dict": {n: torch.nn.Parameter(v) if v.is_floating_point() else v for n, v in state.items()}},
        "half": {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        "numpy score": {"state_dict": state, "best_acc1": np.float64(0.5), "n": np.int64(3), "ok": np.bool_(True)},
    }


@pytest.mark.parametrize("variant", variants({"a": torch.zeros(1)}))
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before torch 1.6"])
def test_every_way_the_file_may_be_written(tmp_path, tiny_state, variant, new_format):
    torch.save(tiny_state, tmp_path / "bare.pth")
    torch.save(variants(tiny_state)[variant], tmp_path / "variant.pth", _use_new_zipfile_serialization=new_format)
    expected = load_released(tmp_path / "bare.pth", "mathm").state_dict()
    for name, value in load_released(tmp_path / "variant.pth", "mathm").state_dict().items():
        if name.endswith("num_batches_tracked") and variant == "no counters":
            assert value == 0
        else:
            assert torch.equal(value, expected[name].half().to(value.dtype) if variant == "half" else expected[name]), name


def test_a_score_pickled_by_numpy_1_is_accepted(tmp_path, tiny_state):
    path = tmp_path / "model_best.pth.tar"
    torch.save({"state_dict": tiny_state, "best_acc1": np.float64(0.5)}, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"cnumpy._core.multiarray\nscalar", b"cnumpy.core.multiarray\nscalar")
    assert old != path.read_bytes()
    path.write_bytes(old)
    assert load_released(path, "mathm").num_classes == 7


def test_a_score_and_weights_saved_on_a_gpu_are_read_without_one(tmp_path, tiny_state):
    path = tmp_path / "model_best.pth.tar"  # SAKE's best_acc1 is such a tensor
    torch.save({"state_dict": tiny_state, "best_acc1": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    cpu, gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    assert path.read_bytes().count(cpu) > 0
    path.write_bytes(path.read_bytes().replace(cpu, gpu))
    model = load_released(path, "mathm")
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("system", ["sake", "dsn"])
def test_sake_and_dsn_and_their_exact_conversion_to_mathm(tmp_path, mathm_file, mathm_state, system):
    state = sake_from_mathm(mathm_state)
    torch.save({"state_dict": state, "best_acc1": np.float64(0.5)}, tmp_path / "model_best.pth.tar")
    model, twin = load_released(tmp_path / "model_best.pth.tar", system), load_released(mathm_file, "mathm")
    assert_same(model, state, images(48, 48))
    for name, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    with torch.no_grad():
        assert torch.equal(model(images(48, 48), TAG).embedding, twin(images(48, 48), TAG).embedding)


@pytest.mark.parametrize("cse_end", [0, 2, 3])
def test_mathm_with_plain_gates_in_the_last_stages(tmp_path, cse_end):
    state = random_checkpoint(cse_end=cse_end, counters=False)
    torch.save(state, tmp_path / "c.pth")
    model = load_released(tmp_path / "c.pth", "mathm")
    assert model.config["cse_end"] == cse_end
    assert_same(model, state, images(32, 32))


def test_a_file_without_classifiers_gives_no_logits(tmp_path, tiny_state):
    state = {name: value for name, value in tiny_state.items() if name != "linear.weight"}
    torch.save(state, tmp_path / "m.pth")
    out = load_released(tmp_path / "m.pth", "mathm")(images(32, 32), TAG)
    assert out.logits is None and out.imagenet_logits is None and out.embedding.shape == (3, 16)
    state = {name: v for name, v in sake_from_mathm(tiny_state).items() if "last_linear" not in name or "second" in name}
    torch.save({name: value for name, value in state.items() if not name.startswith("linear.")}, tmp_path / "s.pth")
    model = load_released(tmp_path / "s.pth", "sake")
    assert model.num_classes == 0 and model(images(32, 32), TAG).imagenet_logits is None


def test_reading_leaves_the_random_numbers_alone(mathm_file):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_released(mathm_file, "mathm")
    assert torch.equal(torch.rand(3), expected)


def test_everything_that_does_not_fit_is_listed_in_one_error(tmp_path, tiny_state):
    state = dict(tiny_state)
    del state["original_model.layer3.2.conv2.weight"]
    del state["original_model.layer1.1.bn1.num_batches_tracked"]
    del state["original_model.second_last_linear.bias"]
    state["original_model.layer2.0.se_module.fc2.weight"] = torch.zeros(512, 31)
    state["original_model.layer4.0.bn3.running_mean"] = torch.zeros(())
    state["original_model.layer4.1.bn3.weight"] = torch.ones(2048, dtype=torch.int64)
    state["original_model.last_linear.weight"] = torch.zeros(1000, 16)
    state["linear.bias"] = torch.zeros(7)
    torch.save({"state_dict": state}, tmp_path / "m.pth")
    with pytest.raises(InputError) as error:
        load_released(tmp_path / "m.pth", "mathm")
    for part in (
        "missing (3)", "layer3.2.conv2.weight", "layer1.1.bn1.num_batches_tracked", "second_last_linear.bias",
        "unexpected (2)", "original_model.last_linear.weight", "linear.bias",
        "wrong shape (2)", "layer2.0.se_module.fc2.weight is [512, 31] and must be [512, 32]", "layer4.0.bn3.running_mean is []",
        "not floating point (1)", "layer4.1.bn3.weight is torch.int64",
    ):  # fmt: skip
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["original_model.second_last_linear.weight", "linear.weight"])
@pytest.mark.parametrize("value", [None, torch.zeros(()), torch.zeros(0, 2048), torch.zeros(5, 3, 2)])
def test_widths_that_cannot_be_inferred(tmp_path, tiny_state, name, value):
    state = {**tiny_state, name: value}
    if value is None:
        del state[name]
        if name == "linear.weight":
            return  # a file without classifier is accepted, see above
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(InputError, match=name):
        load_released(tmp_path / "m.pth", "mathm")


def test_files_of_another_kind(tmp_path, mathm_file, tiny_state):
    def error(path: Path, system: str = "mathm") -> str:
        with pytest.raises(InputError) as caught:
            load_released(path, system)
        return str(caught.value)

    path = tmp_path / "m.pth"
    assert "not there" in error(path)
    assert "a folder" in error(tmp_path)
    for content in (b"", b"hello world\n" * 99, b"PK\x03\x04 no zip", mathm_file.read_bytes()[:-500]):
        path.write_bytes(content)
        assert "damaged or not a checkpoint written by torch.save" in error(path)
    save_model(create_model("resnet18", num_classes=2, embedding_dim=4), tmp_path / "ours")
    assert "load_model" in error(tmp_path / "ours" / "model.safetensors")
    torch.save(sake_from_mathm(tiny_state), path)
    assert "is a SAKE or DSN checkpoint" in error(path) and "system='sake'" in error(path)
    assert "is a MATHM checkpoint" in error(mathm_file, "sake")
    torch.save(create_model("se_resnet50", num_classes=0).trunk.state_dict(), path)
    assert "plain SE-ResNet50" in error(path) and "pretrained=" in error(path)
    torch.save(create_model("resnet18", num_classes=0).state_dict(), path)
    assert "zsml's own" in error(path) and "load_model" in error(path)
    torch.save(timm.create_model("resnet18").state_dict(), path)
    assert "plain ResNet without gates" in error(path)
    torch.save({"features.0.weight": torch.zeros(2), "classifier.6.bias": torch.zeros(2)}, path)
    assert "no gate weights" in error(path) and "first names are original_model.features.0.weight" in error(path)
    for content in ({}, [1], torch.zeros(2), {"state_dict": {}}, {"epoch": 3}, {1: torch.zeros(2)}):
        torch.save(content, path)
        assert "holds no" in error(path)


@pytest.mark.parametrize("system", ["zse", "sakee", "", "baseline"])
def test_unknown_systems(mathm_file, system):
    hint = r" \(did you mean 'sake'\?\)" if system == "sakee" else ""
    with pytest.raises(InputError, match=f"system '{system}' is not known; choose from mathm, sake, dsn, mems, sbka{hint}$"):
        load_released(mathm_file, system)


def test_wrong_types(mathm_file):
    with pytest.raises(TypeError, match="system"):
        load_released(mathm_file, None)
    with pytest.raises(TypeError):
        load_released(3, "mathm")
