"""Timers, peak memory and result rows, shared by the benchmarks."""

from __future__ import annotations

import ctypes
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).resolve().parent / "results"


def sync() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rounds(providers: dict[str, Callable[[], object]], budget: float, most: int = 15) -> dict[str, list[float]]:
    """Seconds per call. The providers take turns, so that a busy moment of the machine hits all of them alike.

    Each gets 1 warm-up call and between 3 and ``most`` timed ones, as many as ``budget`` seconds per provider allow.
    """
    first = {}
    for name, call in providers.items():
        call()
        sync()
        start = time.perf_counter()
        call()
        sync()
        first[name] = time.perf_counter() - start
    samples: dict[str, list[float]] = {name: [] for name in providers}
    for turn in range(most):
        for name, call in providers.items():
            if turn >= 3 and first[name] * (turn + 1) > budget:
                continue
            start = time.perf_counter()
            call()
            sync()
            samples[name].append(time.perf_counter() - start)
    return samples


def peak_extra_mib(call: Callable[[], object], device: str) -> float:
    """MiB by which one call raises the peak: device memory on CUDA, the process's resident set on a (Linux) CPU."""
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
    before = _status_kib("VmRSS")
    call()
    return (_status_kib("VmHWM") - before) / 2**10


def _status_kib(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def describe_machine(device: str) -> dict[str, object]:
    """What a reader needs to know about where a row comes from."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def row(
    op: str,
    provider: str,
    mode: str,
    shape: dict[str, int],
    dtype: str,
    seconds: list[float],
    peak_mib: float | None,
    machine: dict,
) -> dict:
    """One result: the median and the 20 and 80 % quantiles of the samples in milliseconds, and the extra memory."""
    ordered = sorted(seconds)
    at = lambda q: ordered[round(q * (len(ordered) - 1))] * 1e3  # noqa: E731
    return {
        "op": op, "provider": provider, "mode": mode, "shape": shape, "dtype": dtype,
        "median_ms": statistics.median(ordered) * 1e3, "p20_ms": at(0.2), "p80_ms": at(0.8), "samples": len(ordered),
        "peak_extra_mib": peak_mib, **machine,
    }  # fmt: skip


def save(rows: list[dict], name: str) -> Path:
    """Write (replace) bench/results/<name>.json, one row per line so that a diff shows what changed."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")
    return path
