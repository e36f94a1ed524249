"""Triplet losses against explicit loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from zsml.losses import MATHMLoss, ModalityTripletLoss

PAIRS = {"within": (True, True), "hybrid": (False, True), "cross": (False, False)}  # (positive, negative) from the own modality


def looped(x, labels, modality, terms, margin, normalize, beta, weighting, refs=None):
    """The definition, anchor by anchor; differentiable."""
    x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12) if normalize else x
    r, r_labels, r_modality = (x, labels, modality) if refs is None else refs
    r = r / r.norm(dim=1, keepdim=True).clamp(min=1e-12) if normalize and refs is not None else r
    losses, gates = [], []
    for term in terms:
        own_positive, own_negative = PAIRS[term]
        values, sigmoids = [], []
        for i in range(len(x)):
            positives, negatives = [], []
            for j in range(len(r)):
                if refs is None and i == j:
                    continue
                same_modality = bool(modality[i] == r_modality[j])
                distance = (x[i] - r[j]).pow(2).sum().sqrt()
                if labels[i] == r_labels[j] and same_modality == own_positive:
                    positives.append(distance)
                if labels[i] != r_labels[j] and same_modality == own_negative:
                    negatives.append(distance)
            if not positives or not negatives:
                values.append(x.sum() * 0)
                sigmoids.append(x.sum() * 0)
                continue
            z = torch.stack(positives).max() - torch.stack(negatives).min() + margin
            values.append(z.clamp(min=0) if beta is None else torch.log1p(torch.exp(beta * z)) / beta)
            sigmoids.append(1 / (1 + torch.exp(-beta * z)) if beta is not None else x.sum() * 0)
        losses.append(sum(values) / len(x))
        gates.append(sum(sigmoids) / len(x))
    if weighting is None:
        return sum(losses) / len(losses)
    mean_gate = sum(gates) / len(gates)
    weights = [mean_gate / torch.clamp(g, min=0.1) for g in gates]
    if weighting == "released":
        return sum(weights) * (sum(losses) / len(losses))
    return sum(w.detach() * v for w, v in zip(weights, losses, strict=True))


def batch(seed, B=14, D=5, classes=4, modalities=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (B,), generator=generator)
    return x, labels, torch.randint(0, modalities, (B,), generator=generator)


CASES = [
    {},
    {"beta": 20.0},
    {"beta": 3.0, "weighting": "adaptive"},
    {"beta": 20.0, "weighting": "released"},
    {"terms": ("cross",), "margin": 0.5},
    {"terms": ("within", "cross"), "beta": 7.0, "weighting": "adaptive", "normalize": False},
    {"terms": ("hybrid",), "normalize": False},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_loop(options, seed):
    full = {"terms": ("within", "hybrid", "cross"), "margin": 0.2, "normalize": True, "beta": None, "weighting": None} | options
    x, labels, modality = batch(seed)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    value = ModalityTripletLoss(**options)(ours, labels, modality)
    expected = looped(theirs, labels, modality, **full)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("weighting", ["adaptive", "released", None])
@pytest.mark.parametrize("seed", range(4))
def test_mathm_equals_the_loop(weighting, seed):
    x, labels, modality = batch(seed, B=16, D=8, classes=3)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    MATHMLoss(weighting=weighting)(ours, labels, modality).backward()
    expected = looped(theirs, labels, modality, ("within", "hybrid", "cross"), 0.2, True, 20.0, weighting)
    expected.backward()
    torch.testing.assert_close(MATHMLoss(weighting=weighting)(x, labels, modality), expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-11)


def test_gradcheck():
    x, labels, modality = batch(5, B=9, D=4)
    for loss in (MATHMLoss(beta=5.0, weighting="released"), ModalityTripletLoss(margin=3.0)):
        assert torch.autograd.gradcheck(lambda e, loss=loss: loss(e, labels, modality), x.requires_grad_())


def test_a_hand_computed_batch():
    # Two classes, each one sketch and one photo, at right angles: positives at 0, negatives at sqrt(2).
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    labels, modality = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    # "within" has no positive (one sketch per class) and counts as 0; the others see 0 - sqrt(2) + margin.
    value = ModalityTripletLoss(margin=2.0)(x, labels, modality)
    assert value.item() == pytest.approx(2 * (2.0 - math.sqrt(2)) / 3, rel=1e-6)
    # The published mean over terms and the sum over weights differ as the definition says: g = 0, s, s with s = sigmoid(20 z).
    s = 1 / (1 + math.exp(-20 * (0.2 - math.sqrt(2))))
    softplus = math.log1p(math.exp(20 * (0.2 - math.sqrt(2)))) / 20
    w = (2 * s / 3) / 0.1
    assert MATHMLoss()(x.double(), labels, modality).item() == pytest.approx(2 * w * softplus, rel=1e-9)
    released = MATHMLoss(weighting="released")(x.double(), labels, modality).item()
    assert released == pytest.approx(3 * w * 2 * softplus / 3, rel=1e-9)


@pytest.mark.parametrize(
    "loss", [MATHMLoss(), MATHMLoss(weighting="released"), ModalityTripletLoss()], ids=["mathm", "released", "relu"]
)
@pytest.mark.parametrize("case", ["one class", "all different", "one modality", "single"])
def test_missing_partners_contribute_zero(loss, case):
    x, labels, modality = batch(1, B=1 if case == "single" else 8)
    if case == "one class":
        labels = torch.zeros_like(labels)
    if case == "all different":
        labels = torch.arange(len(labels))
    if case == "one modality":
        modality = None
    x.requires_grad_()
    value = loss(x, labels, modality)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(x.grad).all()
    if case != "one modality":
        assert value.item() == 0 and not x.grad.any()


def test_refs_are_the_candidates():
    x, labels, modality = batch(2)
    r, r_labels, r_modality = batch(3, B=21)
    ours_x, ours_r = x.clone().requires_grad_(), r.clone().requires_grad_()
    their_x, their_r = x.clone().requires_grad_(), r.clone().requires_grad_()
    value = MATHMLoss()(ours_x, labels, modality, ref_emb=ours_r, ref_labels=r_labels, ref_modality=r_modality)
    expected = looped(
        their_x, labels, modality, ("within", "hybrid", "cross"), 0.2, True, 20.0, "adaptive", (their_r, r_labels, r_modality)
    )
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours_x.grad, their_x.grad, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(ours_r.grad, their_r.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_follow_float64(dtype):
    x, labels, modality = batch(4, B=40, D=33)
    x = x.to(dtype)
    value = MATHMLoss()(x, labels, modality)
    assert value.dtype == torch.float32
    truth = MATHMLoss()(x.double(), labels, modality)
    assert abs(value.double() - truth) <= 2e-6 * truth


def test_autocast_and_fullgraph_compile():
    x, labels, modality = batch(6, B=20, D=16)
    x = x.float().requires_grad_()
    plain = MATHMLoss()(x, labels, modality)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(MATHMLoss()(x, labels, modality), plain)
    compiled = torch.compile(MATHMLoss(), fullgraph=True, backend="aot_eager")(x, labels, modality)
    (compiled_grad,) = torch.autograd.grad(compiled, x)
    (plain_grad,) = torch.autograd.grad(plain, x)
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(compiled_grad, plain_grad)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"terms": ("inside",)}, ["terms", "within", "inside"]),
        ({"terms": ()}, ["terms"]),
        ({"terms": ("cross", "cross")}, ["terms", "repeat"]),
        ({"margin": math.nan}, ["margin", "nan"]),
        ({"beta": 0.0}, ["beta", "positive"]),
        ({"beta": 1.0, "weighting": "paper"}, ["weighting", "adaptive", "paper"]),
        ({"weighting": "adaptive"}, ["weighting", "beta"]),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError) as error:
        ModalityTripletLoss(**options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("arguments", "kind", "word"),
    [
        (([[0.0]], torch.tensor([0])), TypeError, "embeddings"),
        ((torch.zeros(3), torch.zeros(3).long()), ValueError, "embeddings"),
        ((torch.zeros(0, 3), torch.zeros(0).long()), ValueError, "embeddings"),
        ((torch.zeros(3, 2).long(), torch.zeros(3).long()), TypeError, "float"),
        ((torch.zeros(3, 2), torch.zeros(4).long()), ValueError, "labels"),
        ((torch.zeros(3, 2), torch.zeros(3)), TypeError, "labels"),
        ((torch.zeros(3, 2), torch.zeros(3).long(), torch.zeros(2).long()), ValueError, "modality"),
    ],
)
def test_bad_batches_are_named(arguments, kind, word):
    with pytest.raises(kind, match=word):
        MATHMLoss()(*arguments)
