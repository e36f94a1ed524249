"""supcon against its definition in float64: values, gradients, what does not count, and properties it must have."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from adversarial import ADVERSARIAL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pair_softmax_oracle import assert_within, contrast
from test_hardest_pairs_input import DIRECT, ORDER, WITH_REFS, WITHOUT_REFS, check_message, good

from zsml.errors import InputError
from zsml.ops import supcon

MODES = list(itertools.product(("all", "within", "cross"), (False, True)))
# Inner products of rows beyond 1e19 are infinite in float32: there is nothing right to be had.
CASES = [case for case in ADVERSARIAL if case.values not in ("huge", "outlier")]


def run(batch, temperature: float, pairs: str, per_pair: bool):
    return supcon(batch.x, batch.labels, batch.modality, temperature=temperature, pairs=pairs, per_pair=per_pair, **batch.options)


def finite_rows(t: torch.Tensor) -> torch.Tensor:
    return t[t.isfinite().all(dim=1)].detach().double()


def check(batch, device, temperature: float, pairs: str, per_pair: bool) -> None:
    """Value and gradient of a batch, to a few roundings of the largest similarity."""
    # Two leaves for the truth, both of the values the op is given.
    sets = [t for t in (batch.x, batch.refs) if t is not None]
    ours = [t.detach().clone().requires_grad_() for t in sets]
    truth = [t.detach().cpu().double().clone().requires_grad_() for t in sets]
    fields = {name: None if value is None else value.cpu() for name, value in batch._asdict().items()}
    names = ("x", "refs")[: len(sets)]
    expected, expected_positives = contrast(
        SimpleNamespace(**(fields | dict(zip(names, truth, strict=True)))), temperature, pairs, per_pair
    )
    result = run(batch._replace(**dict(zip(names, ours, strict=True))), temperature, pairs, per_pair)
    assert result.loss.dtype == (torch.float64 if batch.x.dtype == torch.float64 else torch.float32)
    assert result.positives.dtype == torch.int64 and torch.equal(result.positives.cpu(), expected_positives)
    lengths = [finite_rows(t).norm(dim=1).max().item() if len(finite_rows(t)) else 0.0 for t in sets]
    largest = lengths[0] * lengths[-1] / temperature
    terms = expected_positives.max().item() + 1 if per_pair else 2
    accuracy = torch.finfo(result.loss.dtype).eps * max(8, batch.x.shape[1] ** 0.5) * (1 + largest)
    assert_within(result.loss, expected, 2 * terms * accuracy, "loss")
    weight = torch.linspace(-1, 2, len(batch.x), dtype=torch.float64)
    kept = expected.isfinite()
    result.loss.backward(torch.where(kept, weight, torch.nan).to(result.loss))  # NaN losses have NaN gradients
    torch.autograd.backward(torch.where(kept, expected, 0) @ weight)
    rounded = torch.finfo(batch.x.dtype).eps
    for t, right, length in zip(ours, truth, reversed(lengths), strict=True):
        assert t.grad.dtype == t.dtype
        # An anchor's weights sum to 2 at most; those of a candidate, over all anchors, not to much more in any of these batches.
        size = 2 * length / temperature * terms
        assert_within(t.grad, right.grad, 4 * accuracy * size + rounded * right.grad.abs(), "gradient")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_adversarial_batches(device, case):
    batch = case.build(torch.float32, device)
    longest = max(1.0, finite_rows(batch.x).norm(dim=1).max().item() if len(finite_rows(batch.x)) else 1.0)
    pairs, per_pair = MODES[sum(map(ord, case.name)) % len(MODES)]
    check(batch, device, 0.1 * longest**2, pairs, per_pair)
    check(batch, device, 0.1 * longest**2, "all", not per_pair)


@pytest.mark.parametrize(("pairs", "per_pair"), MODES)
@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_mode(device, dtype, refs, pairs, per_pair):
    case = type(CASES[0])("modes", rows=37, width=19, refs=refs, modalities=3, exclude=refs is not None)
    check(case.build(dtype, device, seed=3), device, 2.0, pairs, per_pair)


@pytest.mark.parametrize("temperature", [1e-3, 0.07, 1e3])
@pytest.mark.parametrize("per_pair", [False, True])
def test_large_similarities(device, temperature, per_pair):
    case = type(CASES[0])("temperature", rows=50, width=8)
    batch = case.build(torch.float32, device)
    check(batch._replace(x=torch.nn.functional.normalize(batch.x)), device, temperature, "all", per_pair)
    batch = batch._replace(x=(torch.nn.functional.normalize(batch.x) * 100).requires_grad_())  # similarities up to 1e4
    run(batch, 1.0, "all", per_pair).loss.sum().backward()
    assert batch.x.grad.isfinite().all()


@pytest.mark.parametrize("per_pair", [False, True])
def test_gradient_by_differences(device, per_pair):
    case = type(CASES[0])("differences", rows=7, width=3, refs=9, exclude=True)
    batch = case.build(torch.float64, device)

    def of_refs(x, refs):
        return run(batch._replace(x=x, refs=refs), 0.7, "all", per_pair).loss

    def of_self(x):
        return supcon(x, batch.labels, batch.modality, temperature=0.7, per_pair=per_pair).loss

    assert torch.autograd.gradcheck(of_refs, (batch.x.requires_grad_(), batch.refs.requires_grad_()))
    assert torch.autograd.gradcheck(of_self, (batch.x,))


def test_gradient_of_one_side(device):
    batch = type(CASES[0])("one side", refs=9).build(torch.float32, device)
    x, refs = batch.x.clone().requires_grad_(), batch.refs.clone().requires_grad_()
    run(batch._replace(x=x, refs=refs), 1.0, "all", False).loss.sum().backward()
    for name, whole in (("x", x), ("refs", refs)):
        alone = whole.detach().clone().requires_grad_()
        run(batch._replace(**{name: alone}), 1.0, "all", False).loss.sum().backward()
        assert torch.equal(alone.grad, whole.grad)


def test_no_second_derivative_and_no_forward_mode(device):
    batch = type(CASES[0])("plain").build(torch.float64, device)
    x = batch.x.requires_grad_()
    (grad,) = torch.autograd.grad(run(batch, 1.0, "all", False).loss.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="supcon has no second derivative"):
        grad.sum().backward()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="supcon has no forward-mode"):
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        run(batch._replace(x=dual), 1.0, "all", False)


# ---- properties ----------------------------------------------------------------------------------------------------------------


@st.composite
def batches(draw: st.DrawFn) -> SimpleNamespace:
    """Whole numbers in float64, with references."""
    rows, count, width = draw(st.integers(1, 12)), draw(st.integers(1, 25)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    few = draw(st.integers(1, 4))

    def ids(n: int) -> torch.Tensor:
        return torch.randint(0, few, (n,), generator=generator)

    def values(n: int) -> torch.Tensor:
        return torch.randint(-3, 4, (n, width), generator=generator).double()

    return SimpleNamespace(
        x=values(rows), labels=ids(rows), modality=ids(rows), refs=values(count), ref_labels=ids(count), ref_modality=ids(count)
    )


def losses(batch: SimpleNamespace, mode: tuple[str, bool], temperature: float = 1.5, **changes) -> torch.Tensor:
    fields = vars(batch) | changes
    return supcon(**fields, temperature=temperature, pairs=mode[0], per_pair=mode[1]).loss


@given(batch=batches(), mode=st.sampled_from(MODES), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_makes_no_difference(device, batch, mode, seed):
    batch = SimpleNamespace(**{name: t.to(device) for name, t in vars(batch).items()})
    plain = losses(batch, mode)
    close = {"rtol": 1e-9, "atol": 1e-9}
    order = torch.randperm(len(batch.refs), generator=torch.Generator().manual_seed(seed)).to(device)
    shuffled = {name: getattr(batch, name)[order] for name in ("refs", "ref_labels", "ref_modality")}
    torch.testing.assert_close(losses(batch, mode, **shuffled), plain, **close)  # the order of candidates
    turned = torch.arange(len(batch.x) - 1, -1, -1, device=device)
    anchors = {name: getattr(batch, name)[turned] for name in ("x", "labels", "modality")}
    torch.testing.assert_close(losses(batch, mode, **anchors)[turned], plain, **close)  # the order of anchors
    torch.testing.assert_close(losses(batch, mode, refs=batch.refs + 2), plain, **close)  # a shift of all similarities
    torch.testing.assert_close(losses(batch, mode, x=4 * batch.x, temperature=6.0), plain, **close)  # the unit of similarity
    names = {"labels": 7 - batch.labels, "ref_labels": 7 - batch.ref_labels}
    torch.testing.assert_close(losses(batch, mode, **names), plain, **close)  # what classes are called
    assert (plain >= -1e-9).all()


# ---- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value", "kind", "words"), WITHOUT_REFS)
def test_bad_arguments(name, value, kind, words):
    with pytest.raises(kind) as error:
        supcon(**{**good(), name: value})
    check_message(error, name, words)


@pytest.mark.parametrize(("name", "value", "kind", "words"), WITH_REFS)
def test_bad_references(name, value, kind, words):
    with pytest.raises(kind) as error:
        supcon(**{**good(refs=True), name: value})
    check_message(error, name, words)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"temperature": 0.0}, ["temperature must be a positive number", "0.0"]),
        ({"temperature": -1}, ["temperature", "-1"]),
        ({"temperature": float("nan")}, ["temperature", "nan"]),
        ({"temperature": float("inf")}, ["temperature", "inf"]),
        ({"temperature": "warm"}, ["temperature", "warm"]),
        ({"temperature": True}, ["temperature", "True"]),
        ({"pairs": "between"}, ["pairs must be one of", "within", "between"]),
        ({"pairs": 0}, ["pairs must be one of", "got 0"]),
        ({"pairs": None}, ["pairs", "None"]),
    ],
)
def test_bad_options(option, words):
    with pytest.raises(InputError) as error:
        supcon(**good(), **option)
    assert all(word in str(error.value) for word in words)


# ---- past the checks of Python: the registered ops themselves ----------------------------------------------------------------


@pytest.mark.parametrize(("name", "change"), DIRECT)
def test_registered_op_refuses(kernel_device, name, change):
    arguments = good(kernel_device, refs=True)
    arguments[name] = change(arguments[name])
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"\w"):
        torch.ops.zsml.supcon(*(arguments[key] for key in ORDER), 0.5, 0, False)


@pytest.mark.parametrize(("place", "value"), [(0, 0.0), (0, float("nan")), (0, -1.0), (1, 3), (1, -1)])
def test_registered_op_refuses_options(kernel_device, place, value):
    options = [0.5, 0, False]
    options[place] = value
    arguments = good(kernel_device, refs=True)
    with pytest.raises((RuntimeError, ValueError), match=("temperature", "pairs")[place]):
        torch.ops.zsml.supcon(*(arguments[key] for key in ORDER), *options)


def test_registered_op_skips_nothing_for_an_impossible_row(device):
    arguments = good(device, refs=True)
    options = (0.5, 0, True)
    expected = torch.ops.zsml.supcon(*(arguments[key] for key in ORDER[:-1]), None, *options)
    arguments["exclude"] = torch.tensor([7, -2, 2**62, -(2**62), 8], device=device)
    for ours, other in zip(torch.ops.zsml.supcon(*(arguments[key] for key in ORDER), *options), expected, strict=True):
        assert torch.equal(ours, other)


GRADIENT = {
    "grad": [lambda t: t[:3], lambda t: t.double(), lambda t: t[:, None]],
    "lse": [lambda t: t[:3], lambda t: t.double()],
    "positives": [lambda t: t[:3], lambda t: t.int()],
    "pull": [lambda t: t[:3], lambda t: t.half()],
    "x": [lambda t: t[:, :2], lambda t: t.double()],
    "refs": [lambda t: t[:, :2], lambda t: None],
    "ref_labels": [lambda t: t[:3]],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, changes in GRADIENT.items() for change in changes])
def test_registered_gradient_refuses(kernel_device, name, change):
    arguments = good(kernel_device, refs=True)
    options = (0.5, 0, True)
    found = torch.ops.zsml.supcon(*(arguments[key] for key in ORDER), *options)
    arguments |= {"grad": torch.ones_like(found[0])} | dict(zip(("lse", "positives", "pull"), found[1:], strict=True))
    arguments[name] = change(arguments[name])
    before, after = (arguments[key] for key in ("grad", *ORDER)), (arguments[key] for key in ("lse", "positives", "pull"))
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"\w"):
        torch.ops.zsml.supcon_backward(*before, *options, *after, True, True)
