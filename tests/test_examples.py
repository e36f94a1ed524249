"""The examples run."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

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


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"own_training_loop"}
