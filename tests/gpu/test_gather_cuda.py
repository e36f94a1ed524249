"""Losses over all ranks on GPUs: one rank per GPU, with NCCL alone and beside gloo."""

from __future__ import annotations

import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from zsml.losses import CosFaceLoss, CrossBatchMemory, MATHMLoss, SupConLoss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ROWS = 24


def batch() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ROWS, 16, generator=generator), torch.arange(ROWS) // 4 % 5, torch.arange(ROWS) % 2]


def losses(gather: bool) -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [
        MATHMLoss(gather=gather),
        SupConLoss(gather=gather),
        CosFaceLoss(5, 16, gather=gather),
        CrossBatchMemory(MATHMLoss(gather=gather), 10),
    ]


def one_rank(rank: int, world: int, backend: str, folder: str) -> None:
    torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=world)
    cuts = [0, 5, ROWS] if world == 2 else [0, ROWS]
    own = slice(cuts[rank], cuts[rank + 1])
    for together, alone in zip(losses(True), losses(False), strict=True):
        x, labels, modality = (t.cuda() for t in batch())
        ours, whole = x[own].clone().requires_grad_(), x.clone().requires_grad_()
        value, expected = together.cuda()(ours, labels[own], modality[own]), alone.cuda()(whole, labels, modality)
        value.backward()
        expected.backward()
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.grad, whole.grad[own], rtol=1e-4, atol=1e-6)
    dist.destroy_process_group()


@pytest.mark.parametrize("backend", ["nccl", "cpu:gloo,cuda:nccl"])
def test_all_gpus_together_are_one(backend):
    world = min(torch.cuda.device_count(), 2)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one_rank, (world, backend, folder), nprocs=world)
