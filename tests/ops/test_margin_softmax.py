"""margin_softmax against its definition in float64: values, gradients, what does not count, and properties it must have."""

from __future__ import annotations

import pytest
import torch
from adversarial import ADVERSARIAL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pair_softmax_oracle import assert_within, to_centers
from test_hardest_pairs_input import check_message

from zsml.errors import InputError
from zsml.ops import margin_softmax

MEASURES = ("inner", "squared_distance", "distance")
SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
# As for supcon, beyond 1e19 squares are infinite in float32.
CASES = [case for case in ADVERSARIAL if case.refs != 0 and case.values not in ("huge", "outlier")]


def rows(count: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def longest(t: torch.Tensor) -> float:
    finite = t[t.isfinite().all(dim=1)].detach().double()
    return finite.norm(dim=1).max().item() if len(finite) else 0.0


def check(x: torch.Tensor, centers: torch.Tensor, labels: torch.Tensor, measure: str, scale: float) -> None:
    """Value and gradient, to a few roundings of the squared lengths (a distance: of the lengths, or where it is small a root)."""
    ours = [t.detach().clone().requires_grad_() for t in (x, centers)]
    truth = [t.detach().cpu().double().clone().requires_grad_() for t in (x, centers)]
    result = margin_softmax(*ours, labels, measure=measure, scale=scale)
    expected = to_centers(*truth, labels.cpu(), measure, scale)
    accumulate = torch.float64 if x.dtype == torch.float64 else torch.float32
    assert all(t.dtype == accumulate for t in result)
    eps = torch.finfo(accumulate).eps
    squared = scale * (longest(x) + longest(centers)) ** 2
    root = max(8, x.shape[1] ** 0.5)
    accuracy = root * eps * (1 + squared)
    if measure == "distance":  # the search adds eps of the squared lengths before it takes the root
        accuracy = root * eps + 2 * scale * (longest(x) + longest(centers)) * eps**0.5
    assert_within(result.others, expected[0], accuracy, "others")
    target_accuracy = (root + 2) * eps * (expected[1].detach().abs() + (squared / scale if measure == "inner" else 0))
    assert_within(result.target, expected[1], target_accuracy + torch.finfo(accumulate).tiny, "target")

    kept = torch.stack(expected).isfinite().all(dim=0)  # one class alone has no others
    weights = torch.linspace(-1, 1, len(x), dtype=torch.float64), torch.linspace(2, 1, len(x), dtype=torch.float64)
    torch.autograd.backward([torch.where(kept, t, 0) @ w for t, w in zip(expected, weights, strict=True)])
    lost = torch.stack(expected).isnan().any(dim=0)
    grads = [torch.where(lost, torch.nan, torch.where(kept, w, 0)).to(t) for t, w in zip(result, weights, strict=True)]
    torch.autograd.backward(list(result), grads)
    for t, right, other in zip(ours, truth, (centers, x), strict=True):
        assert t.grad.dtype == t.dtype
        slope = {"inner": scale * longest(other), "squared_distance": 2 * scale * (longest(x) + longest(centers))}
        size = slope.get(measure, scale) * (1 if t is ours[0] else len(x)) + 2 * (1 + longest(x) + longest(centers)) * len(x)
        allowed = 8 * accuracy * size + torch.finfo(t.dtype).eps * right.grad.abs()
        assert_within(t.grad, right.grad, allowed, "gradient")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_adversarial_batches(device, case):
    batch = case.build(torch.float32, device)
    centers = batch.x.flip(0) if batch.refs is None else batch.refs
    labels = torch.arange(len(batch.x), device=device) % len(centers)
    scale = 10 / max(1.0, longest(batch.x), longest(centers)) ** 2
    for measure in MEASURES[:2]:
        check(batch.x, centers, labels, measure, scale)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("classes", [1, 2, 7, 300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_measure(device, dtype, classes, measure):
    x, centers = rows(37, 19, 0, dtype).to(device), rows(classes, 19, 1, dtype).to(device)
    check(x, centers, torch.arange(37, device=device) % classes, measure, 0.5)


@pytest.mark.parametrize("measure", MEASURES)
def test_gradient_by_differences(device, measure):
    x, centers = rows(5, 3, 0).to(device).requires_grad_(), rows(4, 3, 1).to(device).requires_grad_()
    labels = torch.tensor([0, 3, 1, 1, 2], device=device)
    assert torch.autograd.gradcheck(lambda x, c: margin_softmax(x, c, labels, measure=measure, scale=0.7), (x, centers))


@pytest.mark.parametrize("measure", MEASURES)
def test_gradient_of_one_side_or_one_result(device, measure):
    x, centers = rows(9, 5, 0, torch.float32).to(device), rows(4, 5, 1, torch.float32).to(device)
    labels = torch.arange(9, device=device) % 4
    both = [x.clone().requires_grad_(), centers.clone().requires_grad_()]
    others, target = margin_softmax(*both, labels, measure=measure)
    (others.sum() + 3 * target.sum()).backward()
    for side in range(2):
        given = [x, centers]
        given[side] = given[side].clone().requires_grad_()
        for name, factor in (("others", 1), ("target", 3)):
            (factor * getattr(margin_softmax(*given, labels, measure=measure), name).sum()).backward()
        torch.testing.assert_close(given[side].grad, both[side].grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("measure", MEASURES[1:])
def test_samples_on_their_centres(device, measure):
    """A target distance does not cancel, however long the rows; at 0 it has no gradient."""
    centers = (1000 + rows(6, 16, 0)).float().to(device)
    labels = torch.arange(6, device=device)
    x = centers.clone()
    x[3:, 0] += 2.0**-10
    x.requires_grad_()
    target = margin_softmax(x, centers, labels, measure=measure, scale=1e-3).target
    away = 2.0**-20 if measure == "squared_distance" else 2.0**-10
    assert target.tolist() == [0, 0, 0, away, away, away]
    (grad,) = torch.autograd.grad(target.sum(), x)
    assert not grad[:3].any() and not grad[3:, 1:].any()
    assert grad[3:, 0].tolist() == [2.0**-9 if measure == "squared_distance" else 1.0] * 3


@pytest.mark.parametrize("measure", MEASURES)
def test_rows_that_are_not_finite(device, measure):
    x, centers = rows(6, 4, 0, torch.float32).to(device), rows(5, 4, 1, torch.float32).to(device)
    x[1, 2], centers[3, 0] = torch.nan, torch.inf
    x.requires_grad_()
    centers.requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 4, 0], device=device)
    others, target = margin_softmax(x, centers, labels, measure=measure)
    assert others.isnan().tolist() == [False, True, False, False, False, False]
    assert target.isnan().tolist() == [False, True, False, True, False, False]
    torch.nn.functional.softplus(others - target).sum().backward()  # NaN, as it must be seen
    assert x.grad.isfinite().all() and centers.grad.isfinite().all()
    assert not x.grad[[1, 3]].any() and not centers.grad[3].any() and x.grad[[0, 2, 4, 5]].any(dim=1).all()


def test_no_second_derivative_and_no_forward_mode(device):
    x, centers = rows(3, 2, 0).to(device).requires_grad_(), rows(2, 2, 1).to(device)
    labels = torch.tensor([0, 1, 1], device=device)
    (grad,) = torch.autograd.grad(margin_softmax(x, centers, labels).others.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="margin_softmax has no second derivative"):
        grad.sum().backward()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="margin_softmax has no forward-mode"):
        margin_softmax(torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x)), centers, labels)


