"""The developers' module that opens the kernels' internals, built by CMake."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = "cmake -S . -B build/native -G Ninja && cmake --build build/native --target zsml_internals"

settings.register_profile("native", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("native")


@pytest.fixture(scope="session")
def internals() -> ModuleType:
    """The module ``zsml_internals``: ``$ZSML_INTERNALS`` (the file) or what lies in build/native."""
    wanted = os.environ.get("ZSML_INTERNALS")
    found = [Path(wanted)] if wanted else sorted((REPOSITORY / "build" / "native").glob("zsml_internals*.so"))
    if not found or not found[0].is_file():
        message = f"zsml_internals is not built; run: {BUILD}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    spec = importlib.util.spec_from_file_location("zsml_internals", found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, internals: ModuleType) -> str:
    """Every instruction set that this machine can run."""
    if not internals.available(request.param):
        pytest.skip(f"this processor has no {request.param}")
    return request.param


@pytest.fixture(scope="session", params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type:
    return request.param
