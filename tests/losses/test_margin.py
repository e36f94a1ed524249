"""The losses over class centres: golden values, plain cross-entropy in float64, pytorch-metric-learning, and the annealing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from zsml.losses import ArcFaceLoss, ASoftmaxLoss, CosFaceLoss, EMSLoss, MEMSLoss

C, D = 5, 4
MAKERS = {
    "mems": lambda **o: MEMSLoss(C, D, **o),
    "ems": lambda **o: EMSLoss(C, D, **o),
    "ems squared": lambda **o: EMSLoss(C, D, variant="squared", **o),
    "cosface": lambda **o: CosFaceLoss(C, D, **o),
    "arcface": lambda **o: ArcFaceLoss(C, D, **o),
    "a-softmax": lambda **o: ASoftmaxLoss(C, D, **o),
}
every_loss = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def batch(seed: int = 0, B: int = 11, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(0, C, (B,), generator=generator)


def with_centers(loss: torch.nn.Module, rows: list) -> torch.nn.Module:
    loss.double().centers.data.copy_(torch.tensor(rows, dtype=torch.float64))
    return loss


# ---- golden values: one sample, three centres --------------------------------------------------------------------------------

EUCLIDEAN = torch.tensor([[1.0, 0.0]], dtype=torch.float64), [[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]  # squared distances 1, 1, 10
ANGULAR = torch.tensor([[3.0, 4.0]], dtype=torch.float64), [[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]]  # cosines 0.6, 0.8, 0.02 ** 0.5


@pytest.mark.parametrize(
    ("make", "margin", "expected"),
    [
        (MEMSLoss, 1, 0.6932088836),
        (MEMSLoss, 2, 3.0487049017),
        (MEMSLoss, 4, 15.0001237081),
        (EMSLoss, 1, 0.7490844804),
        (EMSLoss, 2, 1.3940280804),
        (EMSLoss, 4, 3.1525921662),
        (lambda *a, **o: EMSLoss(*a, **o, variant="squared"), 4, 15.0001237081),
    ],
)
def test_golden_distances(make, margin, expected):
    x, centers = EUCLIDEAN
    assert with_centers(make(3, 2, margin=margin), centers)(x, torch.tensor([0])).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda **o: CosFaceLoss(3, 2, margin=0.35, scale=32.0, **o), [6.4016601791, 12.0000061449, 17.6000000234]),
        (lambda **o: ASoftmaxLoss(3, 2, margin=4, **o), [1.3400555680, 5.4328531110, 9.8205272502]),
    ],
)
def test_golden_cosines_at_every_part_of_the_margin(make, expected):
    x, centers = ANGULAR
    annealed = with_centers(make(annealing_steps=2), centers)
    for value in expected:
        assert annealed(x, torch.tensor([0])).item() == pytest.approx(value, abs=1e-9)
    assert with_centers(make(), centers)(x, torch.tensor([0])).item() == pytest.approx(expected[-1], abs=1e-9)


def test_arcface_by_hand():
    x, centers = ANGULAR
    loss = with_centers(ArcFaceLoss(3, 2, margin=0.5, scale=16.0), centers)
    for own, others in ((0, (0.8, 0.02**0.5)), (1, (0.6, 0.02**0.5))):
        target = math.cos(math.acos((0.6, 0.8)[own]) + 0.5)
        expected = math.log1p(sum(math.exp(16 * (cosine - target)) for cosine in others))
        assert loss(x, torch.tensor([own])).item() == pytest.approx(expected, abs=1e-12)
    # 1.9 + 1.5 is past pi: there the cosine itself counts, less 1.5 sin(1.5).
    loss = with_centers(ArcFaceLoss(2, 2, margin=1.5, scale=2.0), [[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[math.cos(1.9), math.sin(1.9)]], dtype=torch.float64)
    expected = math.log1p(math.exp(2 * (math.sin(1.9) - math.cos(1.9) + 1.5 * math.sin(1.5))))
    assert loss(x, torch.tensor([0])).item() == pytest.approx(expected, abs=1e-12)


# ---- against cross-entropy and the popular library ---------------------------------------------------------------------------


def logits(loss: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """All B x C of them, with the full margin, by the published formulas."""
    own = F.one_hot(labels, C).bool()
    if isinstance(loss, (MEMSLoss, EMSLoss)):
        squared = (x[:, None] - loss.centers).square().sum(dim=2)
        if isinstance(loss, EMSLoss) and loss.variant == "plain":
            return -torch.where(own, loss.margin, 1) * squared.sqrt()
        return -torch.where(own, loss.margin**2, 1) * squared
    cosine = F.normalize(x, dim=1) @ F.normalize(loss.centers, dim=1).T
    angle = cosine.clamp(-1 + 1e-12, 1 - 1e-12).acos()
    if isinstance(loss, ASoftmaxLoss):
        k = (loss.margin * angle / math.pi).floor()
        psi = (-1) ** k * torch.cos(loss.margin * angle) - 2 * k
        return x.norm(dim=1, keepdim=True) * torch.where(own, psi, cosine)
    if isinstance(loss, ArcFaceLoss):
        past = angle + loss.margin > math.pi
        moved = torch.where(past, cosine - loss.margin * math.sin(loss.margin), torch.cos(angle + loss.margin))
    else:
        moved = cosine - loss.margin
    return loss.scale * torch.where(own, moved, cosine)


def compare(loss: torch.nn.Module, expected_of, x: torch.Tensor, labels: torch.Tensor, centers: torch.nn.Parameter) -> None:
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = loss(ours, labels), expected_of(theirs)
    value.backward()
    centers_gradient, loss.centers.grad = loss.centers.grad, None
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(centers_gradient, centers.grad.reshape(C, D), rtol=1e-7, atol=1e-9)


@every_loss
@pytest.mark.parametrize("seed", range(4))
def test_value_and_gradient_equal_cross_entropy(make, seed):
    torch.manual_seed(seed)
    loss = make().double()
    loss.centers.data *= torch.linspace(0.5, 2, C)[:, None]
    x, labels = batch(seed)
    compare(loss, lambda t: F.cross_entropy(logits(loss, t, labels), labels), x, labels, loss.centers)


class Transposed:
    """The gradient of the library's [D, C] weights, as centres have it."""

    def __init__(self, weights: torch.nn.Parameter):
        self.weights = weights

    @property
    def grad(self) -> torch.Tensor:
        return self.weights.grad.T


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("ours", "name", "options"),
    [
        (CosFaceLoss(C, D, margin=0.35, scale=32.0), "CosFaceLoss", {"margin": 0.35, "scale": 32}),
        (ArcFaceLoss(C, D, margin=0.5, scale=16.0), "ArcFaceLoss", {"margin": math.degrees(0.5), "scale": 16}),
        (ASoftmaxLoss(C, D, margin=4), "SphereFaceLoss", {"margin": 4, "scale": 1}),
    ],
)
def test_equal_to_pytorch_metric_learning(ours, name, options, seed):
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    peer = getattr(peers, name)(num_classes=C, embedding_size=D, **options).double()
    loss = copy.deepcopy(ours).double()
    peer.W.data.copy_(loss.centers.detach().T)
    x, labels = batch(seed, B=15)
    compare(loss, lambda t: peer(t, labels), x, labels, Transposed(peer.W))


@every_loss
def test_gradcheck(make):
    loss = make().double()
    x, labels = batch(3, B=6)

    def value(x, centers):
        return torch.func.functional_call(loss, {"centers": centers}, (x, labels))

    assert torch.autograd.gradcheck(value, (x.requires_grad_(), loss.centers.detach().clone().requires_grad_()))


# ---- centres and annealing ---------------------------------------------------------------------------------------------------


@every_loss
def test_centres_start_at_length_one_in_random_directions(make):
    loss = make()
    assert isinstance(loss.centers, torch.nn.Parameter) and loss.centers.shape == (C, D)
    torch.testing.assert_close(loss.centers.norm(dim=1), torch.ones(C))
    before = loss.centers.detach().clone()
    loss(*batch(dtype=torch.float32))
    loss.reset_parameters()
    assert not torch.equal(loss.centers, before) and loss.step.item() == 0


@every_loss
def test_annealing_counts_training_forwards_and_is_saved(make):
    x, labels = batch()
    loss = make(annealing_steps=4).double()
    none, full = copy.deepcopy(loss).double(), make().double()
    full.centers.data.copy_(loss.centers)
    values = [loss(x, labels).item() for _ in range(7)]
    assert values == sorted(values) and len(set(values[:5])) == 5 and len(set(values[4:])) == 1
    assert values[-1] == pytest.approx(full(x, labels).item(), abs=1e-12)
    assert values[0] == pytest.approx(none.eval()(x, labels).item(), abs=1e-12)
    assert [none(x, labels).item() for _ in range(3)] == values[:1] * 3  # in eval mode nothing is counted
    state = copy.deepcopy(none.train().state_dict())
    assert set(state) == {"centers", "step"} and state["step"].dtype == torch.int64
    none(x, labels)
    resumed = make(annealing_steps=4).double()
    resumed.load_state_dict(none.state_dict())
    assert resumed(x, labels).item() == values[1]
    resumed.load_state_dict(state)
    assert resumed(x, labels).item() == values[0]


