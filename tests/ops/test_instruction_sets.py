"""Every instruction-set variant of the CPU kernels this machine can run, each in a process of its own, against numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from contract_samples import class_lists, codes, ids, rows
from rank_relevant_oracle import angles, bit_distances, ranks_of_relevant, squared
from torch import Tensor

import zsml

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("portable", "avx2", "avx512", "avx512_vpopcnt")  # each includes the ones before it
WIDEST = zsml.info()["cpu_instructions"]
HERE = NAMES[: NAMES.index(WIDEST) + 1] if WIDEST else ()

CHECK = """
import sys, torch, zsml, zsml.ops.rank_relevant
print(zsml.info()["cpu_instructions"])
for name, arguments, expected in torch.load(sys.argv[1]):
    results = getattr(torch.ops.zsml, name)(*arguments)
    for result, truth in zip([results] if isinstance(results, torch.Tensor) else results, expected, strict=True):
        assert torch.equal(result, truth), (name, [list(t.shape) for t in arguments if isinstance(t, torch.Tensor)])
"""


def on_codes(width: int, levels: int) -> list[tuple]:
    """(op, arguments, results) for 9 queries and 200 codes."""
    q, g, labels = codes(9, width, levels), codes(200, width, levels, seed=1), ids(200, 7)
    distance = bit_distances(q, g)
    order = distance.argsort(axis=1, kind="stable")
    near = torch.from_numpy(np.take_along_axis(distance, order, axis=1)).int()
    return [
        ("hamming_distance", (q, g), (torch.from_numpy(distance).int(),)),
        ("hamming_rank", (q, g), (torch.from_numpy(order).int(),)),
        *(("hamming_topk", (q, g, k), (near[:, :k], torch.from_numpy(order)[:, :k])) for k in (1, 30, 199, 200)),
        (
            "hamming_rank_relevant",
            (q, ids(9, 7), g, *class_lists(labels, 7)),
            (ranks_of_relevant(distance, ids(9, 7), labels),),
        ),
    ]


def on_embeddings(dtype: torch.dtype, cosine: bool) -> tuple:
    """(op, arguments, results) for 33 queries and 2,100 items, which lie on a grid."""
    query, gallery, labels = (4 * rows(33)).round(), (4 * rows(2100, seed=1)).round(), ids(2100, 9)
    if cosine:
        gallery = torch.eye(6)[ids(2100, 6)] * 2.0 ** ids(2100, 4)[:, None]
    truth = ranks_of_relevant((angles if cosine else squared)(query, gallery), ids(33, 9), labels)
    shift = torch.zeros(6, dtype=torch.float64)
    arguments = query.to(dtype), ids(33, 9), gallery.to(dtype), *class_lists(labels, 9), shift, 0.125, cosine
    return "rank_relevant", arguments, (truth,)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calls and what they must return, in a file."""
    kinds: list[tuple] = [
        call for width in (1, 8, 9, 31, 32, 65, 8192) for levels in (2, 256) for call in on_codes(width, levels)
    ]
    kinds += [on_embeddings(dtype, False) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)]
    kinds += [on_embeddings(dtype, True) for dtype in (torch.float32, torch.float64)]
    path = tmp_path_factory.mktemp("calls") / "calls.pt"
    torch.save(
        [(name, tuple(map(own_memory, arguments)), tuple(map(own_memory, results))) for name, arguments, results in kinds], path
    )
    return path


def own_memory(value: object) -> object:
    return value.contiguous() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("name", HERE)
def test_agrees_with_numpy(calls: Path, name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ZSML_ISA": name}
    done = subprocess.run([sys.executable, "-c", CHECK, str(calls)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == name
