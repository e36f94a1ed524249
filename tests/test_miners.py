"""Triplets for pytorch-metric-learning's losses: against its own miner, our fused loss, and the definition."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from zsml.errors import InputError
from zsml.losses import ModalityTripletLoss
from zsml.miners import ModalityHardMiner

PAIRS = {"within": (True, True), "hybrid": (False, True), "cross": (False, False)}  # (positive, negative) from the own modality


def batch(seed=0, B=40, D=8, classes=7, modalities=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, classes, (B,), generator=generator)
    return x, labels, torch.randint(0, modalities, (B,), generator=generator)


def looped(x, labels, modality, terms, normalize, refs=None):
    """The definition, anchor by anchor."""
    r, r_labels, r_modality = (x, labels, modality) if refs is None else refs
    x, r = (torch.nn.functional.normalize(t, dim=1) if normalize else t for t in (x, r))
    d = torch.cdist(x, r, compute_mode="donot_use_mm_for_euclid_dist")
    found = []
    for term, i in product(terms, range(len(x))):
        chosen = []
        for positive, own in zip((True, False), PAIRS[term], strict=True):
            rows = [
                j for j in range(len(r))
                if (refs is not None or i != j)
                and (labels[i] == r_labels[j]).item() == positive and (modality[i] == r_modality[j]).item() == own
            ]  # fmt: skip
            pick = max if positive else min
            chosen.append(pick(rows, key=lambda j: d[i, j].item()) if rows else None)
        if None not in chosen:
            found.append((i, *chosen))
    return found


TERM_SETS = [("within",), ("cross",), ("hybrid", "within"), ("within", "hybrid", "cross")]


@pytest.mark.parametrize("terms", TERM_SETS, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("with_refs", [False, True])
def test_triplets_are_those_of_the_definition(terms, normalize, with_refs):
    x, labels, modality = batch(1, B=25, classes=9)
    refs = batch(2, B=31, classes=9) if with_refs else None
    miner = ModalityHardMiner(terms, normalize)
    more = {} if refs is None else {"ref_emb": refs[0], "ref_labels": refs[1], "ref_modality": refs[2]}
    mined = miner(x, labels, modality=modality, **more)
    expected = looped(x, labels, modality, terms, normalize, refs)
    assert [t.dtype for t in mined] == [torch.int64] * 3
    assert list(zip(*(t.tolist() for t in mined), strict=True)) == expected
    assert 0 < miner.num_triplets == len(expected) < len(terms) * len(x)  # some anchors lack a partner


def test_no_partner_gives_no_triplet():
    x, _, modality = batch(3, B=6)
    for labels in (torch.zeros(6).long(), torch.arange(6)):
        assert [len(t) for t in ModalityHardMiner()(x, labels, modality=modality)] == [0, 0, 0]
    x[2, 1] = torch.nan
    anchors = ModalityHardMiner("within")(x, torch.arange(6) // 3)[0]
    assert anchors.tolist() == [0, 1, 3, 4, 5]
    assert ModalityHardMiner(("hybrid", "cross"))(x, torch.arange(6) // 3)[0].tolist() == []  # without modality nothing is across


def test_a_hand_written_loss_takes_the_triplets():
    """What a user without any library does: mean of relu(d_ap - d_an + margin) over the triplets."""
    x, labels, modality = batch(4, B=48, classes=3)
    x.requires_grad_()
    a, p, n = ModalityHardMiner("cross", normalize=False)(x, labels, modality=modality)
    assert len(a) == 48  # so that the means are over the same
    value = torch.relu((x[a] - x[p]).norm(dim=1) - (x[a] - x[n]).norm(dim=1) + 0.2).mean()
    expected = ModalityTripletLoss("cross", margin=0.2, normalize=False)(x, labels, modality)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in (value, expected)))


# ---- inside pytorch-metric-learning ------------------------------------------------------------------------------------------


@pytest.fixture
def library():
    return pytest.importorskip("pytorch_metric_learning", reason="zsml's extra [bench] installs pytorch-metric-learning")


@pytest.mark.parametrize("reducer", ["AvgNonZeroReducer", "MeanReducer"])
@pytest.mark.parametrize("with_refs", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_with_our_miner_equal_those_with_theirs(library, reducer, with_refs, seed):
    from pytorch_metric_learning import losses, miners, reducers

    loss = losses.TripletMarginLoss(margin=0.3, reducer=getattr(reducers, reducer)())
    x, labels, _ = batch(seed, B=60, classes=20)
    refs = batch(seed + 100, B=90, classes=20) if with_refs else None
    results = []
    for miner in (ModalityHardMiner("within"), miners.BatchHardMiner()):
        inputs = [x.clone().requires_grad_()] + ([refs[0].clone().requires_grad_()] if with_refs else [])
        more = (inputs[1], refs[1]) if with_refs else ()
        mined = miner(inputs[0], labels, *more)
        value = loss(inputs[0], labels, mined, *more)
        results.append((mined, value, *torch.autograd.grad(value, inputs)))
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True)) and len(results[0][0][0]) > 20
    for ours, theirs in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_our_loss_equals_theirs_with_the_reducer_that_means_the_same(library, dtype):
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.reducers import MeanReducer

    x, labels, _ = batch(5, B=60, classes=6, dtype=dtype)
    assert labels.bincount().min() >= 2  # so that a mean over triplets is a mean over anchors
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    value = ModalityTripletLoss(terms=("within",), margin=0.2)(ours, labels)
    expected = TripletMarginLoss(margin=0.2, reducer=MeanReducer())(theirs, labels, ModalityHardMiner("within")(theirs, labels))
    value.backward()
    expected.backward()
    exact = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}  # theirs takes distances from a product
    torch.testing.assert_close(value, expected, **exact)
    torch.testing.assert_close(ours.grad, theirs.grad, **exact)


@pytest.mark.parametrize("terms", TERM_SETS, ids=str)
def test_all_terms_through_their_loss_equal_our_loss(library, terms):
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.reducers import MeanReducer

    x, labels, modality = batch(6, B=80, classes=4)
    miner = ModalityHardMiner(terms)
    mined = miner(x, labels, modality=modality)
    assert miner.num_triplets == len(terms) * 80
    value = TripletMarginLoss(margin=0.2, reducer=MeanReducer())(x, labels, mined)
    torch.testing.assert_close(value, ModalityTripletLoss(terms, margin=0.2)(x, labels, modality))


def test_their_pair_losses_and_their_memory_take_our_miner(library):
    from pytorch_metric_learning import losses, miners

    x, labels, _ = batch(7, B=32, classes=5)
    values = [losses.ContrastiveLoss()(x, labels, m(x, labels)) for m in (ModalityHardMiner("within"), miners.BatchHardMiner())]
    torch.testing.assert_close(*values)
    memories = [
        losses.CrossBatchMemory(losses.TripletMarginLoss(), embedding_size=8, memory_size=70, miner=miner)
        for miner in (ModalityHardMiner("within"), miners.BatchHardMiner())
    ]
    for step in range(5):  # the memory fills and turns over; the batch itself is in it, and is kept from being its own partner
        x, labels, _ = batch(10 + step, B=32, classes=12)
        grads = []
        for memory in memories:
            inputs = x.clone().requires_grad_()
            value = memory(inputs, labels)
            grads.append((value, *torch.autograd.grad(value, inputs)))
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_the_library_is_not_needed():
    code = (
        "import sys\nsys.modules['pytorch_metric_learning'] = None\nimport torch\nfrom zsml.miners import ModalityHardMiner\n"
        "print(ModalityHardMiner()(torch.eye(4), torch.tensor([0, 0, 1, 1]))[0].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 0 and done.stdout.strip() == "[0, 1, 2, 3]", done.stderr


# ---- the rest ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [("inside",), (), None, 3, ["within", "within"], [["within"]]], ids=str)
def test_bad_terms_are_named(terms):
    with pytest.raises(InputError, match="terms must"):
        ModalityHardMiner(terms)


X, Y = torch.zeros(3, 2), torch.zeros(3).long()


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "words"),
    [
        (([[0.0]], Y), {}, TypeError, "embeddings must be a torch.Tensor"),
        ((X[0], Y), {}, ValueError, "embeddings must have shape"),
        ((X[:0], Y[:0]), {}, ValueError, "embeddings must have shape .* B >= 1"),
        ((X.long(), Y), {}, TypeError, "embeddings must be float16"),
        ((X, Y[:2]), {}, ValueError, r"labels must have shape \[3\]"),
        ((X, Y.float()), {}, TypeError, "labels must be int64"),
        ((X, Y), {"modality": Y[:1]}, ValueError, r"modality must have shape \[3\]"),
        ((X, Y, X[:, :1], Y), {}, ValueError, "ref_emb must have the width of embeddings"),
        ((X, Y, X), {}, ValueError, "ref_labels is missing"),
        ((X, Y, Y), {}, TypeError, "pass modality="),
        ((X, Y, None, Y), {}, ValueError, "ref_labels is given but ref_emb is not"),
        ((X, Y), {"ref_modality": Y}, ValueError, "ref_modality is given but ref_emb is not"),
        ((X, Y, X, Y), {"modality": Y}, ValueError, "ref_modality is missing"),
        ((X, Y, X.tolist(), Y), {}, TypeError, "ref_emb must be a torch.Tensor"),
    ],
)
def test_bad_batches_are_named(arguments, options, kind, words):
    with pytest.raises(kind, match=words):
        ModalityHardMiner()(*arguments, **options)


def test_no_gradient_and_no_tangent_flows_through_the_choice():
    x, labels, modality = batch(8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert not any(t.requires_grad for t in ModalityHardMiner()(dual, labels, modality=modality))
    assert len(ModalityHardMiner()(x.requires_grad_(), labels, modality=modality)[0]) > 0