# ---- other dtypes, modes and extremes ----------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_follow_float64(make, dtype):
    loss = make()
    x, labels = batch(2, B=30, dtype=dtype)
    value = loss(x.requires_grad_(), labels, torch.zeros(3))  # whatever the modality
    value.backward()
    assert value.dtype == torch.float32 and x.grad.dtype == dtype and loss.centers.grad.dtype == torch.float32
    truth = copy.deepcopy(loss).double()(x.detach().double(), labels)
    assert abs(value.double() - truth) <= 1e-5 * truth
    half = copy.deepcopy(loss).to(dtype)
    assert half(x, labels).isfinite() and half.step.dtype == torch.int64


@every_loss
def test_autocast_and_fullgraph_compile(make):
    loss = make(annealing_steps=3)
    x, labels = batch(2, B=20, dtype=torch.float32)
    x.requires_grad_()
    loss(x, labels)
    plain = copy.deepcopy(loss)(x, labels)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(copy.deepcopy(loss)(x, labels), plain)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(x, labels)
    assert loss.step.item() == 2
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (compiled, plain)))


@every_loss
@pytest.mark.parametrize("case", ["zero rows", "huge rows", "on its centre", "opposite its centre", "one class", "zero centres"])
def test_extreme_batches_stay_finite(make, case):
    loss = make()
    x, labels = batch(1, B=10, dtype=torch.float32)
    if case == "zero rows":
        x[::2] = 0
    if case == "huge rows":
        x *= 1e15
    if case == "on its centre":
        x = loss.centers.detach()[labels]
    if case == "opposite its centre":
        x = -loss.centers.detach()[labels]
    if case == "one class":
        labels = torch.zeros_like(labels)
    if case == "zero centres":
        loss.centers.data.zero_()
    x.requires_grad_()
    value = loss(x, labels)
    value.backward()
    assert value.isfinite() and value >= 0
    assert x.grad.isfinite().all() and loss.centers.grad.isfinite().all()


def test_arcface_at_the_ends_of_the_cosine():
    """Exactly on the centre and exactly opposite, where the angle has no slope, and a rounding away from it."""
    loss = ArcFaceLoss(2, 2, margin=0.5, scale=8.0)
    loss.centers.data.copy_(torch.eye(2))
    for away in (0.0, 1e-12, 1e-6, 1e-4):
        x = torch.tensor([[1.0, away], [-1.0, away]], requires_grad=True)
        value = loss(x, torch.tensor([0, 0]))
        value.backward()
        # d z / d theta is at most the scale, and so is the gradient of a row of length 1
        assert value.isfinite() and x.grad.isfinite().all() and x.grad.norm(dim=1).max() < 16


@pytest.mark.parametrize("make", [MEMSLoss, EMSLoss, CosFaceLoss, ArcFaceLoss, ASoftmaxLoss])
def test_one_class_alone_is_zero(make):
    x = torch.randn(4, 3, requires_grad=True)
    value = make(1, 3)(x, torch.zeros(4, dtype=torch.int64))
    value.backward()
    assert value.item() == 0 and not x.grad.any()


@every_loss
def test_a_row_that_is_not_finite_is_seen(make):
    x, labels = batch(dtype=torch.float32)
    x[2, 1] = torch.nan
    assert make()(x, labels).isnan()
