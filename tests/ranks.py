"""Several ranks of torch.distributed on one machine, each a process: for tests of what they do together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(world: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(rank, world, *arguments)`` returns on every rank; it must be importable, and its result saved by torch."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_one_rank, (world, str(folder), function, arguments), nprocs=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def _one_rank(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(function(rank, world, *arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