# ---- properties ----------------------------------------------------------------------------------------------------------------


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    count, classes, width = draw(st.integers(1, 9)), draw(st.integers(1, 20)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x, centers = (torch.randint(-3, 4, (n, width), generator=generator).double() for n in (count, classes))
    return x, centers, torch.randint(0, classes, (count,), generator=generator)


@given(batch=batches(), measure=st.sampled_from(MEASURES), seed=st.integers(0, 99))
@SETTINGS
def test_what_makes_no_difference(device, batch, measure, seed):
    x, centers, labels = (t.to(device) for t in batch)
    plain = margin_softmax(x, centers, labels, measure=measure, scale=0.5)
    close = {"rtol": 1e-6, "atol": 1e-6} if measure == "distance" else {"rtol": 1e-9, "atol": 1e-9}

    def same(*arguments, scale: float = 0.5):
        for ours, other in zip(margin_softmax(*arguments, measure=measure, scale=scale), plain, strict=True):
            torch.testing.assert_close(ours, other, **close)

    order = torch.randperm(len(centers), generator=torch.Generator().manual_seed(seed)).to(device)
    same(x, centers[order], order.argsort()[labels])  # the order of classes
    turned = torch.arange(len(x) - 1, -1, -1, device=device)
    flipped = margin_softmax(x[turned], centers, labels[turned], measure=measure, scale=0.5)
    for ours, other in zip(flipped, plain, strict=True):
        torch.testing.assert_close(ours[turned], other, **close)  # the order of samples
    if measure != "inner":
        same(x + 3, centers + 3, labels)  # where the origin is
    torch.testing.assert_close(
        margin_softmax(4 * x, 4 * centers, labels, measure=measure, scale=0.125 if measure == "distance" else 0.5 / 16).others,
        plain.others,
        **close,
    )  # the unit of length
    mirrored = x * torch.tensor([-1.0] + [1.0] * (x.shape[1] - 1), device=device)
    same(mirrored, centers * torch.tensor([-1.0] + [1.0] * (x.shape[1] - 1), device=device), labels)


@given(batch=batches(), measure=st.sampled_from(MEASURES))
@SETTINGS
def test_it_is_the_cross_entropy(device, batch, measure):
    """softplus(others - z of the target) without a margin is torch's cross-entropy of the logits."""
    x, centers, labels = (t.to(device) for t in batch)
    others, target = margin_softmax(x, centers, labels, measure=measure, scale=0.5)
    m = x @ centers.T if measure == "inner" else (x[:, None] - centers).square().sum(dim=2)
    m = m.sqrt() if measure == "distance" else m
    sign = 0.5 if measure == "inner" else -0.5
    expected = torch.nn.functional.cross_entropy(sign * m, labels, reduction="none")
    ours = torch.nn.functional.softplus(others - sign * target, threshold=40)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


# ---- bad input -----------------------------------------------------------------------------------------------------------------

B, C, D = 5, 7, 3


@pytest.mark.parametrize(
    ("name", "value", "kind", "words"),
    [
        ("x", [[1.0]], TypeError, ["torch.Tensor", "list"]),
        ("x", torch.zeros(B, D).long(), TypeError, ["float32", "torch.int64"]),
        ("x", torch.zeros(B, D).to_sparse(), TypeError, ["dense"]),
        ("x", torch.zeros(B), InputError, ["[rows, D]", "[5]"]),
        ("x", torch.zeros(0, D), InputError, ["empty", "[0, 3]"]),
        ("x", torch.zeros(B, 0), InputError, ["column", "[5, 0]"]),
        ("centers", None, TypeError, ["torch.Tensor", "NoneType"]),
        ("centers", torch.zeros(C, D).int(), TypeError, ["float32", "torch.int32"]),
        ("centers", torch.zeros(C), InputError, ["[rows, D]", "[7]"]),
        ("centers", torch.zeros(0, D), InputError, ["at least one row", "[0, 3]"]),
        ("centers", torch.zeros(C, D + 1), InputError, ["width of x, 3", "[7, 4]"]),
        ("centers", torch.zeros(C, D, device="meta"), InputError, ["meta", "cpu", "move it there"]),
        ("labels", [0] * B, TypeError, ["int64 tensor [5]", "list"]),
        ("labels", torch.zeros(B), TypeError, ["int64", "torch.float32", ".long()"]),
        ("labels", torch.zeros(B + 1).long(), InputError, ["[5]", "[6]"]),
        ("labels", torch.zeros(B, 1).long(), InputError, ["[5]", "[5, 1]"]),
        ("labels", torch.full((B,), C), InputError, ["0 to 6", "7 to 7"]),
        ("labels", torch.arange(B) - 1, InputError, ["0 to 6", "-1 to 3"]),
        ("labels", torch.full((B,), 2**62), InputError, ["0 to 6", str(2**62)]),
        ("measure", "cosine", InputError, ["inner", "squared_distance", "cosine"]),
        ("measure", 1, InputError, ["inner", "got 1"]),
        ("scale", 0, InputError, ["positive number", "got 0"]),
        ("scale", float("nan"), InputError, ["positive number", "nan"]),
        ("scale", "large", InputError, ["positive number", "large"]),
    ],
)
def test_bad_arguments(name, value, kind, words):
    with pytest.raises(kind) as error:
        margin_softmax(**({"x": torch.zeros(B, D), "centers": torch.zeros(C, D), "labels": torch.arange(B)} | {name: value}))
    check_message(error, name, words)


# ---- past the checks of Python: the registered ops themselves ----------------------------------------------------------------

FORWARD = {
    "x": [lambda t: t[0], lambda t: t[:4], lambda t: t[:, :2], lambda t: t[:, :0], lambda t: t.double(), lambda t: t.long()],
    "centers": [lambda t: t[0], lambda t: t[:0], lambda t: t[:, :2], lambda t: t.half()],
    "labels": [lambda t: t[:4], lambda t: t[:, None], lambda t: t.int()],
}
GRADIENT = FORWARD | {
    name: [lambda t: t[:4], lambda t: t.double(), lambda t: t[:, None]]
    for name in ("grad_others", "grad_target", "others", "target")
}


def good(device) -> dict:
    return {
        "x": torch.randn(B, D, device=device),
        "centers": torch.randn(C, D, device=device),
        "labels": torch.arange(B, device=device),
    }


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, changes in FORWARD.items() for change in changes])
def test_registered_op_refuses(kernel_device, name, change):
    arguments = good(kernel_device)
    arguments[name] = change(arguments[name])
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"\w"):
        torch.ops.zsml.margin_softmax(*arguments.values(), 0, 1.0)


