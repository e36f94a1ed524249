"""Which kernels run: CUDA, CPU or plain torch; the same ops under the same names in each, and the reason told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zsml
from zsml import _ext

REPOSITORY = Path(__file__).resolve().parents[2]
CPU_BINARIES = sorted((REPOSITORY / "zsml").glob("_C.*so"))

USE = """
import json, torch, zsml
from zsml.ops import hardest_pairs
x = torch.tensor([[0.0], [1.0], [5.0], [-2.0]], requires_grad=True)
distance, index = hardest_pairs(x, torch.tensor([0, 0, 1, 0]))
distance[0].sum().backward()
info = zsml.info()
print(json.dumps([info, distance[:2].tolist(), index[:2].tolist(), x.grad.flatten().tolist()]))
"""
ANSWER = [
    [[2.0, 3.0, float("-inf"), 3.0], [5.0, 4.0, 4.0, 7.0]],
    [[3, 3, -1, 1], [2, 2, 1, 2]],
    [1.0, 2.0, 0.0, -3.0],
]


def python(program: str, package: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess:
    """Run a program against the zsml of a folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZSML_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "PYTHONPATH": str(package), **environment},
        cwd=package,
        capture_output=True,
        text=True,
    )


def use(package: Path = REPOSITORY, **environment: str) -> dict:
    """zsml.info() there, after checking that the op works and is the right op."""
    done = python(USE, package, **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    info, *answer = json.loads(done.stdout)
    assert answer == ANSWER
    return info


def install(folder: Path, binaries: list[Path]) -> Path:
    """A copy of the package with these binaries only, as an installation that built no others leaves it."""
    shutil.copytree(REPOSITORY / "zsml", folder / "zsml", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for binary in binaries:
        shutil.copy(binary, folder / "zsml")
    return folder


def test_info_here():
    info = zsml.info()
    assert info["tier"] in ("cuda", "cpu", "torch") and info["tier"] == _ext.tier()
    assert (info["cpu_kernels"] == "loaded") == (info["tier"] != "torch")
    assert (info["cuda_kernels"] == "loaded") == (info["tier"] == "cuda")
    assert (info["cpu_instructions"] in ("portable", "avx2", "avx512", "avx512_vpopcnt")) == (info["tier"] != "torch")
    json.dumps(info)


def test_switched_off():
    info = use(ZSML_DISABLE_KERNELS="1")
    assert info["tier"] == "torch"
    assert "ZSML_DISABLE_KERNELS=1" in info["cpu_kernels"] and "ZSML_DISABLE_KERNELS=1" in info["cuda_kernels"]
    assert info["cpu_instructions"] is None and info["cuda_architectures"] is None


def test_nothing_built(tmp_path):
    info = use(install(tmp_path, []))
    assert info["tier"] == "torch" and "not built" in info["cpu_kernels"]


def test_binary_that_does_not_load(tmp_path):
    folder = install(tmp_path, [])
    (folder / "zsml" / "_C.abi3.so").write_bytes(b"not a library")
    info = use(folder)
    assert info["tier"] == "torch" and "_C.abi3.so does not load" in info["cpu_kernels"]


needs_cpu_kernels = pytest.mark.skipif(not CPU_BINARIES, reason="the CPU kernels were not built")


@needs_cpu_kernels
def test_portable_instructions_on_request():
    assert use(ZSML_ISA="portable")["cpu_instructions"] == "portable"


# What the dispatcher runs for a CUDA tensor is called straight through its CUDA entry, since there may be no such tensor here.
CUDA_ENTRY = """
key = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
ids, x, pairs = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(4, 2)
calls = {
    "hardest_pairs": (x, ids, ids, None, None, None, None, 0),
    "hardest_pairs_backward": (pairs, x, None, pairs, pairs.long(), True, False),
}
for name, arguments in calls.items():
    try:
        getattr(torch.ops.zsml, name).default.redispatch(key, *arguments)
    except RuntimeError as error:
        print(error)
"""


@needs_cpu_kernels
def test_cpu_kernels_alone(tmp_path):
    """A CUDA tensor is then an error that says how to get the CUDA kernels."""
    done = python(USE + CUDA_ENTRY, install(tmp_path, CPU_BINARIES[:1]))
    used, *messages = done.stdout.splitlines()
    info, *answer = json.loads(used)
    assert answer == ANSWER
    assert info["tier"] == "cpu" and info["cpu_kernels"] == "loaded"
    assert "not built" in info["cuda_kernels"] or "CPU-only" in info["cuda_kernels"]
    assert len(messages) == 2, done.stderr[-2000:]
    for name, message in zip(("hardest_pairs", "hardest_pairs_backward"), messages, strict=True):
        assert f"zsml.ops.{name}: no CUDA kernels" in message and "ZSML_BUILD=cuda" in message and "nvcc" in message


@needs_cpu_kernels
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_cuda_tensor_without_cuda_kernels(tmp_path):
    folder = install(tmp_path, CPU_BINARIES[:1])
    done = python(USE.replace("requires_grad=True", "device='cuda'").replace("0])", "0], device='cuda')"), folder)
    assert done.returncode != 0 and "ZSML_BUILD=cuda" in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the CUDA cases of tests/ops were not collected")
def test_cuda_cases_were_collected():
    """Without a GPU they are left out rather than skipped one by one; with one, the kernels must be there to be tested."""
    assert _ext.cuda_reason is None, f"there is a GPU but no CUDA kernels: {_ext.cuda_reason}"


def test_import_is_light():
    """`zsml --help` must be quick: torch is not imported before something needs it."""
    done = python("import sys, zsml; print(sorted({'torch', 'numpy', 'timm'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr
