"""Clocks, peak memory, threads, and what a reader must know of the machine."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import zsml
from zsml.commit import commit

PACKAGES = ("torch", "numpy", "faiss-cpu", "scipy", "torchmetrics", "pytorch-metric-learning")
SHORT = 0.02  # seconds; shorter calls are timed several in a row, after one that is not timed


def rounds(calls: dict[str, Callable[[], object]], budget: float, device: str, most: int = 15) -> dict[str, list[float]]:
    """Seconds per call, of calls that were made before. They take turns, so that a busy moment of the machine hits all alike.

    Each gets between 3 and ``most`` samples, as many as ``budget`` seconds per call allow.
    """
    first, samples = {}, {name: [] for name in calls}
    for name, call in calls.items():
        settle()
        first[name] = seconds(call, 1, device)
        if first[name] >= SHORT:
            samples[name].append(first[name])
    for _ in range(most):
        for name, call in calls.items():
            taken = len(samples[name])
            if taken == most or (taken >= 3 and first[name] * (taken + 1) > budget):
                continue
            settle()
            repeat = 1
            if first[name] < SHORT:
                call()
                repeat = min(100, math.ceil(SHORT / max(first[name], 1e-9)))
            samples[name].append(seconds(call, repeat, device))
    return samples


def seconds(call: Callable[[], object], repeat: int, device: str) -> float:
    """Mean time of ``repeat`` calls in a row: by CUDA events on a GPU, else by the clock."""
    if device == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeat):
            call()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1e3 / repeat
    begin = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - begin) / repeat


def once(call: Callable[[], Any], device: str) -> tuple[Any, float, float | None]:
    """(answer, seconds, MiB as of peak_extra_mib) of a single call, the first."""
    kept: list[Any] = []
    taken: list[float] = []
    peak = peak_extra_mib(lambda: taken.append(seconds(lambda: kept.append(call()), 1, device)), device)
    return kept[0], taken[0], peak


def settle(pause: float = 0.005, longest: float = 1.0) -> None:
    """Wait until no thread of this process is busy: OpenMP workers of one library spin on after a call and would take a core from
    whatever is timed next.
    """
    end, quiet = time.perf_counter() + longest, 0
    while quiet < 2 and time.perf_counter() < end:  # twice in a row: a spinning thread may lose its core to another process
        used, start = time.process_time(), time.perf_counter()
        time.sleep(pause)
        quiet = quiet + 1 if time.process_time() - used < 0.2 * (time.perf_counter() - start) else 0


def peak_extra_mib(call: Callable[[], object], device: str) -> float | None:
    """MiB by which a call that was made before raises the peak: device memory on CUDA, the process's resident set on Linux; None
    where unknown.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
        before = _kib("/proc/self/status", "VmRSS")
        call()
        return (_kib("/proc/self/status", "VmHWM") - before) / 2**10
    except (OSError, AttributeError):
        return None


def _kib(path: str, field: str) -> int:
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def available_memory() -> float:
    """Bytes that can be had without swapping; infinite where the system does not tell."""
    try:
        return _kib("/proc/meminfo", "MemAvailable") * 1024.0
    except OSError:
        return math.inf


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(count: int) -> dict[str, int]:
    """Give torch, faiss and numpy this many threads; returns what each thread pool now has.

    Pools can only be told once their library is loaded, so call it after the imports.
    """
    torch.set_num_threads(count)
    pools = {"torch": torch.get_num_threads()}
    if importlib.util.find_spec("threadpoolctl") is None:
        return pools
    import threadpoolctl

    threadpoolctl.threadpool_limits(count)
    for pool in threadpoolctl.threadpool_info():
        name = Path(pool["filepath"]).name.split(".so")[0].split("-")[0]
        pools[f"{Path(pool['filepath']).parent.name}/{name}"] = pool["num_threads"]
    return dict(sorted(pools.items()))


def describe_machine(device: str) -> dict[str, Any]:
    """Device, versions, commit and date of a row."""
    info = zsml.info()
    return {
        "on": device,
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "kernels": device if info[f"{device}_kernels"] == "loaded" else "torch",
        "instructions": info["cpu_instructions"],
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def cpu_name() -> str:
    """The model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
