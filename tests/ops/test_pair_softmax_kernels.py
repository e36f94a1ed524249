"""The CPU kernels of supcon and margin_softmax, called as torch.ops.zsml, against their definitions in float64."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from softmax_oracle import ALL, CROSS, DISTANCE, INNER, SQUARED_DISTANCE, WITHIN, agree, margin_softmax, supcon
from torch import Tensor

import zsml
import zsml.ops.margin_softmax
import zsml.ops.supcon

pytestmark = pytest.mark.skipif(not zsml.info()["cpu_instructions"], reason="no CPU kernels were built")
REPOSITORY = Path(__file__).resolve().parents[2]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def unit(rows: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1).to(dtype)


def ids(count: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


class Setting(NamedTuple):
    """Arguments of supcon."""

    x: Tensor
    labels: Tensor
    modality: Tensor
    refs: Tensor | None = None
    ref_labels: Tensor | None = None
    ref_modality: Tensor | None = None
    exclude: Tensor | None = None
    temperature: float = 0.1
    pairs: int = ALL
    per_pair: bool = False


def batch(rows: int, width: int, classes: int, dtype: torch.dtype = torch.float32, refs: int = 0, **options) -> Setting:
    own = Setting(unit(rows, width, dtype), ids(rows, classes), ids(rows, 3, 1), **options)
    if not refs:
        return own
    others = unit(refs, width, dtype, 1), ids(refs, classes, 2), ids(refs, 3, 3), ids(rows, refs + 1, 4) - 1
    return own._replace(refs=others[0], ref_labels=others[1], ref_modality=others[2], exclude=others[3])


def run_supcon(given: Setting, grad: Tensor) -> tuple[Tensor, ...]:
    """(loss, lse, positives, pull, grad_x, grad_refs)"""
    results = torch.ops.zsml.supcon(*given)
    flows = torch.ops.zsml.supcon_backward(grad, *given, *results[1:], True, given.refs is not None)
    return (*results, *flows)


def true_supcon(given: Setting, grad: Tensor) -> tuple[Tensor, ...]:
    x = given.x.double().requires_grad_()
    refs = None if given.refs is None else given.refs.double().requires_grad_()
    results = supcon(*given._replace(x=x, refs=refs))
    total = torch.where(results[0].isfinite(), results[0] * grad.double(), 0.0).sum()
    wanted = [x] if refs is None else [x, refs]
    flows = torch.autograd.grad(total, wanted, allow_unused=True)
    flows = [torch.zeros_like(t) if f is None else f.nan_to_num(0.0) for f, t in zip(flows, wanted, strict=True)]
    return (*(t.detach() for t in results), *flows)


def check_supcon(given: Setting, factor: float = 1.0) -> None:
    dtype = torch.float64 if given.x.dtype == torch.float64 else torch.float32
    grad = torch.rand(len(given.x), generator=torch.Generator().manual_seed(9), dtype=dtype) - 0.3
    ours, truth = run_supcon(given, grad), true_supcon(given, grad)
    assert torch.equal(ours[2], truth[2]), "positives"
    for name, a, b in zip(("loss", "lse", "positives", "pull", "grad_x", "grad_refs"), ours, truth, strict=False):
        narrow = TOLERANCE[given.x.dtype if name.startswith("grad") else dtype]
        agree(a, b, factor * narrow, name)


@pytest.mark.parametrize("rows", [1, 2, 13, 14, 15, 127, 129, 300])
@pytest.mark.parametrize("width", [1, 3, 123, 512])
@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_supcon_shapes(rows, width, classes):
    for pairs, per_pair, refs in itertools.product((ALL, WITHIN, CROSS), (False, True), (0, rows + 7)):
        check_supcon(batch(rows, width, classes, refs=refs, pairs=pairs, per_pair=per_pair))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("per_pair", [False, True])
@pytest.mark.parametrize("rows", [200, 1100])  # streamed, and in groups that meet once
def test_supcon_dtypes(dtype, per_pair, rows):
    for pairs, refs in ((ALL, 0), (WITHIN, 0), (CROSS, 0), (ALL, 600)):
        check_supcon(batch(rows, 20, 17, dtype, refs, pairs=pairs, per_pair=per_pair))


@pytest.mark.parametrize("classes", [1, 3, 10**6])
@pytest.mark.parametrize("per_pair", [False, True])
@pytest.mark.parametrize("rows", [1024, 1537])
def test_supcon_in_groups(classes, per_pair, rows):
    for pairs, temperature in itertools.product((ALL, WITHIN, CROSS), (0.5, 0.01)):  # 0.01: too far apart for one exponential
        check_supcon(batch(rows, 9, classes, torch.float64, pairs=pairs, per_pair=per_pair, temperature=temperature))


@pytest.mark.parametrize("per_pair", [False, True])
@pytest.mark.parametrize("temperature", [1e-3, 1e-4])
def test_supcon_large_logits(per_pair, temperature):
    check_supcon(batch(300, 16, 40, torch.float64, temperature=temperature, per_pair=per_pair))
    given = batch(300, 16, 40, refs=400, temperature=temperature, per_pair=per_pair)
    results = run_supcon(given, torch.ones(300))
    assert all(t.isfinite().all() for t in (results[0], *results[3:]))
    agree(results[0], true_supcon(given, torch.ones(300))[0], 1e-5, "loss")


@pytest.mark.parametrize("rows", [40, 1100])
@pytest.mark.parametrize("per_pair", [False, True])
def test_supcon_rows_that_are_not_finite(rows, per_pair):
    for refs in (0, rows):
        given = batch(rows, 5, 6, refs=refs, per_pair=per_pair)
        given.x[3, 2], given.x[rows - 1] = torch.nan, torch.inf
        if refs:
            given.refs[7, 0] = -torch.inf
        check_supcon(given)
        loss, *_, grad_x, grad_refs = run_supcon(given, torch.ones(rows))
        assert loss[3].isnan() and grad_x.isfinite().all() and (grad_x[3] == 0).all()
        assert not refs or (grad_refs[7] == 0).all()


@pytest.mark.parametrize("per_pair", [False, True])
def test_supcon_duplicates_and_empty_refs(per_pair):
    given = batch(64, 8, 4, per_pair=per_pair)
    check_supcon(given._replace(x=given.x[:1].repeat(64, 1)))
    check_supcon(given._replace(x=torch.zeros_like(given.x)))
    none = given._replace(refs=given.x[:0], ref_labels=given.labels[:0], ref_modality=given.labels[:0])
    loss, lse, positives, _, grad_x, grad_refs = run_supcon(none, torch.ones(64))
    assert (loss == 0).all() and (lse == -torch.inf).all() and (positives == 0).all() and (grad_x == 0).all()
    assert grad_refs.shape == (0, 8)


def run_margin(x, centers, labels, measure, scale, seed=0):
    """(others, target, grad_x, grad_centers)"""
    results = torch.ops.zsml.margin_softmax(x, centers, labels, measure, scale)
    grads = torch.rand(2, len(x), generator=torch.Generator().manual_seed(seed), dtype=results[0].dtype) - 0.3
    given = (*grads, x, centers, labels, *results, measure, scale, True, True)
    return grads, (*results, *torch.ops.zsml.margin_softmax_backward(*given))


def check_margin(x: Tensor, centers: Tensor, labels: Tensor, measure: int, scale: float, factor: float = 1.0) -> None:
    grads, ours = run_margin(x, centers, labels, measure, scale)
    a, b = x.double().requires_grad_(), centers.double().requires_grad_()
    truth = margin_softmax(a, b, labels, measure, scale)
    counts = ~truth[1].detach().isnan()
    total = sum(torch.where(counts & t.isfinite(), t * g.double(), 0.0).sum() for t, g in zip(truth, grads, strict=True))
    flows = torch.autograd.grad(total, (a, b))
    truth = (*(t.detach() for t in truth), *(f.nan_to_num(0.0) for f in flows))
    for name, got, true in zip(("others", "target", "grad_x", "grad_centers"), ours, truth, strict=True):
        narrow = TOLERANCE[x.dtype if name.startswith("grad") else got.dtype]
        agree(got, true, factor * narrow, name)


@pytest.mark.parametrize("measure", [INNER, SQUARED_DISTANCE, DISTANCE])
@pytest.mark.parametrize("rows", [1, 2, 13, 14, 15, 129])
@pytest.mark.parametrize("width", [1, 3, 123])
def test_margin_softmax_shapes(measure, rows, width):
    crowded = measure == DISTANCE and width <= 3  # centres so near that a distance is mostly the root of its rounding error
    dtype, factor = (torch.float64, 1e6) if crowded else (torch.float32, 5.0)
    for classes in (1, 2, 33, 1100):
        x = unit(rows, width + 1, dtype)[:, :width].contiguous()  # not of length 1: in one dimension all would be 1 or -1
        centers = unit(classes, width + 1, dtype, 1)[:, :width].contiguous()
        check_margin(x, centers, ids(rows, classes), measure, 4.0, factor)


@pytest.mark.parametrize("measure", [INNER, SQUARED_DISTANCE, DISTANCE])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_margin_softmax_dtypes(measure, dtype):
    check_margin(unit(50, 31, dtype), 2 * unit(70, 31, dtype, 1), ids(50, 70), measure, 1.5)


@pytest.mark.parametrize("measure", [SQUARED_DISTANCE, DISTANCE])
def test_margin_softmax_far_from_the_origin(measure):
    check_margin(unit(60, 24) + 100, unit(90, 24, seed=1) + 100, ids(60, 90), measure, 3.0, 2.0)


@pytest.mark.parametrize("measure", [INNER, SQUARED_DISTANCE, DISTANCE])
def test_margin_softmax_on_the_centre(measure):
    centers, labels = unit(20, 6, torch.float64), ids(30, 20)
    _, results = run_margin(centers[labels], centers, labels, measure, 2.0)
    assert all(t.isfinite().all() for t in results)
    if measure != INNER:
        assert (results[1] == 0).all()
    check_margin(centers[labels].float() + 1e-3 * unit(30, 6), centers.float(), labels, measure, 2.0, 5.0)


@pytest.mark.parametrize("measure", [INNER, SQUARED_DISTANCE, DISTANCE])
def test_margin_softmax_rows_that_are_not_finite(measure):
    x, centers, labels = unit(40, 5), unit(12, 5, seed=1), ids(40, 12)
    x[4, 1], centers[5, 0] = torch.inf, torch.nan
    check_margin(x, centers, labels, measure, 2.0, 2.0)
    _, (_, target, grad_x, grad_centers) = run_margin(x, centers, labels, measure, 2.0)
    assert torch.equal(target.isnan(), (labels == 5) | (torch.arange(40) == 4))
    assert (grad_x[4] == 0).all() and (grad_centers[5] == 0).all() and grad_centers.isfinite().all()


@pytest.mark.parametrize("label", [-1, 12])
def test_margin_softmax_refuses_unknown_labels(label):
    with pytest.raises(RuntimeError, match="labels must be rows of centers, 0 to 11"):
        torch.ops.zsml.margin_softmax(unit(1, 5), unit(12, 5), torch.tensor([label]), INNER, 1.0)


def everything() -> list[Tensor]:
    """Results of both ops at sizes with several blocks, strips and groups."""
    found: list[Tensor] = []
    for dtype, per_pair in itertools.product((torch.float32, torch.float64), (False, True)):
        grad = torch.ones(1500, dtype=dtype)
        found += run_supcon(batch(1500, 40, 60, dtype, per_pair=per_pair), grad)
        found += run_supcon(batch(1500, 40, 60, dtype, 2100, per_pair=per_pair, pairs=CROSS), grad)
    for measure in (INNER, SQUARED_DISTANCE, DISTANCE):
        found += run_margin(unit(100, 33), unit(2500, 33, seed=1), ids(100, 2500), measure, 2.0)[1]
    return found


def test_threads_make_no_difference():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything()
        for number in (2, 3, 16):
            torch.set_num_threads(number)
            assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(alone, everything(), strict=True))
    finally:
        torch.set_num_threads(threads)


VARIANT = """
import sys, zsml, torch
sys.path.insert(0, sys.argv[1])
import test_pair_softmax_kernels as t
print(zsml.info()["cpu_instructions"])
for a, b in zip(t.everything(), torch.load(sys.argv[2]), strict=True):
    t.agree(a, b.double(), 1e-10 if a.dtype == torch.float64 else 5e-5, "result")
