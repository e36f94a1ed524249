"""What every registered op promises: one loop over all of torch.ops.zsml, so that a new op cannot be forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contract_samples import DIFFERENTIABLE, LARGE, NEVER_EMPTY, NO_LARGE_RUN, SAMPLES, VALUE_DEPENDENT_SIZE
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.checkpoint import checkpoint

import zsml.ops.rank_relevant  # noqa: F401  (registers the ops, with those of zsml.ops)

REPOSITORY = Path(__file__).resolve().parents[2]


def registered() -> list[str]:
    """Every zsml op that takes a tensor."""
    found = []
    for qualified in torch._C._dispatch_get_all_op_names():
        namespace, _, name = qualified.partition("::")
        if namespace == "zsml":
            schema = getattr(torch.ops.zsml, name).default._schema
            if any("Tensor" in str(argument.type) for argument in schema.arguments):
                found.append(name)
    return sorted(found)


CASES = [pytest.param(name, sample, id=f"{name}-{sample}") for name in registered() for sample in SAMPLES.get(name, ())]
every_sample = pytest.mark.parametrize(("name", "sample"), CASES)
every_gradient = pytest.mark.parametrize(("name", "sample"), [case for case in CASES if case.values[0] in DIFFERENTIABLE])


def arguments(name: str, sample: str, device: torch.device, grad: bool = False) -> tuple:
    """Fresh tensors on a device, strides kept, with gradients wanted where they can be had."""

    def fresh(t: object) -> object:
        if not isinstance(t, Tensor):
            return t
        moved = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device).copy_(t)
        return moved.requires_grad_(grad and name in DIFFERENTIABLE and t.is_floating_point())

    return tuple(fresh(t) for t in SAMPLES[name][sample])


def op(name: str):
    return getattr(torch.ops.zsml, name).default


def outputs(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def same(ours: object, expected: object) -> bool:
    pairs = zip(outputs(ours), outputs(expected), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in pairs)


def gradients(result: object, inputs: tuple, scale: float = 1.0) -> list[Tensor]:
    """Of the finite floating-point outputs, with respect to all that wants one."""
    wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
    total = scale * sum(torch.where(t.isfinite(), t, 0).sum() for t in outputs(result) if t.requires_grad)
    return list(torch.autograd.grad(total, wanted)) if wanted else []


def test_every_op_has_samples():
    assert set(SAMPLES) <= set(registered())
    for name in registered():
        assert name in SAMPLES, f"zsml::{name} is registered: add samples of its arguments to SAMPLES in contract_samples.py"
        needed = {"not contiguous"} if name in NEVER_EMPTY else {"empty", "not contiguous"}
        assert needed <= set(SAMPLES[name]), f"SAMPLES[{name!r}] lacks an empty or a non-contiguous one"
        assert not any(t.is_contiguous() for t in SAMPLES[name]["not contiguous"] if isinstance(t, Tensor) and t.dim())


@every_sample
def test_opcheck(device, name, sample):
    torch.library.opcheck(op(name), arguments(name, sample, device, grad=True))


@every_sample
def test_layout_makes_no_difference(device, name, sample):
    given = arguments(name, sample, device)
    contiguous = tuple(t.contiguous() if isinstance(t, Tensor) else t for t in given)
    assert same(op(name)(*given), op(name)(*contiguous))
    assert all(t.is_contiguous() for t in outputs(op(name)(*given)))


# A result whose length depends on values ends the graph unless asked not to.
whole_graph = torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)


@every_sample
@whole_graph
def test_compiles_into_one_graph(device, name, sample):
    torch.compiler.reset()
    compiled = torch.compile(lambda *inputs: op(name)(*inputs), fullgraph=True, backend="aot_eager")
    inputs, eager = arguments(name, sample, device, grad=True), arguments(name, sample, device, grad=True)
    result, expected = compiled(*inputs), op(name)(*eager)
    assert same(result, expected)
    for ours, other in zip(gradients(result, inputs), gradients(expected, eager), strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("name", registered())
@whole_graph
def test_compiles_with_inductor(device, name):
    torch.compiler.reset()
    compiled = torch.compile(lambda *inputs: op(name)(*inputs), fullgraph=True)
    inputs = arguments(name, "not contiguous", device)
    assert same(compiled(*inputs), op(name)(*inputs))


@every_sample
def test_exports(device, name, sample):
    class Module(torch.nn.Module):
        def forward(self, *inputs):
            return op(name)(*inputs)

    inputs = arguments(name, sample, device)
    program = torch.export.export(Module(), inputs)
    assert any(node.target is op(name) for node in program.graph.nodes)
    assert same(program.module()(*inputs), op(name)(*inputs))


@every_sample
def test_autocast_changes_nothing(device, name, sample):
    expected = op(name)(*arguments(name, sample, device))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        inputs = arguments(name, sample, device, grad=True)
        result = op(name)(*inputs)
    assert same(result, expected)
    assert all(t.isfinite().all() for t in gradients(result, inputs))


@every_sample
def test_deterministic_and_nothing_uninitialised(device, name, sample):
    """Deterministic mode fills torch.empty with NaN (and the largest integer): an unwritten element would show."""
    plain = op(name)(*arguments(name, sample, device))
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        seen = []
        for _ in range(3):
            inputs = arguments(name, sample, device, grad=True)
            result = op(name)(*inputs)
            seen.append((outputs(result), gradients(result, inputs)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(seen[0][0], plain) and not any(t.isnan().any() for t in seen[0][0] + seen[0][1] if t.is_floating_point())
    for results, found in seen[1:]:
        assert same(results, seen[0][0]) and all(torch.equal(a, b) for a, b in zip(found, seen[0][1], strict=True))


@every_gradient
def test_checkpointing_gives_the_same_gradients(device, name, sample):
    """The forward pass is run again for the backward pass, on the same inputs: gradients have the same bits."""
    inputs, again = arguments(name, sample, device, grad=True), arguments(name, sample, device, grad=True)
    plain, recomputed = op(name)(*inputs), checkpoint(op(name), *again, use_reentrant=False)
    assert same(plain, recomputed)
    for ours, expected in zip(gradients(recomputed, again), gradients(plain, inputs), strict=True):
        assert torch.equal(ours, expected)


@every_gradient
@pytest.mark.parametrize("half", [False, True], ids=["as given", "half"])
def test_scaled_losses_have_proportional_gradients(device, name, sample, half):
    """Gradients of a loss of the usual size, times 65536 as GradScaler does it, neither overflow nor lose anything to half."""
    loss_scale, mean = 65536.0, 2.0**-12
    inputs = arguments(name, sample, device)
    if half:
        inputs = tuple(t.half() if isinstance(t, Tensor) and t.is_floating_point() else t for t in inputs)
    wide = tuple(t.float() if isinstance(t, Tensor) and t.dtype == torch.float16 else t for t in inputs)
    for t in (*inputs, *wide):
        if isinstance(t, Tensor) and t.is_floating_point():
            t.requires_grad_()
    expected = gradients(op(name)(*wide), wide, mean)
    for scaled, right in zip(gradients(op(name)(*inputs), inputs, mean * loss_scale), expected, strict=True):
        assert scaled.isfinite().all()
        allowed = 4 * torch.finfo(scaled.dtype).eps
        torch.testing.assert_close(
            scaled.to(right.dtype) / loss_scale,
            right,
            rtol=allowed,
            atol=allowed * float(right.abs().amax() if len(right) else 0),
        )


@every_sample
def test_fake_tensors_have_the_shapes(name, sample):
    inputs = arguments(name, sample, torch.device("cpu"))
    real = op(name)(*inputs)
    if name in VALUE_DEPENDENT_SIZE:
        with FakeTensorMode(shape_env=ShapeEnv()) as mode:
            fake = op(name)(*(mode.from_tensor(t) if isinstance(t, Tensor) else t for t in inputs))
        assert fake.dtype == real.dtype and fake.shape[:-1] == real.shape[:-1] and isinstance(fake.shape[-1], torch.SymInt)
        assert fake.is_contiguous()
        return
    fake = op(name)(*(t.to("meta") if isinstance(t, Tensor) else t for t in inputs))
    for ours, other in zip(outputs(fake), outputs(real), strict=True):
        assert ours.shape == other.shape and ours.dtype == other.dtype and ours.stride() == other.stride()


# ---- memory ------------------------------------------------------------------------------------------------------------------

LARGE_BATCH = 16384  # a matrix of pairs is 1 GiB of float32, or 256 MiB of bool
ALLOWED = 48  # MiB
# The stand-in holds a fixed number of distances at a time, as 8-byte keys, in several temporaries: half a byte per pair here.
ALLOWED_PLAIN = {"hamming_topk": 128}

MEASURE = """
import resource, sys, textwrap, torch, zsml.ops.rank_relevant
torch.set_num_threads(1)
exec(textwrap.dedent(sys.argv[1]))
work(64)  # the first run of anything in torch takes memory that later ones do not
def status(key):  # bytes
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))
before, limit = status("VmRSS"), status("VmData") + (512 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # a matrix of floats fails at once, rather than fill the machine
work(int(sys.argv[2]))
print((status("VmHWM") - before) / 2**20)
"""


def peak_growth(statements: str, kernels: bool) -> float:
    """MiB by which the peak resident memory of a fresh process grew."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ZSML_DISABLE_KERNELS": str(int(not kernels))}
    command = [sys.executable, "-c", MEASURE, statements, str(LARGE_BATCH)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status")


@needs_proc
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "plain torch"])
@pytest.mark.parametrize("name", sorted(set(registered()) - set(NO_LARGE_RUN)))
def test_no_matrix_of_pairs_in_memory(name, kernels):
    assert name in LARGE, f"zsml::{name} is registered: add a large run of it to LARGE in contract_samples.py"
    assert peak_growth(LARGE[name], kernels) < (ALLOWED if kernels else ALLOWED_PLAIN.get(name, ALLOWED))


@needs_proc
def test_a_matrix_of_pairs_would_be_seen():
    """The yardstick works: one byte per pair, the most frugal the dense way can be, is far over what is allowed."""
    dense = "def work(n):\n    x = torch.zeros(n, 1)\n    (x == x.T).any()\n"
    assert peak_growth(dense, kernels=False) > 4 * ALLOWED
