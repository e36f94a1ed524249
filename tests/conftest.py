"""Fixtures every test may use: the real test data, the adversarial batches, and every implementation that runs here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from adversarial import ADVERSARIAL, Case

from zsml import _ext

# Without it torch refuses every matrix product on a GPU while deterministic algorithms are asked for.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real photographs, sketches and published split lists, beside the checkout."""
    path = Path(os.environ.get("ZSML_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        message = f"real test data not found at {path}; set ZSML_TEST_DATA to the folder holding pacs/ and splits/"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


# ---- adversarial batches -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=ADVERSARIAL, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Every adversarial batch in turn."""
    return request.param


# ---- every implementation that runs here --------------------------------------------------------------------------------------

IMPLEMENTATIONS = ["torch on cpu"]  # the plain-torch stand-in, under the registered name
if _ext.cpu_reason is None:
    IMPLEMENTATIONS.insert(0, "kernel on cpu")
if torch.cuda.is_available():
    IMPLEMENTATIONS.append("torch on cuda")
    if _ext.cuda_reason is None:
        IMPLEMENTATIONS.append("kernel on cuda")


@pytest.fixture(params=IMPLEMENTATIONS)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A device, with the ops on it computed by each implementation in turn."""
    kind, _, name = request.param.partition(" on ")
    if kind == "kernel":
        yield torch.device(name)
        return
    with plain_torch():
        yield torch.device(name)


@pytest.fixture(params=[name for name in IMPLEMENTATIONS if name.startswith("kernel")])
def kernel_device(request: pytest.FixtureRequest) -> torch.device:
    """A device with compiled kernels."""
    return torch.device(request.param.partition(" on ")[2])


@contextmanager
def plain_torch() -> Iterator[None]:
    """While it is open, the registered ops run their plain-torch stand-ins, as they do where no kernel was built."""
    from zsml.ops import _register

    with torch.library._scoped_library("zsml", "IMPL") as library, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced is the point
        for name, reference in _register.references.items():
            for key in ("CPU", "CUDA"):
                library.impl(name, reference, key, allow_override=True)
        yield
