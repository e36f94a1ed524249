"""The examples run."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from zsml.errors import InputError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_own_training_loop(capsys):
    before, after = load("own_training_loop").main(steps=2)
    assert 0 < before < 1 and 0 < after < 1 and not math.isclose(before, after)
    assert capsys.readouterr().out.count("mAP") == 2


def test_search(capsys, tmp_path):
    assert 0 <= load("search").main(steps=2, arch="test_resnet") <= 1
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in shown] == ["float", "bits", "rerank"]
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        load("search").main(str(tmp_path))


def test_kernel_bench(capsys):
    assert all(gain > 0 for gain in load("kernel_bench").main(batches=(24, 120), width=16, seconds=0.01))
    assert capsys.readouterr().out.count("times as fast") == 2


def test_lightning_module(capsys):
    pytest.importorskip("lightning", reason="lightning is not installed")
    assert 0 < load("lightning_module").main(steps=2, arch="test_resnet") < 1
    assert "unseen classes: mAP" in capsys.readouterr().out


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"own_training_loop", "search", "kernel_bench", "lightning_module"}
