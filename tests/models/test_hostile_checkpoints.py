"""Checkpoints made to run code, to fill the memory or to confuse: all are refused by an InputError, and nothing in them runs."""

from __future__ import annotations

import builtins
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zsml.errors import InputError
from zsml.models import load_released
from zsml.models.released import SYSTEMS
from zsml.models.weightfile import read_state_dict

CANARY = "canary"


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path, monkeypatch):
    """Every payload here makes a file of this name in the working folder, if it is ever run."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(CANARY).exists()


class Calls:
    """Pickled as a call: unpickling it with pickle itself runs it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


CODE = f"open({CANARY!r}, 'w').close()"
PAYLOADS = {
    "system": Calls(os.system, f"touch {CANARY}"),
    "exec": Calls(builtins.exec, CODE),
    "eval": Calls(builtins.eval, CODE),
    "open": Calls(builtins.open, CANARY, "w"),
    "getattr": Calls(builtins.getattr, "text", "upper"),
    "mkdir": Calls(os.mkdir, CANARY),
    "torch.load": Calls(torch.load, "inner.pth"),
    "numpy.load": Calls(np.load, "inner.npy", None, True),
    "whole model": torch.nn.Linear(2, 2),
}


def places(evil: Any, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Where in a checkpoint it can hide."""
    tensor = torch.zeros(2)
    tensor.note = evil  # torch.save keeps the attributes of a tensor
    noted = OrderedDict(state)
    noted._metadata = OrderedDict(x=evil)
    return {
        "beside the weights": {"state_dict": state, "optimizer": evil},
        "the weights": {"state_dict": evil},
        "alone": evil,
        "a tensor": {"state_dict": {**state, "x": evil}},
        "attribute of a tensor": {"state_dict": {**state, "x": tensor}},
        "attribute of the dict": {"state_dict": noted},
        "deep inside": {"state_dict": state, "optimizer": [({"state": {0: [evil]}},)]},
    }


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_code_is_refused_and_named(tmp_path, payload, new_format):
    torch.save({"state_dict": {}}, tmp_path / "inner.pth")
    for place, content in places(PAYLOADS[payload], {"a": torch.zeros(1)}).items():
        torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=new_format)
        for read in (lambda path: load_released(path, "sake"), read_state_dict):
            with pytest.raises(InputError, match=r"m\.pth was not read: loading it would run \S+, and only tensors") as error:
                read(tmp_path / "m.pth")
            assert "add_safe_globals" not in str(error.value), place  # torch's advice to trust the file


@pytest.mark.parametrize("system", SYSTEMS)
def test_code_beside_good_weights_is_refused_for_every_system(tmp_path, tiny_states, system):
    torch.save({"state_dict": tiny_states[system], "best_acc1": PAYLOADS["system"]}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"would run \S*system"):
        load_released(tmp_path / "m.pth", system)


def test_the_environment_cannot_switch_safety_off(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"state_dict": PAYLOADS["system"]}, tmp_path / "m.pth")
    with pytest.raises(InputError, match="would run"):
        load_released(tmp_path / "m.pth", "sake")


SHELL = f"touch {CANARY}".encode()
RAW = {
    "GLOBAL REDUCE": b"cos\nsystem\n(S'" + SHELL + b"'\ntR.",
    "INST": b"(S'" + SHELL + b"'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'" + SHELL + b"'\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(SHELL)]) + SHELL + b"\x85R.",
    "BUILD": b"cbuiltins\nexec\n(S'" + CODE.encode().replace(b"'", b'"') + b"'\ntb.",
    "NEWOBJ": b"cos\nsystem\n(S'" + SHELL + b"'\nt\x81.",
    "persistent id": b"(S'" + SHELL + b"'\ncos\nsystem\ntQ.",
    "name with control characters": b"cos\x1b[2J\nsystem\n(tR.",
    "numpy object scalar": pickle.dumps(Calls(np.float64(0).__reduce__()[0], np.dtype("O"), PAYLOADS["system"]), 2),
}


@pytest.mark.parametrize("opcodes", RAW)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_raw_pickles_in_both_containers(tmp_path, opcodes):
    raw = RAW[opcodes]
    legacy = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + raw
    (tmp_path / "bare.pth").write_bytes(raw)
    (tmp_path / "legacy.pth").write_bytes(legacy)
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/version", "3\n")
    for name in ("bare", "legacy", "zip"):
        with pytest.raises(InputError, match=rf"{name}\.pth (was not read|is damaged)") as error:
            load_released(tmp_path / f"{name}.pth", "sake")
        assert str(error.value).isprintable()


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")
def test_programs_in_other_containers(tmp_path):
    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(InputError, match=r"m\.pt"):
        load_released(path, "sake")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with zipfile.ZipFile(path, "a") as archive:  # a name that would leave the folder, if anything were ever unpacked
        archive.writestr(f"../../{CANARY}", "x")
        archive.writestr("__main__.py", CODE)
    with pytest.raises(InputError, match=r"m\.pt"):
        load_released(path, "sake")
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


def test_an_archive_larger_than_its_file_is_not_unpacked(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(2**21)}}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as good, zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in good.infolist():
            bomb.writestr(member.filename, good.read(member))
    with pytest.raises(InputError, match=r"would unpack from [\d,]+ to 8,\d{3},\d{3} bytes"):
        load_released(tmp_path / "m.pth", "sake")


def odd_tensors() -> dict[str, torch.Tensor]:
    return {
        "sparse": torch.eye(3).to_sparse(),
        "sparse rows": torch.eye(3).to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "meta": torch.zeros(3, device="meta"),
    }


@pytest.mark.parametrize("kind", ["sparse", "sparse rows", "quantised", "meta"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch: sparse rows are in beta
def test_tensors_without_a_number_per_element(tmp_path, tiny_state, kind):
    name = "original_model.layer2.0.conv2.weight"
    torch.save({"state_dict": {**tiny_state, name: odd_tensors()[kind]}}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=rf"m\.pth .*({name}|damaged)"):
        load_released(tmp_path / "m.pth", "mathm")


def test_a_dict_that_brings_methods_of_its_own(tmp_path):
    state = Calls(OrderedDict, [["layer0.conv1.weight", torch.zeros(2)]])
    state.call += ({"items": 1, "get": 1, "keys": 1, "values": 1},)  # what pickle puts into the dict's own attributes
    torch.save({"state_dict": state}, tmp_path / "m.pth")
    with pytest.raises(InputError, match="no gate weights"):
        load_released(tmp_path / "m.pth", "sake")


def test_bit_flips_never_end_in_another_error(tmp_path):
    """Ten bytes changed at random places, two hundred times: whatever comes of it, it is a model's tensors or an InputError."""
    state = {f"layer{i}.weight": torch.full((3, i), 0.5) for i in range(1, 4)}
    random = np.random.default_rng(0)
    for new_format in (True, False):
        torch.save({"state_dict": state, "best": np.float64(1)}, tmp_path / "m.pth", _use_new_zipfile_serialization=new_format)
        good = np.frombuffer((tmp_path / "m.pth").read_bytes(), np.uint8)
        for _ in range(100):
            bad = good.copy()
            bad[random.integers(0, len(bad), 10)] = random.integers(0, 256, 10)
            (tmp_path / "bad.pth").write_bytes(bad.tobytes())
            try:
                read = read_state_dict(tmp_path / "bad.pth")
            except InputError:
                continue
            assert all(isinstance(value, torch.Tensor) for value in read.values())
