"""SupCon and NT-Xent against loops in float64 and against pytorch-metric-learning."""

from __future__ import annotations

import itertools

import pytest
import torch

from zsml.errors import InputError
from zsml.losses import CrossBatchMemory, NTXentLoss, SupConLoss

LOSSES = (SupConLoss, NTXentLoss)
PAIRS = ("all", "within", "cross")


def batch(seed, B=14, D=5, classes=4, modalities=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (B,), generator=generator), torch.randint(0, modalities, (B,), generator=generator)


def looped(kind, x, labels, modality, temperature, pairs, normalize, refs=None, exclude=None):
    """The definition, anchor by anchor; differentiable."""
    r, r_labels, r_modality = (x, labels, modality) if refs is None else refs
    if normalize:
        x, r = x / x.norm(dim=1, keepdim=True), r / r.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(x)):
        positives, negatives = [], []
        for j in range(len(r)):
            same_modality = bool(modality[i] == r_modality[j])
            skipped = i == j if refs is None else exclude is not None and exclude[i] == j
            if skipped or (pairs == "within" and not same_modality) or (pairs == "cross" and same_modality):
                continue
            (positives if labels[i] == r_labels[j] else negatives).append(x[i] @ r[j] / temperature)
        of_pairs = []
        for p in positives:
            against = positives + negatives if kind is SupConLoss else [p, *negatives]
            of_pairs.append(-torch.log(p.exp() / sum(a.exp() for a in against)))
        if of_pairs and kind is SupConLoss:
            terms.append(sum(of_pairs) / len(of_pairs))
        elif of_pairs:
            terms += of_pairs
    return sum(terms) / len(terms) if terms else 0 * x.sum()


def compare(loss, expected_of, x, **options):
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = loss(ours, **options), expected_of(theirs)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("kind", "pairs", "normalize"), list(itertools.product(LOSSES, PAIRS, (True, False))))
@pytest.mark.parametrize("seed", range(2))
def test_value_and_gradient_equal_the_loop(kind, pairs, normalize, seed):
    x, labels, modality = batch(seed, modalities=3)
    compare(
        kind(temperature=0.4, pairs=pairs, normalize=normalize),
        lambda t: looped(kind, t, labels, modality, 0.4, pairs, normalize),
        x,
        labels=labels,
        modality=modality,
    )