@pytest.mark.parametrize(("options", "word"), [((3, 1.0), "measure"), ((-1, 1.0), "measure"), ((0, 0.0), "scale")])
def test_registered_op_refuses_options(kernel_device, options, word):
    with pytest.raises((RuntimeError, ValueError), match=word):
        torch.ops.zsml.margin_softmax(*good(kernel_device).values(), *options)


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, changes in GRADIENT.items() for change in changes])
def test_registered_gradient_refuses(kernel_device, name, change):
    vectors = {key: torch.ones(B, device=kernel_device) for key in ("grad_others", "grad_target", "others", "target")}
    arguments = good(kernel_device) | vectors
    arguments[name] = change(arguments[name])
    order = ("grad_others", "grad_target", "x", "centers", "labels", "others", "target")
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"\w"):
        torch.ops.zsml.margin_softmax_backward(*(arguments[key] for key in order), 0, 1.0, True, True)


def test_unknown_labels_past_the_checks_of_python(device):
    """On the CPU the op itself names them; a GPU would have to be waited for, and gives NaN."""
    arguments = good(device)
    arguments["labels"][2:4] = torch.tensor([-1, C])
    if device.type == "cpu":
        with pytest.raises((RuntimeError, ValueError), match="labels"):
            torch.ops.zsml.margin_softmax(*arguments.values(), 0, 1.0)
        return
    others, target = torch.ops.zsml.margin_softmax(*arguments.values(), 0, 1.0)
    assert target.isnan().tolist() == [False, False, True, True, False] and others.isfinite().all()
