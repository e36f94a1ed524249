"""load_released for every system: the same numbers as its published network, its counts, and what does not fit."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import published_convnextv2
import published_dase_resnext101
import pytest
import timm
import torch
from published_layers import flat
from timm.models.convnext import checkpoint_filter_fn
from torch import Tensor

from zsml.errors import InputError
from zsml.metrics import evaluate_retrieval
from zsml.models import create_model, load_released
from zsml.models.released import SYSTEMS
from zsml.retrieval.protocol import PRESETS

TAG = torch.tensor([0, 1, 1])
NETWORKS = {"mems": published_dase_resnext101, "sbka": published_convnextv2}


def images(height: int, width: int) -> Tensor:
    return torch.randn(len(TAG), 3, height, width, generator=torch.Generator().manual_seed(0))


def saved(state: dict[str, Tensor], folder: Path, name: str = "model_best.pth.tar", **more: object) -> Path:
    """A file as training scripts under DataParallel write it."""
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}, **more}, folder / name)
    return folder / name


def error(path: Path, system: str) -> str:
    with pytest.raises(InputError) as caught:
        load_released(path, system)
    return str(caught.value)


@pytest.mark.parametrize("system", NETWORKS)
def test_equal_to_the_published_network(tmp_path, system):
    state = NETWORKS[system].random_checkpoint()
    torch.save(state, tmp_path / "model.pth")
    model = load_released(tmp_path / "model.pth", system)
    assert not model.training
    exact, truth = {}, {}
    with torch.no_grad():
        rough = model(images(48, 32), TAG)
        model.double()
        for size in ((48, 32), (65, 33)):
            exact[size] = model(images(*size).double(), TAG)
            truth[size] = NETWORKS[system].forward(state, images(*size), TAG)
    for size, expected in truth.items():
        for name, value in expected.items():
            assert (value is None) == (getattr(exact[size], name) is None), name
            if value is not None:
                scale = value.abs().max()
                assert (getattr(exact[size], name) - value).abs().max() <= 1e-11 * scale, (size, name)
                if size == (48, 32):
                    assert (getattr(rough, name) - value).abs().max() <= 1e-3 * scale, name


def test_sbka_names_are_those_timm_reads(tmp_path):
    state = published_convnextv2.random_checkpoint()
    torch.save(state, tmp_path / "model.pth")
    model = load_released(tmp_path / "model.pth", "sbka")
    timms = timm.create_model("convnextv2_tiny")
    expected = checkpoint_filter_fn({name: v for name, v in state.items() if not name.startswith("linear.")}, timms)
    ours = {**model.trunk.state_dict()}
    ours.update({f"head.fc.{name}": value for name, value in model.imagenet_classifier.state_dict().items()})
    assert set(ours) == set(expected) == set(timms.state_dict())
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


# Entries of a file: with BatchNorm counters, and of files older than these.
@pytest.mark.parametrize(
    ("system", "entries", "without"), [("sake", 388, 335), ("dsn", 388, 335), ("mathm", 401, 348), ("mems", 758, 654)]
)
def test_number_of_entries_with_and_without_counters(tmp_path, tiny_states, system, entries, without):
    state = tiny_states[system]
    bare = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert (len(state), len(bare)) == (entries, without)
    assert load_released(saved(state, tmp_path), system).state_dict()["trunk.layer0.bn1.num_batches_tracked"] == 1000
    assert load_released(saved(bare, tmp_path), system).state_dict()["trunk.layer0.bn1.num_batches_tracked"] == 0


def test_sbka_has_202_entries(tmp_path, tiny_states):
    assert len(tiny_states["sbka"]) == 202
    model = load_released(saved(tiny_states["sbka"], tmp_path), "sbka")
    assert len(model.state_dict()) == 202
    assert sum(p.numel() for p in model.parameters()) == 28_635_496 + 768 * 7 + 7  # ConvNeXt V2 Tiny and `linear`


@pytest.mark.parametrize(
    ("system", "width", "classes", "parameters"),
    [
        ("sake", 64, 100, 26_256_764),
        ("sake", 64, 104, 26_257_024),
        ("dsn", 64, 220, 26_264_564),
        ("sake", 512, 100, 27_667_516),
        ("dsn", 512, 104, 27_669_568),
        ("sake", 512, 220, 27_729_076),
        ("mathm", 512, 100, 27_154_416),
        ("mathm", 512, 104, 27_156_464),
        ("mathm", 512, 220, 27_215_856),
    ],
)
def test_published_numbers_of_parameters(tmp_path, tiny_states, system, width, classes, parameters):
    p, state = "original_model.second_last_linear", dict(tiny_states[system])
    state |= {f"{p}.weight": torch.zeros(1).expand(width, 2048), f"{p}.bias": torch.zeros(1).expand(width)}
    state["linear.weight"] = torch.zeros(1).expand(classes, width)
    if system != "mathm":
        state["linear.bias"] = torch.zeros(1).expand(classes)
        state["original_model.last_linear.weight"] = torch.zeros(1).expand(1000, width)
    published = sum(v.numel() for name, v in state.items() if "running" not in name and "num_batches" not in name)
    model = load_released(saved(state, tmp_path), system)
    assert (model.embedding_dim, model.num_classes) == (width, classes)
    assert sum(p.numel() for p in model.parameters()) == published == parameters


def test_published_numbers_of_parameters_before_training():
    with torch.device("meta"):
        plain, conditional = timm.create_model("legacy_seresnet50"), create_model("cse_resnet50", num_classes=0).trunk
    assert sum(p.numel() for p in plain.parameters()) == 28_088_024
    assert sum(p.numel() for p in conditional.parameters()) + 1000 * 2048 + 1000 == 28_103_128  # SAKE's teacher


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_is_in_which_file(tmp_path, tiny_states, system):
    path = saved(tiny_states[system], tmp_path, "größe 1.pth.tar")
    model = load_released(str(path), system)
    assert model.num_classes == (0 if system == "mems" else 7)
    assert model.embedding_dim == (768 if system == "sbka" else 16)
    assert (model.imagenet_classifier is not None) == (system in ("sake", "dsn", "sbka"))
    source = {"file": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert model.card == {"system": system, "protocol": system, "source": source} and system in PRESETS
    one = torch.eye(3)
    assert evaluate_retrieval(one, TAG, one, TAG, preset=model.card["protocol"]).protocol.name == system


@pytest.mark.parametrize("gates", [True, False], ids=["convolutions", "linear layers"])
def test_mems_gates_either_way(tmp_path, gates):
    state = flat(published_dase_resnext101.random_checkpoint(convolutions=gates, counters=False))
    model = load_released(saved(state, tmp_path), "mems").state_dict()
    column = state["layer3.22.se_module.fc2.weight"][:, -1].reshape(-1, 1)
    assert torch.equal(model["trunk.layer3.22.se_module.fc_tag.weight"], column)
    assert model["trunk.layer3.22.se_module.fc2.weight"].shape == (1024, 64, 1, 1)
    assert not any("layer4" in name and "fc_tag" in name for name in model)


def test_sbka_without_a_head_gives_no_logits(tmp_path, tiny_states):
    for absent, there in (("linear.", "imagenet_logits"), ("head.", "logits")):
        state = {name: value for name, value in tiny_states["sbka"].items() if not name.startswith(absent)}
        out = load_released(saved(state, tmp_path), "sbka")(images(32, 32), TAG)
        assert out.embedding.shape == (3, 768)
        assert [name for name in ("logits", "imagenet_logits") if getattr(out, name) is not None] == [there]


def test_the_grn_may_have_one_axis(tmp_path, tiny_states):
    state = {name: v.reshape(-1) if ".grn." in name else v for name, v in tiny_states["sbka"].items()}
    expected = load_released(saved(tiny_states["sbka"], tmp_path), "sbka").state_dict()
    assert all(torch.equal(v, expected[name]) for name, v in load_released(saved(state, tmp_path), "sbka").state_dict().items())


BROKEN = {  # system: missing, mis-shaped and what its shape must be
    "sake": ("original_model.layer1.0.se_module.fc1.weight", "original_model.layer1.0.se_module.fc2.weight", "[256, 17]"),
    "dsn": ("original_model.last_linear.bias", "original_model.layer4.2.se_module.fc2.weight", "[2048, 129]"),
    "mathm": ("linear.weight", "original_model.layer1.0.se_module.fc_tag.weight", "[256, 1]"),
    "mems": ("layer1.0.se_module.fc2.weight", "layer4.0.se_module.fc2.weight", "[2048, 128] or [2048, 128, 1, 1]"),
    "sbka": ("stages.2.8.grn.beta", "stages.0.0.grn.gamma", "[384] or [1, 1, 1, 384]"),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_all_that_does_not_fit_is_in_one_message(tmp_path, tiny_states, system):
    gone, wrong, shape = BROKEN[system]
    state = {name: value for name, value in tiny_states[system].items() if name != gone}
    state |= {wrong: torch.zeros(3, 5), "extra\x1b[2J.weight": torch.zeros(1), "second": torch.zeros(1)}
    message = error(saved(state, tmp_path), system)
    prefix = "original_model." if system in ("sake", "dsn", "mathm") else ""
    assert f"does not fit {system}: " in message
    assert (gone == "linear.weight") or f"missing (1): {gone};" in message  # a file may lack the classifier
    assert f"wrong shape (1): {wrong} is [3, 5] and must be {shape}" in message
    assert f"unexpected (2): '{prefix}extra\\x1b[2J.weight', {prefix}second" in message and "\x1b" not in message


@pytest.mark.parametrize("given", SYSTEMS)
@pytest.mark.parametrize("asked", SYSTEMS)
def test_a_file_of_another_system_is_told_what_it_is(tmp_path, tiny_states, given, asked):
    if {given, asked} <= {"sake", "dsn"} or given == asked:
        return
    looks = {"sake": "SAKE or DSN", "dsn": "SAKE or DSN"}.get(given, given.upper())
    message = error(saved(tiny_states[given], tmp_path), asked)
    assert f"{looks} checkpoint, not a checkpoint of {asked.upper()}; pass system='{given}'" in message.replace(
        "system='sake' or system='dsn'", f"system='{given}'"
    )


@pytest.mark.parametrize(
    ("arch", "system", "what"),
    [
        ("legacy_seresnext101_32x4d", "mems", "a plain SE-ResNeXt101, not .* create_model\\('dase_resnext101', pretrained=PATH"),
        ("legacy_seresnext101_32x4d", "sake", "a plain SE-ResNeXt101"),
        ("legacy_seresnet50", "mems", "a plain SE-ResNet50"),
        ("resnet18", "sbka", "a plain ResNet without gates"),
    ],
)
def test_imagenet_weights_are_no_checkpoint_of_a_system(tmp_path, arch, system, what):
    with torch.device("meta"):
        state = timm.create_model(arch).state_dict()
    torch.save({name: torch.zeros(()).expand(value.shape) for name, value in state.items()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=what):
        load_released(tmp_path / "w.pth", system)


def test_convnext_weights_that_are_no_sbka(tmp_path, tiny_states):
    imagenet = {name: value for name, value in tiny_states["sbka"].items() if not name.startswith("linear.")}
    torch.save({"model": imagenet}, tmp_path / "w.pt")  # as convnextv2_tiny_1k_224_ema.pt is wrapped
    assert "a plain ConvNeXt V2" in error(tmp_path / "w.pt", "sbka")
    torch.save({"model": tiny_states["sbka"]}, tmp_path / "w.pt")
    assert load_released(tmp_path / "w.pt", "sbka").num_classes == 7
    torch.save({name: value for name, value in imagenet.items() if ".grn." not in name}, tmp_path / "w.pt")
    assert "a ConvNeXt of the first version" in error(tmp_path / "w.pt", "sbka")


@pytest.mark.parametrize(
    ("system", "name"),
    [("mems", "last_linear.weight"), ("sbka", "linear.weight"), ("sbka", "head.weight"), ("sake", "linear.weight")],
)
@pytest.mark.parametrize("value", [torch.zeros(()), torch.zeros(0, 2048), torch.zeros(5, 3, 2)])
def test_widths_that_cannot_be_read_off(tmp_path, tiny_states, system, name, value):
    assert name in error(saved({**tiny_states[system], name: value}, tmp_path), system)


def test_widths_nobody_believes(tmp_path, tiny_states):
    for name, system in (("linear.weight", "sake"), ("last_linear.weight", "mems"), ("linear.weight", "sbka")):
        state = {**tiny_states[system], name: torch.zeros(1).expand(math.isqrt(10**22), 16)}  # would ask for terabytes
        assert f"does not fit {system}: {name} has 100,000,000,000 rows" in error(saved(state, tmp_path), system)