@pytest.mark.parametrize(("kind", "pairs"), list(itertools.product(LOSSES, PAIRS)))
def test_refs_are_the_candidates(kind, pairs):
    x, labels, modality = batch(2)
    refs = batch(3, B=21)
    exclude = torch.arange(14) - 1
    given = dict(zip(("ref_emb", "ref_labels", "ref_modality"), refs, strict=True))
    compare(
        kind(temperature=0.4, pairs=pairs),
        lambda t: looped(kind, t, labels, modality, 0.4, pairs, True, refs, exclude),
        x,
        labels=labels,
        modality=modality,
        exclude=exclude,
        **given,
    )
    compare(
        lambda t, **_: kind(temperature=0.4, pairs=pairs)(x, labels, modality, **(given | {"ref_emb": t})),
        lambda t: looped(kind, x, labels, modality, 0.4, pairs, True, (t, *refs[1:])),
        refs[0],
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_itself_as_references_is_the_same(kind):
    x, labels, modality = batch(4)
    value = kind()(x, labels, modality, ref_emb=x, ref_labels=labels, ref_modality=modality, exclude=torch.arange(14))
    torch.testing.assert_close(value, kind()(x, labels, modality), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("kind", "pairs"), list(itertools.product(LOSSES, PAIRS)))
def test_memory_of_earlier_batches(kind, pairs):
    """The places of the memory that are still empty are no candidates."""
    memory = CrossBatchMemory(kind(temperature=0.4, pairs=pairs), size=30)
    first, now = batch(7, B=9), batch(8, B=6)
    memory(*first)
    refs = [torch.cat(both) for both in zip(now, first, strict=True)]

    def expected(t):
        both = torch.cat([t, first[0]])
        return looped(kind, t, *now[1:], 0.4, pairs, True, (both, *refs[1:]), torch.arange(6))

    compare(lambda t, **_: memory(t, *now[1:]), expected, now[0])


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", LOSSES)
def test_equal_to_pytorch_metric_learning(kind, seed, temperature):
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    x, labels, _ = batch(seed, B=20, D=6, classes=5)
    peer = getattr(peers, kind.__name__)(temperature=temperature)
    compare(kind(temperature=temperature), lambda t: peer(t, labels), x, labels=labels)
    refs, ref_labels, _ = batch(seed + 50, B=30, D=6, classes=5)
    compare(
        kind(temperature=temperature),
        lambda t: peer(t, labels, ref_emb=refs, ref_labels=ref_labels),
        x,
        labels=labels,
        ref_emb=refs,
        ref_labels=ref_labels,
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_gradcheck(kind):
    x, labels, modality = batch(5, B=9, D=4)
    assert torch.autograd.gradcheck(lambda e: kind(temperature=0.3)(e, labels, modality), x.requires_grad_())


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("case", ["all different", "single", "nothing across"])
def test_no_positives_is_zero_with_zero_gradient(kind, case):
    x, labels, modality = batch(1, B=1 if case == "single" else 8)
    loss = kind()
    if case == "all different":
        labels = torch.arange(8)
    if case == "nothing across":
        loss, modality = kind(pairs="cross"), None
    x.requires_grad_()
    value = loss(x, labels, modality)
    value.backward()
    assert value.item() == 0 and x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["zero rows", "huge rows", "tiny rows", "one class", "equal rows"])
def test_extreme_batches_stay_finite(kind, dtype, case):
    x, labels, modality = batch(1, B=16)
    x = x.to(dtype)
    if case == "zero rows":
        x[::3] = 0
    if case == "huge rows":
        x = x / x.abs().max() * torch.finfo(dtype).max
    if case == "tiny rows":
        x = x * torch.finfo(dtype).tiny
    if case == "one class":
        labels = torch.zeros_like(labels)
    if case == "equal rows":
        x[:] = x[0]
    x.requires_grad_()
    value = kind()(x, labels, modality)
    value.backward()
    assert value.isfinite() and value >= 0 and value.dtype == torch.float32
    assert case == "tiny rows" or x.grad.isfinite().all()  # the gradient of a length of nothing is past the largest number


@pytest.mark.parametrize("kind", LOSSES)
def test_a_row_that_is_not_finite_is_seen(kind):
    x, labels, modality = batch(1, B=16)
    x[3, 1] = torch.nan
    assert kind()(x, labels, modality).isnan()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_follow_float64(kind, dtype):
    x, labels, modality = batch(4, B=40, D=33)
    x = x.to(dtype)
    value = kind()(x, labels, modality)
    assert value.dtype == torch.float32
    truth = kind()(x.double(), labels, modality)
    assert abs(value.double() - truth) <= 1e-5 * truth


@pytest.mark.parametrize("kind", LOSSES)
def test_autocast_and_fullgraph_compile(kind):
    x, labels, modality = batch(6, B=20, D=16)
    x = x.float().requires_grad_()
    plain = kind()(x, labels, modality)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(kind()(x, labels, modality), plain)
    compiled = torch.compile(kind(), fullgraph=True, backend="aot_eager")(x, labels, modality)
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (compiled, plain)))


def test_the_settings_show():
    assert repr(SupConLoss(0.1, pairs="cross")) == "SupConLoss(temperature=0.1, pairs='cross', normalize=True, gather=False)"


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, ["temperature must be a positive number", "got 0"]),
        ({"temperature": float("nan")}, ["temperature", "nan"]),
        ({"temperature": None}, ["temperature", "None"]),
        ({"pairs": "inside"}, ["pairs must be one of", "within", "inside"]),
        ({"pairs": None}, ["pairs must be one of", "None"]),
    ],
)
def test_bad_options_are_named(kind, options, words):
    with pytest.raises(InputError) as error:
        kind(**options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    ("arguments", "options", "error", "word"),
    [
        (([[0.0]], torch.tensor([0])), {}, TypeError, "embeddings"),
        ((torch.zeros(3), torch.zeros(3).long()), {}, InputError, "embeddings"),
        ((torch.zeros(0, 3), torch.zeros(0).long()), {}, InputError, "embeddings"),
        ((torch.zeros(3, 2).long(), torch.zeros(3).long()), {}, TypeError, "float"),
        ((torch.zeros(3, 2), torch.zeros(4).long()), {}, InputError, "labels"),
        ((torch.zeros(3, 2), torch.zeros(3)), {}, TypeError, "labels"),
        ((torch.zeros(3, 2), torch.zeros(3).long(), torch.zeros(2).long()), {}, InputError, "modality"),
        ((torch.zeros(3, 2), torch.zeros(3).long()), {"ref_emb": torch.zeros(2)}, InputError, "ref_emb"),
        ((torch.zeros(3, 2), torch.zeros(3).long()), {"ref_emb": torch.zeros(4, 3)}, InputError, "width"),
        ((torch.zeros(3, 2), torch.zeros(3).long()), {"ref_emb": torch.zeros(4, 2)}, InputError, "ref_labels"),
        ((torch.zeros(3, 2), torch.zeros(3).long()), {"exclude": torch.zeros(3).long()}, InputError, "exclude"),
    ],
)
def test_bad_batches_are_named(kind, arguments, options, error, word):
    with pytest.raises(error, match=word):
        kind()(*arguments, **options)
