"""save_model and load_model: the same model comes back, and a save that fails leaves the old one."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zsml.errors import InputError
from zsml.models import create_model, load_model, load_released, save_model
from zsml.models.io import read_card

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TAGS = torch.tensor([0, 1])
REPOSITORY = Path(__file__).resolve().parents[2]


def small(seed: int = 0, classes: int = 3):
    torch.manual_seed(seed)
    return create_model("mobilenetv3_small_050", num_classes=classes, embedding_dim=4).eval()


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert a.config == b.config and list(a.state_dict()) == list(b.state_dict())
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("cse_resnet50", {"cse_end": 2, "imagenet_head": True, "classifier_bias": True}),
        ("vit_tiny_patch16_224", {"img_size": 32}),
        ("mobilenetv3_small_050", {"num_classes": 0}),
    ],
)
def test_round_trip(tmp_path, arch, options):
    model = create_model(arch, **{"num_classes": 3, "embedding_dim": 4, **options})
    model.to(memory_format=torch.channels_last)  # weights that are not contiguous
    save_model(model, tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text()) == model.config
    twin = load_model(str(tmp_path / "a" / "b"))
    assert not twin.training
    assert_same(twin, model)
    model.to(memory_format=torch.contiguous_format)  # the layout, not the values, decides the last bit
    assert torch.equal(twin(X, TAGS).embedding, model.eval()(X, TAGS).embedding)


def test_a_released_checkpoint_can_be_saved_as_ours(tmp_path, mathm_file):
    model = load_released(mathm_file, "mathm")
    save_model(model, tmp_path)
    assert_same(load_model(tmp_path), model)


def test_saving_again_replaces_and_loading_draws_no_random_numbers(tmp_path):
    save_model(small(0), tmp_path)
    save_model(small(1, classes=5), tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    loaded = load_model(tmp_path)
    assert torch.equal(torch.rand(2), expected)
    assert_same(loaded, small(1, classes=5))


def test_a_full_disk_leaves_the_old_model(tmp_path):
    save_model(small(0), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # every write beyond fails, as on a full disk
    try:
        with pytest.raises(InputError, match=r"folder .* cannot be written .*make room"):
            save_model(small(1), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(load_model(tmp_path), small(0))


def test_killed_while_saving(tmp_path):
    save_model(small(0), tmp_path)
    script = f"""
import sys; sys.path.insert(0, {str(REPOSITORY)!r})
from zsml.models import load_model, save_model
model = load_model({str(tmp_path)!r})
print("ready", flush=True)
while True:
    save_model(model, {str(tmp_path)!r})
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.25)
        child.send_signal(signal.SIGKILL)
    assert_same(load_model(tmp_path), small(0))


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "x").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        save_model(small(), tmp_path / "x")
    assert (tmp_path / "x").read_text() == "not a folder"


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), None, {"weight": torch.zeros(1)}])
def test_only_our_models_are_saved(tmp_path, model):
    with pytest.raises(TypeError, match=r"model must be what zsml\.models\.create_model returns"):
        save_model(model, tmp_path)
    assert not any(tmp_path.iterdir())


def test_folders_that_hold_no_model(tmp_path, mathm_file):
    def error() -> str:
        with pytest.raises(InputError) as caught:
            load_model(tmp_path)
        return str(caught.value)

    path = tmp_path / "model.safetensors"
    assert "holds no model.safetensors" in error()
    path.write_bytes(b"")
    assert "no safetensors file" in error()
    path.unlink()
    path.symlink_to(mathm_file)
    assert "load_released" in error()
    path.unlink()
    save_file({"weight": torch.zeros(2)}, path)
    assert "not written by zsml.models.save_model" in error() and "pretrained=PATH" in error()
    save_model(small(), tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    assert "damaged" in error()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "configuration"),
        ("[]", "configuration"),
        ("{}", "configuration"),
        ('{"arch": "no_such_arch", "num_classes": 3}', "no_such_arch"),
        ('{"arch": "mobilenetv3_small_050", "num_classes": 3, "foo": 1}', "foo"),
        ('{"arch": "mobilenetv3_small_050", "num_classes": 3, "embedding_dim": 4, "checkpoint_path": "/x"}', "checkpoint_path"),
    ],
)
def test_broken_configurations(tmp_path, config, message):
    save_file(small().state_dict(), tmp_path / "model.safetensors", {"format": "zsml-model-1", "config": config})
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("change", [{"num_classes": 10**11}, {"embedding_dim": 10**10}])
def test_a_small_file_cannot_ask_for_much_memory(tmp_path, change):
    config = json.dumps({**small().config, **change})  # of terabytes
    save_file(small().state_dict(), tmp_path / "model.safetensors", {"format": "zsml-model-1", "config": config})
    with pytest.raises(InputError, match=r"cannot be used: its model has [\d,]{13,} numbers, and the file holds"):
        load_model(tmp_path)


def test_weights_that_do_not_fit_are_all_listed(tmp_path):
    weights = dict(small().state_dict())
    del weights["bottleneck.bias"]
    weights["classifier.weight"] = torch.zeros(4, 4)
    weights["extra"] = torch.zeros(1)
    config = json.dumps({**small().config, "pretrained": True})  # never followed: that would go to the network
    save_file(weights, tmp_path / "model.safetensors", {"format": "zsml-model-1", "config": config})
    with pytest.raises(InputError, match="does not fit") as error:
        load_model(tmp_path)
    assert all(part in str(error.value) for part in ("bottleneck.bias", "classifier.weight", "extra"))


def test_the_card_goes_with_the_model(tmp_path):
    model = small()
    save_model(model, tmp_path)
    assert read_card(tmp_path) is None and load_model(tmp_path).card is None
    model.card = {"system": "sake", "protocol": "sake", "source": {"file": "größe.pth", "bytes": 7, "sha256": "ab"}}
    save_model(model, tmp_path)
    assert read_card(tmp_path) == load_model(tmp_path).card == model.card
    assert small().card is None  # of this model, not of the class
    assert json.loads((tmp_path / "config.json").read_text()) == model.config


def test_cards_that_cannot_be_kept_or_read(tmp_path):
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        read_card(tmp_path)
    model = small()
    for card, message in (("sake", "must be a dict or None, got str"), ({"path": Path("x")}, "plain values only")):
        model.card = card
        with pytest.raises(TypeError, match=message):
            save_model(model, tmp_path)
    assert not any(tmp_path.iterdir())
    for card in ("{", "[]", '"sake"'):
        metadata = {"format": "zsml-model-1", "config": json.dumps(model.config), "card": card}
        save_file(small().state_dict(), tmp_path / "model.safetensors", metadata)
        for read in (read_card, load_model):
            with pytest.raises(InputError, match="card that cannot be read"):
                read(tmp_path)
