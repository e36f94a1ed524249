"""The public hardest_pairs inside torch.compile, torch.export, autocast and a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zsml import _ext
from zsml.ops import WITHIN_NEG, WITHIN_POS, hardest_pairs


def embeddings(count: int, device: torch.device, seed: int = 0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).to(device)


def ids(count: int, classes: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device) % classes


def triplet(x: Tensor, labels: Tensor, modality: Tensor | None = None, **options: Tensor) -> Tensor:
    """What a loss does with the op, before and after it."""
    distance, index = hardest_pairs(torch.nn.functional.normalize(x, dim=1), labels, modality, **options)
    return torch.relu(distance[WITHIN_POS] - distance[WITHIN_NEG] + 0.2).mean() + 0 * index.sum()


@pytest.mark.parametrize("given", ["labels", "modality", "refs", "refs and modality", "exclude"])
def test_one_graph(device, given):
    """fullgraph=True raises at anything that leaves the graph, a check that reads values among them."""
    torch.compiler.reset()
    options = {}
    if given in ("modality", "refs and modality"):
        options["modality"] = ids(9, 2, device)
    if given not in ("labels", "modality"):
        options |= {"refs": embeddings(12, device, 1).requires_grad_(), "ref_labels": ids(12, 3, device)}
    if given == "refs and modality":
        options["ref_modality"] = ids(12, 2, device)
    if given == "exclude":
        options["exclude"] = ids(9, 5, device) - 1
    results = []
    for function in (triplet, torch.compile(triplet, fullgraph=True, backend="aot_eager")):
        x = embeddings(9, device).requires_grad_()
        loss = function(x, ids(9, 3, device), **options)
        results.append([loss, *torch.autograd.grad(loss, [x, *(t for name, t in options.items() if name == "refs")])])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


def test_one_graph_for_every_batch_size(device):
    """After the first change of size, the last batch of an epoch needs no new graph."""
    torch.compiler.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(triplet, fullgraph=True, backend=graphs, dynamic=True)
    for count in (8, 11, 30, 7):
        x, labels, modality = embeddings(count, device), ids(count, 3, device), ids(count, 2, device)
        torch.testing.assert_close(compiled(x, labels, modality), triplet(x, labels, modality))
    assert graphs.frame_count == 1


def test_a_changed_matmul_precision_is_noticed(device):
    torch.compiler.reset()
    seen = []

    def backend(graph, inputs):
        nodes = [node for node in graph.graph.nodes if "hardest_pairs" in str(node.target)]
        seen.append([node.args[-1] for node in nodes])
        return graph.forward

    compiled = torch.compile(lambda x, labels: hardest_pairs(x, labels)[0], fullgraph=True, backend=backend)
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            compiled(embeddings(5, device), ids(5, 2, device))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [[0], [1]]


def test_exports_with_any_batch_size(device):
    class Module(torch.nn.Module):
        def forward(self, x, labels, modality):
            return hardest_pairs(x, labels, modality)

    size = torch.export.Dim("B", min=2, max=4096)
    inputs = (embeddings(9, device), ids(9, 3, device), ids(9, 2, device))
    program = torch.export.export(Module(), inputs, dynamic_shapes=({0: size}, {0: size}, {0: size}))
    inputs = (embeddings(31, device), ids(31, 3, device), ids(31, 2, device))
    for ours, expected in zip(program.module()(*inputs), hardest_pairs(*inputs), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast(device, dtype):
    """Half-precision embeddings out of a layer, float32 ones out of a memory bank: float32 distances, gradients to both."""
    layer = torch.nn.Linear(6, 6).to(device)
    bank = embeddings(12, device, 1).requires_grad_()
    with torch.autocast(device.type, dtype=dtype):
        x = layer(embeddings(9, device))
        assert x.dtype == dtype
        alone = hardest_pairs(x, ids(9, 3, device))
        mixed = hardest_pairs(x, ids(9, 3, device), refs=bank, ref_labels=ids(12, 3, device))
    outside = hardest_pairs(x.detach(), ids(9, 3, device))
    assert torch.equal(alone.index, outside.index) and torch.equal(alone.distance, outside.distance)
    assert alone.distance.dtype == mixed.distance.dtype == torch.float32
    (alone.distance[:2].sum() + mixed.distance[:2].sum()).backward()
    assert layer.weight.grad.dtype == bank.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.any() and bank.grad.any()


@pytest.mark.skipif(not torch.cuda.is_available() or _ext.cuda_reason is not None, reason="needs a GPU and its kernels")
@pytest.mark.parametrize("count", [100, 3000])
def test_cuda_graph(count):
    """Captured once, replayed on other values; forward and backward."""
    cuda = torch.device("cuda")
    x = embeddings(count, cuda).requires_grad_()
    labels, modality = ids(count, 20, cuda), ids(count, 2, cuda)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(triplet(x, labels, modality), x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = triplet(x, labels, modality)
        (gradient,) = torch.autograd.grad(loss, x)
    with torch.no_grad():
        x.copy_(embeddings(count, cuda, 5))
    graph.replay()
    expected = triplet(x, labels, modality)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0])