t.test_supcon_shapes(29, 19, 5)
t.test_margin_softmax_shapes(t.DISTANCE, 29, 19)
t.test_supcon_in_groups(3, True, 1100)
"""


@pytest.mark.parametrize("name", ["portable", "avx2", "avx512"])
def test_every_instruction_set(name, tmp_path):
    names = ("portable", "avx2", "avx512", "avx512_vpopcnt")
    if names.index(zsml.info()["cpu_instructions"]) < names.index(name):
        pytest.skip(f"this machine has no {name}")
    torch.save(everything(), tmp_path / "results.pt")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ZSML_ISA": name}
    command = [sys.executable, "-c", VARIANT, str(Path(__file__).parent), str(tmp_path / "results.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0] == name


MEMORY = """
import resource, torch, zsml, zsml.ops.supcon, zsml.ops.margin_softmax
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def supcon(n, d):
    x, labels = torch.randn(n, d), torch.arange(n) % 500
    given = (labels, labels, None, None, None, None, 0.5, 0, True)
    results = torch.ops.zsml.supcon(x, *given)
    torch.ops.zsml.supcon_backward(torch.ones(n), x, *given, *results[1:], True, False)
def margin(b, c, d):
    x, centers, labels, one = torch.randn(b, d), torch.randn(c, d), torch.arange(b), torch.ones(b)
    results = torch.ops.zsml.margin_softmax(x, centers, labels, 1, 1.0)
    torch.ops.zsml.margin_softmax_backward(one, one, x, centers, labels, *results, 1, 1.0, True, True)
supcon(1100, 8), margin(8, 1100, 8)
before = peak()
supcon(12000, 8)  # its matrix would take 549 MiB
margin(512, 200000, 8)  # 390 MiB
print(peak() - before)
"""


def test_memory():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 120
