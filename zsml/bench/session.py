"""What `zsml bench OP ...` does: checks what was asked, runs the cases, keeps the rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zsml.bench import measure, rows
from zsml.bench.cases import find_cases
from zsml.bench.run import run_case
from zsml.engine.device import resolve_device
from zsml.errors import InputError


def bench(
    ops: Sequence[str],
    sizes: Sequence[str] = (),
    queries: int | None = 1024,
    threads: Sequence[int] = (),
    device: str = "auto",
    budget: float = 5.0,
    save: Path | None = None,
) -> dict[str, Any]:
    """Run the cases of these ops; {"rows": ..., "saved": files written}. Arguments as the flags of `zsml bench`.

    Rows are saved after every case, so that an interrupted run keeps what it has.

    Raises:
        InputError: an argument that makes no sense, named.
    """
    kind = resolve_device(device).type
    if queries is not None and queries < 1:
        raise InputError(f"--queries must be 1 or more, or all, got {queries}")
    if not budget > 0:
        raise InputError(f"--budget must be above 0 seconds, got {budget}")
    if threads and kind == "cuda":
        raise InputError("--threads has no meaning on a GPU; leave it out, or use --device cpu")
    for count in threads:
        if not 1 <= count <= measure.cores():
            raise InputError(f"--threads must be 1 to {measure.cores()}, the cores this process may use; got {count}")
    cases = find_cases(ops, sizes, queries)
    if save is not None:
        rows.check_folder(save)
    found: list[rows.Row] = []
    saved: dict[Path, None] = {}
    for number, case in enumerate(cases, 1):
        say(f"{number} of {len(cases)}: {case.op}, {case.name}")
        new = run_case(case, threads or (torch.get_num_threads(),), kind, budget, say)
        found += new
        if save is not None:
            saved |= dict.fromkeys(rows.save(new, save))
    return {"rows": found, "saved": [str(path) for path in saved]}


def say(message: str) -> None:
    """Progress, to stderr."""
    print(message, file=sys.stderr, flush=True)
