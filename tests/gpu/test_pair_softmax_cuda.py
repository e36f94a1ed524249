"""On a GPU: supcon and margin_softmax against the CPU in float64, values and gradients; graphs, streams, memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zsml.ops.margin_softmax import margin_softmax
from zsml.ops.supcon import supcon

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 2e-5, torch.float64: 1e-11}  # of the largest value


def draw_rows(count: int, width: int, dtype: torch.dtype, seed: int, broken: bool = False) -> Tensor:
    """Unit rows; some with a NaN or an infinity in them where asked for."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1).to(dtype)
    if broken:
        rows[::7, 0], rows[3::11, -1] = torch.nan, -torch.inf
    return rows


def draw_ids(count: int, values: int, seed: int) -> Tensor:
    return torch.randint(0, values, (count,), generator=torch.Generator().manual_seed(seed))


def on_cpu(op: Callable, rows: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return differentiate(op, [t.double() for t in rows], "cpu")


def differentiate(op: Callable, rows: list[Tensor], device: str) -> tuple[list[Tensor], list[Tensor]]:
    """The results of op(*rows, device) and the gradients of a weighted sum of them."""
    leaves = [t.to(device).requires_grad_() for t in rows]
    results = [r for r in op(*leaves, device) if r.is_floating_point()]
    weights = torch.linspace(-1, 1, len(results[0]), dtype=torch.float64).to(device)
    total = sum((torch.where(r.isfinite(), r, 0) * weights.to(r.dtype)).sum() for r in results)
    return [r.detach().cpu() for r in results], [g.cpu() for g in torch.autograd.grad(total, leaves)]


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        finite = theirs.isfinite()
        assert torch.equal(torch.where(finite, 0, theirs).nan_to_num(), torch.where(finite, 0, ours.double()).nan_to_num())
        size = theirs[finite].abs().max().item() if finite.any() else 0
        torch.testing.assert_close(ours.double()[finite], theirs[finite], rtol=0, atol=tolerance * (size + 1e-3))


def supcon_on(labels: Tensor, modality: Tensor, count: int, options: dict) -> Callable:
    def op(x: Tensor, *rest) -> list[Tensor]:
        refs, device = rest if len(rest) == 2 else (None, rest[0])
        more = {}
        if refs is not None:
            more = {
                "refs": refs,
                "ref_labels": draw_ids(count, 9, 5).to(device),
                "ref_modality": draw_ids(count, 2, 6).to(device),
            }
            more["exclude"] = draw_ids(len(labels), count, 7).to(device)
        return list(supcon(x, labels.to(device), modality.to(device), **options, **more))

    return op


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_pair", [False, True])
@pytest.mark.parametrize("pairs", ["all", "within", "cross"])
def test_supcon_agrees_with_the_cpu(dtype: torch.dtype, per_pair: bool, pairs: str) -> None:
    for rows, width, count in [(1, 3, None), (129, 1, None), (120, 512, None), (2500, 20, None), (130, 33, 40_000), (3, 8, 1)]:
        broken = width != 1
        x = [draw_rows(rows, width, dtype, 1, broken)] + ([draw_rows(count, width, dtype, 2, broken)] if count else [])
        op = supcon_on(
            draw_ids(rows, 9, 3), draw_ids(rows, 2, 4), count or 0, {"pairs": pairs, "per_pair": per_pair, "temperature": 0.2}
        )
        values, gradients = differentiate(op, x, "cuda")
        expected, expected_gradients = on_cpu(op, x)
        assert values[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert_close(values, expected, 1e-11 if dtype == torch.float64 else 2e-5)
        assert_close(gradients, expected_gradients, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("measure", "far"),  # from the origin: the products of a distance would cancel there
    [("inner", 0), ("squared_distance", 0), ("distance", 0), ("squared_distance", 8), ("distance", 8)],
)
def test_margin_softmax_agrees_with_the_cpu(dtype: torch.dtype, measure: str, far: float) -> None:
    for rows, classes, width in [(1, 1, 3), (120, 125, 512), (2500, 2100, 20), (33, 40_000, 16), (300, 2, 3)]:
        broken = classes > 8
        labels = draw_ids(rows, classes, 3)

        def op(x: Tensor, centers: Tensor, device: str, labels: Tensor = labels) -> list[Tensor]:
            return list(margin_softmax(x, centers, labels.to(device), measure=measure, scale=4.0))

        x = [draw_rows(rows, width, dtype, 1, broken) + far, draw_rows(classes, width, dtype, 2, broken) + far]
        values, gradients = differentiate(op, x, "cuda")
        expected, expected_gradients = on_cpu(op, x)
        assert_close(values, expected, 1e-10 if dtype == torch.float64 else 1e-4)
        assert_close(gradients, expected_gradients, 10 * TOLERANCE[dtype])


def test_a_label_out_of_range_has_no_target() -> None:
    x, centers = draw_rows(4, 8, torch.float32, 1).cuda().requires_grad_(), draw_rows(5, 8, torch.float32, 2).cuda()
    others, target = margin_softmax(x, centers, torch.tensor([0, -1, 5, 4]).cuda())
    assert target.isnan().tolist() == [False, True, True, False] and others.isfinite().all()
    (grad,) = torch.autograd.grad((others + target).sum(), x)
    assert grad.isfinite().all() and (grad[1:3] == 0).all() and (grad[0] != 0).any()


def loss_and_gradients(x: Tensor, centers: Tensor, labels: Tensor) -> list[Tensor]:
    loss = (
        supcon(x, labels, per_pair=True).loss.mean()
        + supcon(x, labels, temperature=1.0, refs=centers, ref_labels=labels[:90]).loss.mean()
    )
    others, target = margin_softmax(x, centers, labels, measure="distance")
    loss = loss + torch.nn.functional.softplus(others + target).mean()
    return [loss.detach(), *torch.autograd.grad(loss, [x, centers])]


def batch(seed: int) -> list[Tensor]:
    x, centers = draw_rows(2300, 24, torch.float32, seed).cuda(), draw_rows(90, 24, torch.float32, seed + 1).cuda()
    return [x.requires_grad_(), centers.requires_grad_(), draw_ids(2300, 90, seed).cuda()]


def test_graph_and_stream() -> None:
    """Captured once, replayed on another batch; and run where torch's stream is not the default one."""
    x, centers, labels = batch(1)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        first = loss_and_gradients(x, centers, labels)
    torch.cuda.current_stream().wait_stream(stream)
    for ours, theirs in zip(first, loss_and_gradients(x, centers, labels), strict=True):
        torch.testing.assert_close(ours, theirs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss_and_gradients(x, centers, labels)
    other = batch(2)
    with torch.no_grad():
        for ours, theirs in zip((x, centers, labels), other, strict=True):
            ours.copy_(theirs)
    graph.replay()
    for ours, theirs in zip(captured, loss_and_gradients(*other), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_autocast_changes_nothing_and_every_run_is_the_same() -> None:
    expected = loss_and_gradients(*batch(3))
    for dtype in (None, torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype=dtype or torch.float16, enabled=dtype is not None):
            again = loss_and_gradients(*batch(3))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, expected, strict=True))


def test_memory() -> None:
    """No matrix of all pairs: that of these anchors would take 1 GiB, that of these centres 2."""
    x, labels = draw_rows(16_384, 16, torch.float32, 1).cuda().requires_grad_(), draw_ids(16_384, 50, 2).cuda()
    centers = draw_rows(500_000, 16, torch.float32, 3).cuda().requires_grad_()
    for op in (
        lambda: supcon(x, labels, per_pair=True).loss.sum(),
        lambda: sum(margin_softmax(x[:1024], centers, labels[:1024])).sum(),
    ):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        op().backward()
        x.grad = centers.grad = None
        assert torch.cuda.max_memory_allocated() - before < 192 << 20
