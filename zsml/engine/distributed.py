"""Training on several processes that `torchrun` started: each takes its part of every batch, together they take one step.

    torchrun --nproc-per-node=2 -m zsml train mathm ...

A batch of P classes is drawn as in one process and split by classes, the losses mine across ranks (zsml.losses.gather), and
DistributedDataParallel adds up the gradients: up to rounding, the run is that of one process, where BatchNorm is synchronised or
frozen. Only the first rank writes and speaks. Ranks never wait for one that failed: what may fail on one alone is done
`together`, and ends on all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zsml.data.keys import stable_hash
from zsml.engine import log
from zsml.engine.config import TrainConfig, flag
from zsml.engine.device import resolve_device
from zsml.engine.stopping import EndedElsewhere
from zsml.errors import InputError
from zsml.losses import collectives

PATIENCE = timedelta(hours=1)  # the others wait while the first rank evaluates; one that died is noticed long before
LOSS_PATIENCE = timedelta(minutes=10)  # between two ranks in the same step; the first one takes its time on a GPU


class Step(nn.Module):
    """Images to (loss, parts): the objective with the model it runs, as one module."""

    def __init__(self, objective: nn.Module, model: nn.Module):
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, images: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.model, images, labels, modality)


class Team:
    """The processes of a training, seen from one of them; a team of one does nothing of what follows."""

    def __init__(self, rank: int, size: int, device: torch.device):
        self.rank, self.size, self.device = rank, size, device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def check(self, config: TrainConfig) -> None:
        """Settings that depend on how many processes there are.

        Raises:
            InputError: listing everything that is wrong.
        """
        problems = []
        if config.batch == "random":
            for name in ("sketches_per_batch", "photos_per_batch"):
                if getattr(config, name) < self.size:
                    problems.append(
                        f"{flag(name)} ({getattr(config, name)}) must be at least the number of processes ({self.size})"
                    )
        elif config.classes_per_batch % self.size:
            problems.append(
                f"--classes-per-batch ({config.classes_per_batch}) must be a multiple of the number of processes ({self.size}), "
                "which share every batch"
            )
        if config.sync_batchnorm and self.size > 1 and self.device.type == "cpu":
            problems.append("--sync-batchnorm needs GPUs; on CPUs leave it out")
        if problems:
            raise InputError("\n".join(problems))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails within on one rank ends it on all; nobody goes on before all are done.

        Raises:
            EndedElsewhere: on the ranks where nothing failed, if something did on another.
        """
        if self.size == 1:
            yield
            return
        problem: BaseException | None = None
        try:
            yield
        except BaseException as error:
            problem = error
        self._agree(problem)

    def any(self, value: bool) -> bool:
        """Whether it is true on any rank."""
        return bool(self._sum(int(value)))

    def batches(self, source: Iterable[tuple[Tensor, ...]], name: str) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """This rank's part of every batch, and how many images of the whole batch could be decoded.

        Raises:
            InputError: a part cannot be read, or has no image left.
        """
        parts = iter(source)
        while True:
            with self.together():
                part = next(parts, None)
                if part is not None and len(part[0]) == 0:
                    raise InputError(f"none of the images of a batch can be decoded; check {name}")
            if part is None:
                return
            yield part, self._sum(len(part[0]))

    def prepare(self, model: nn.Module, config: TrainConfig) -> nn.Module:
        """The model with BatchNorm over the whole batch, if that was asked for."""
        if config.sync_batchnorm and self.size > 1:
            from timm.layers import convert_sync_batchnorm  # knows timm's norm layers with activations, torch's would lose them

            return convert_sync_batchnorm(model)
        return model

    def parallel(self, objective: nn.Module, model: nn.Module) -> nn.Module:
        """One module from a batch to its loss, whose gradients are averaged over ranks.

        To be made anew whenever other parameters are trained than before.
        """
        step = Step(objective, model)
        if self.size == 1:
            return step
        return DistributedDataParallel(step, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def accumulating(self, network: nn.Module, more: bool) -> AbstractContextManager[None]:
        """Around forward and backward: with `more` batches to come before the step, gradients stay on their rank."""
        return network.no_sync() if more and self.size > 1 else nullcontext()

    def seed(self, config: TrainConfig, epoch: int, batch: int) -> None:
        """Other ranks than the first draw what is random in a model from streams of their own, each batch from its own."""
        if not self.first:
            torch.manual_seed(stable_hash(config.seed, epoch, batch, self.rank))

    def _sum(self, value: int) -> int:
        if self.size == 1:
            return value
        total = torch.tensor(value)
        self._collective(dist.all_reduce, total)
        return int(total)

    def _agree(self, problem: BaseException | None) -> None:
        reasons: list[str | None] = [None] * self.size
        try:
            if not self._sum(int(problem is not None)):
                return
            reason = None if problem is None else str(problem) or type(problem).__name__
            self._collective(dist.all_gather_object, reasons, reason)
        except EndedElsewhere as gone:
            raise problem or gone from None
        rank, reason = next((rank, reason) for rank, reason in enumerate(reasons) if reason is not None)
        if self.rank == rank:  # one of those where it failed, so that it is said once
            raise problem
        raise EndedElsewhere(f"rank {rank}: {reason}")

    def _collective(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except RuntimeError as error:
            raise EndedElsewhere(f"another rank is gone, its own message says why ({error})") from error


@contextmanager
def join(device: str) -> Iterator[Team]:
    """The team this process is in: by the environment torchrun sets, or by the process group there is; else a team of one.

    Raises:
        InputError: more processes than GPUs.
    """
    chosen, there = resolve_device(device), dist.is_available() and dist.is_initialized()
    size = dist.get_world_size() if there else int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Team(0, 1, chosen)
        return
    rank = dist.get_rank() if there else int(os.environ["RANK"])
    chosen = _own_device(chosen, int(os.environ.get("LOCAL_RANK", rank)))
    if not there:
        # Small messages, and waiting for each other, go by the CPU's backend: no GPU has to come to rest for them.
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    patience, collectives.TIMEOUT = collectives.TIMEOUT, LOSS_PATIENCE
    failed = True
    try:
        with log.silent(rank != 0):
            yield Team(rank, size, chosen)
        failed = False
    finally:
        collectives.TIMEOUT = patience
        if not there and (chosen.type == "cpu" or not failed):  # after a failure NCCL would wait; the process ends anyway
            dist.destroy_process_group()


def _own_device(device: torch.device, local_rank: int) -> torch.device:
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise InputError(
            f"--device cuda: process {local_rank} has no GPU of its own, there are {count}; use --nproc-per-node={count}"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
