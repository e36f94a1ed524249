"""Loads the compiled kernels and remembers why one did not load.

Three tiers, told by :func:`info`: ``cuda`` (CPU and CUDA kernels), ``cpu`` (CPU kernels), ``torch`` (plain torch under the same
names: correct everywhere, slower). Nothing is compiled on import.
"""

from __future__ import annotations

import os
import platform
import warnings
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).resolve().parent

BUILD_HINT = (
    "install from source with the CUDA toolkit's nvcc on PATH and a CUDA build of torch: "
    "ZSML_BUILD=cuda pip install --no-build-isolation ."
)


def _load(stem: str) -> str | None:
    """Load ``zsml/<stem>.*so``; None when it worked, else the reason it did not."""
    if os.environ.get("ZSML_DISABLE_KERNELS") == "1":
        return "switched off by ZSML_DISABLE_KERNELS=1"
    found = sorted(_FOLDER.glob(f"{stem}.*so"))
    if not found:
        return f"zsml/{stem} was not built (see the summary line printed by the installation)"
    try:
        torch.ops.load_library(found[0])
    except OSError as error:
        return f"{found[0].name} does not load: {error}"
    return None


INSTRUCTIONS = ("portable", "avx2", "avx512", "avx512_vpopcnt")  # of the CPU kernels, each including the ones before it

if os.environ.get("ZSML_ISA", "") not in ("", *INSTRUCTIONS):
    warnings.warn(f"ZSML_ISA={os.environ['ZSML_ISA']} is ignored; it may be {', '.join(INSTRUCTIONS)}", stacklevel=1)

cpu_reason = _load("_C")
cuda_reason = cpu_reason or ("this torch is a CPU-only build" if torch.version.cuda is None else _load("_C_cuda"))


def tier() -> str:
    """Which kernels run: ``"cuda"``, ``"cpu"`` or ``"torch"``."""
    return "torch" if cpu_reason else "cpu" if cuda_reason else "cuda"


def info() -> dict[str, Any]:
    """What runs here and why: the kernel tier, its reasons, versions and devices.

    Returns a JSON-able dict; ``tier`` is ``"cuda"``, ``"cpu"`` or ``"torch"``, ``cpu_kernels`` and ``cuda_kernels`` say
    ``"loaded"`` or why not.

    >>> info()["tier"] in ("cuda", "cpu", "torch")
    True
    """
    from . import __version__, ops  # noqa: F401  (ops declares the schemas of the two questions below)

    report: dict[str, Any] = {
        "zsml": __version__,
        "tier": tier(),
        "cpu_kernels": cpu_reason or "loaded",
        "cuda_kernels": cuda_reason or "loaded",
        "cpu_instructions": None if cpu_reason else INSTRUCTIONS[torch.ops.zsml.cpu_isa()],
        "cuda_architectures": None if cuda_reason else torch.ops.zsml.cuda_architectures(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
    }
    return report
