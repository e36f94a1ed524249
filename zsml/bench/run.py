"""Runs a case: every provider is checked, then all are timed in turns."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zsml.bench import measure
from zsml.bench.case import Case, Disagrees, Provider, Unable


def run_case(
    case: Case, threads: Sequence[int], device: str = "cpu", budget: float = 5.0, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Rows of all its providers at each number of threads.

    budget: seconds of timing per provider. say: told what is left out and why.

    A row has op, case, size, provider, mode, dtype, shape, threads, pools (threads of every library), median_ms, p20_ms, p80_ms,
    samples, peak_extra_mib, note, left_out (why there is no time, else None), and what measure.describe_machine says.
    """
    data = case.draw(device)
    truth = case.truth(data)
    machine = measure.describe_machine(device)
    rows = []
    before = torch.get_num_threads()
    try:
        for count in threads:
            rows += _run(case, data, truth, count, device, budget, machine, say)
    finally:
        measure.use_threads(before)
    return rows


def _run(
    case: Case,
    data: Any,
    truth: Any,
    threads: int,
    device: str,
    budget: float,
    machine: dict[str, Any],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    providers = [provider for provider in case.providers if device in provider.devices]
    torch.compiler.reset()  # compiled code may have the number of threads built in
    pools = measure.use_threads(threads)
    calls: dict[str, Callable[[], Any]] = {}
    notes: dict[str, str] = {}
    left_out: dict[str, str] = {}
    peaks: dict[str, float | None] = {}
    samples: dict[str, list[float]] = {}
    for provider in providers:
        own = _own_data(case, provider, data)
        try:
            call = provider.make(own)
            pools = measure.use_threads(threads)  # again: its libraries are loaded only now
            if provider.once:
                answer, seconds, peak = measure.once(call, device)
                notes[provider.name] = "; ".join(filter(None, [case.check(answer, truth, own), "timed once, the first call"]))
                samples[provider.name], peaks[provider.name] = [seconds], peak
                del answer
                continue
            notes[provider.name] = case.check(call(), truth, own)
            calls[provider.name] = call
        except ModuleNotFoundError as error:
            left_out[provider.name] = f"needs {error.name}, which zsml's extra [bench] installs"
        except Unable as error:
            left_out[provider.name] = str(error)
        except Disagrees as error:
            left_out[provider.name] = f"disagrees: {error}"
        except Exception as error:  # out of memory, no compiler, another version of a library
            left_out[provider.name] = f"failed: {(str(error) or type(error).__name__).splitlines()[0][:150]}"
        if provider.name in left_out:
            say(f"{case.op}, {case.name}, {threads} threads: {provider.name} is left out: {left_out[provider.name]}")
    for name, call in calls.items():
        gc.collect()
        peaks[name] = measure.peak_extra_mib(call, device)
    samples |= measure.rounds(calls, budget, device)
    rows = []
    for provider in providers:
        used = None if case.queries is None else min(case.queries, provider.most or case.queries)
        shape = case.shape if used is None else {"queries": used, "full_queries": case.full_queries, **case.shape}
        rows.append(
            {
                "op": case.op, "case": case.name, "size": case.size, "provider": provider.name,
                "mode": provider.mode or case.mode, "dtype": case.dtype, "shape": shape, "threads": threads, "pools": pools,
                **summary(samples.get(provider.name, [])), "peak_extra_mib": _rounded(peaks.get(provider.name)),
                "note": notes.get(provider.name, ""), "left_out": left_out.get(provider.name), **machine,
            }
        )  # fmt: skip
    return rows


def _own_data(case: Case, provider: Provider, data: Any) -> Any:
    return data if provider.most is None or case.queries is None else data.head(min(provider.most, case.queries))


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Median and the 20 and 80 % quantiles in milliseconds; None without samples.

    >>> summary([0.003, 0.001, 0.002])
    {'median_ms': 2.0, 'p20_ms': 1.0, 'p80_ms': 3.0, 'samples': 3}
    """
    ordered = sorted(seconds)
    values = [None] * 3
    if ordered:
        last = len(ordered) - 1
        values = [statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)]]
    names = ("median_ms", "p20_ms", "p80_ms")
    times = {name: None if value is None else _rounded(value * 1e3) for name, value in zip(names, values, strict=True)}
    return {**times, "samples": len(ordered)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
