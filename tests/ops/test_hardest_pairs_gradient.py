"""Gradients of hardest_pairs: numerical, by autograd through the chosen pairs, and where there is none to have."""

from __future__ import annotations

import pytest
import torch
from hardest_pairs_oracle import assert_as_good_as_eager, run
from torch import Tensor

from zsml import _ext
from zsml.ops import CROSS_NEG, CROSS_POS, WITHIN_NEG, WITHIN_POS, hardest_pairs

SIDES = [(True, False), (False, True), (True, True)]
SIDE_IDS = ["x only", "refs only", "both"]


def with_partner(pairs) -> Tensor:
    """The distances, with 0 for a missing partner, whose infinity has no difference quotient."""
    return torch.where(pairs.index >= 0, pairs.distance, 0)


def formula(x: Tensor, refs: Tensor, index: Tensor) -> Tensor:
    """[4, B] distances of the chosen pairs, for autograd; a constant 0 where there is no pair or it is at distance 0."""
    squared = (x - refs[index.clamp(min=0)]).pow(2).sum(dim=2) if len(refs) else x.sum() * torch.zeros(index.shape).to(x)
    counts = (index >= 0) & (squared > 0)
    return torch.where(counts, torch.where(counts, squared, 1).sqrt(), 0)


def gradients(batch, weight: Tensor, of_x: bool = True, of_refs: bool = True) -> tuple[Tensor, list[Tensor]]:
    """(index, gradients of sum(weight * distance) wanted) of the op."""
    x, refs = batch.x.detach().requires_grad_(of_x), batch.refs
    if refs is not None:
        refs = refs.detach().requires_grad_(of_refs)
    pairs = run(batch._replace(x=x, refs=refs))
    wanted = [t for t in (x, refs) if t is not None and t.requires_grad]
    return pairs.index, list(torch.autograd.grad((weight * with_partner(pairs)).sum(), wanted))


def formula_gradients(batch, index: Tensor, weight: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The same by autograd in a dtype; rows that are not finite take no part."""
    x, refs = (None if t is None else t.detach().to(dtype).nan_to_num(0, 0, 0).requires_grad_() for t in (batch.x, batch.refs))
    wanted = [x] if refs is None else [x, refs]
    total = (weight.to(dtype) * formula(x, x if refs is None else refs, index)).sum()
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)]


@pytest.mark.parametrize("side", SIDES, ids=SIDE_IDS)
@pytest.mark.parametrize("modalities", [1, 3])
def test_gradcheck_with_refs(device, side, modalities):
    generator = torch.Generator().manual_seed(0)
    x, refs = torch.randn(5, 3, generator=generator), torch.randn(8, 3, generator=generator)
    refs[2] = x[2]  # a pair at distance 0, whose gradient is 0 by symmetry
    x, refs = (t.double().to(device).requires_grad_(wanted) for t, wanted in zip((x, refs), side, strict=True))
    labels, ref_labels = torch.tensor([0, 1, 2, 0, 9], device=device), torch.tensor([1, 0, 0, 0, 1, 2, 2, 2], device=device)
    modality, ref_modality = torch.arange(5, device=device) % modalities, torch.arange(8, device=device) % modalities

    def op(x, refs):
        options = {"refs": refs, "ref_labels": ref_labels, "ref_modality": ref_modality}
        return with_partner(hardest_pairs(x, labels, modality, **options))

    assert torch.autograd.gradcheck(op, (x, refs))


@pytest.mark.parametrize("modalities", [1, 2])
def test_gradcheck_without_refs(device, modalities):
    """x is on both ends of every pair; anchor 6 has no positive, and within one modality nobody has a cross partner."""
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device).requires_grad_()
    labels, modality = torch.tensor([0, 0, 1, 1, 0, 1, 5], device=device), torch.arange(7, device=device) % modalities
    assert torch.autograd.gradcheck(lambda x: with_partner(hardest_pairs(x, labels, modality)), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_adversarial(case, device, dtype):
    """As autograd through the chosen pairs in float64, rounded once."""
    batch = case.build(dtype, device)
    weight = torch.randn(4, case.rows, generator=torch.Generator().manual_seed(2)).to(device)
    weight = weight.double() if dtype == torch.float64 else weight
    index, ours = gradients(batch, weight)
    truth = formula_gradients(batch, index, weight, torch.float64)
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    eager = formula_gradients(batch, index, weight, accumulate)
    # Terms that one row gathers: each is at most |weight|, and each addition rounds.
    gathered = 4 * torch.finfo(accumulate).eps * max(1.0, len(batch.x) ** 0.5) * weight.abs().max().item()
    for fused, reference, exact, t in zip(ours, eager, truth, (batch.x, batch.refs), strict=False):
        assert fused.dtype == dtype and fused.shape == t.shape and fused.device == t.device
        if dtype in (torch.float32, torch.float64):
            if case.values in ("outlier", "tiny", "huge"):
                reference = exact  # the textbook's squares over- and underflow there: no yardstick
            assert_as_good_as_eager(fused, reference, exact, atol=gathered)
        else:  # accumulated in float32 and rounded once: within half a unit in the last place of the half-precision result
            info = torch.finfo(dtype)
            error = (fused.double() - exact).abs()
            assert (error <= 0.5 * info.eps * exact.abs() + gathered + info.smallest_normal * info.eps).all()


@pytest.mark.parametrize("side", SIDES, ids=SIDE_IDS)
def test_either_side_alone_gets_the_same(device, side):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 30, generator=generator).to(device)
    from_both = None
    for wanted in ((True, True), side):
        x = torch.randn(30, 6, generator=torch.Generator().manual_seed(4)).to(device).requires_grad_(wanted[0])
        refs = torch.randn(20, 6, generator=torch.Generator().manual_seed(5)).to(device).requires_grad_(wanted[1])
        labels, ref_labels = torch.arange(30, device=device) % 4, torch.arange(20, device=device) % 4
        (weight[:2] * hardest_pairs(x, labels, refs=refs, ref_labels=ref_labels).distance[:2]).sum().backward()
        from_both = from_both or (x.grad, refs.grad)
    for t, wanted, expected in zip((x, refs), side, from_both, strict=True):
        assert torch.equal(t.grad, expected) if wanted else t.grad is None


def test_refs_that_are_x_gather_both_ends(device):
    x = torch.randn(9, 4, dtype=torch.float64, device=device, requires_grad=True)
    labels, itself = torch.arange(9, device=device) % 3, torch.arange(9, device=device)
    alone = torch.autograd.grad(hardest_pairs(x, labels).distance[:2].sum(), x)[0]
    pairs = hardest_pairs(x, labels, refs=x, ref_labels=labels, exclude=itself)
    torch.testing.assert_close(torch.autograd.grad(pairs.distance[:2].sum(), x)[0], alone, rtol=1e-12, atol=1e-12)


def test_direction_of_the_four_gradients(device):
    """One anchor at 0 and its four partners on a line."""
    places = torch.tensor([[0.0], [2.0], [-3.0], [5.0], [-7.0]], device=device)
    labels, modality = torch.tensor([0, 0, 1, 0, 1], device=device), torch.tensor([0, 0, 0, 1, 1], device=device)
    expected = {WITHIN_POS: (1, -1), WITHIN_NEG: (2, 1), CROSS_POS: (3, -1), CROSS_NEG: (4, 1)}
    for role, (partner, sign) in expected.items():
        x = places.clone().requires_grad_()
        pairs = hardest_pairs(x, labels, modality)
        assert pairs.index[role, 0] == partner
        pairs.distance[role, 0].backward()
        wanted = torch.zeros(5, 1)
        wanted[0], wanted[partner] = sign, -sign
        assert torch.equal(x.grad.cpu(), wanted)


def test_distance_zero_has_gradient_zero(device):
    """Also where the incoming gradient is huge or not a number: nothing may leak through 0 / 0."""
    for incoming in (1.0, 1e30, float("inf"), float("nan")):
        x = torch.full((4, 3), 2.5, device=device, requires_grad=True)
        distance, index = hardest_pairs(x, torch.tensor([0, 0, 1, 1], device=device))
        assert index[:2].ge(0).all() and distance[:2].eq(0).all()
        distance[:2].backward(torch.full((2, 4), incoming, device=device))
        assert x.grad.eq(0).all()


def test_distance_beyond_the_dtype_poisons_nothing(device):
    """3e38 and its opposite are farther apart than float32 can say: infinite, with no gradient rather than NaN."""
    x = torch.tensor([[3e38], [-3e38], [1e38]], device=device, requires_grad=True)
    distance, index = hardest_pairs(x, torch.zeros(3, dtype=torch.int64, device=device))
    assert index[WITHIN_POS].tolist() == [1, 0, 1] and distance[WITHIN_POS].eq(torch.inf).tolist() == [True, True, True]
    distance[WITHIN_POS].sum().backward()
    assert x.grad.eq(0).all()


@pytest.mark.parametrize("smooth", [torch.relu, torch.nn.functional.softplus])
def test_missing_partner_in_a_triplet_loss(device, smooth):
    """-inf for a positive and +inf for a negative make a hinge and its gradient 0."""
    x = torch.randn(3, 4, device=device, requires_grad=True)
    distance, index = hardest_pairs(x, torch.arange(3, device=device))  # nobody has a positive
    loss = smooth(distance[WITHIN_POS] - distance[WITHIN_NEG] + 0.2).mean()
    loss.backward()
    assert index[WITHIN_POS].eq(-1).all() and loss == 0 and x.grad.eq(0).all()


def test_rows_that_are_not_finite_give_and_get_no_gradient(device):
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(6)).to(device)
    x[3, 1], x[8, 0] = float("nan"), float("inf")
    x.requires_grad_()
    distance = hardest_pairs(x, torch.arange(12, device=device) % 2).distance
    distance[:2].nan_to_num(0).sum().backward()
    assert x.grad.isfinite().all() and x.grad[[3, 8]].eq(0).all() and x.grad[0].ne(0).any()


def test_no_references(device):
    x = torch.randn(3, 4, device=device, requires_grad=True)
    refs = torch.zeros(0, 4, device=device, requires_grad=True)
    ids = torch.zeros(0, dtype=torch.int64, device=device)
    with_partner(hardest_pairs(x, torch.arange(3, device=device), refs=refs, ref_labels=ids)).sum().backward()
    assert x.grad.eq(0).all() and refs.grad.shape == (0, 4)


def test_same_bits_every_time(device):
    """Run after run and on one thread or two, with every row gathering many terms."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(700, 37, generator=generator).to(device)
    refs = torch.randn(90, 37, generator=generator).to(device)
    labels, modality = (torch.randint(0, n, (700,), generator=generator).to(device) for n in (6, 2))
    own = {"modality": modality}
    bank = {**own, "refs": refs, "ref_labels": labels[:90], "ref_modality": modality[:90]}
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        seen = []
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            results = []
            for options in (own, bank):
                leaves = [t.clone().requires_grad_() for t in (x, refs)]
                moved = {**options, "refs": leaves[1]} if "refs" in options else options
                pairs = hardest_pairs(leaves[0], labels, **moved)
                with_partner(pairs).sum().backward()
                results += [*pairs, leaves[0].grad, leaves[1].grad]
            seen.append([t for t in results if t is not None])
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    for results in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], results, strict=True))


def test_no_derivative_goes_missing_in_silence(device):
    x = torch.randn(6, 3, device=device, requires_grad=True)
    labels = torch.arange(6, device=device) % 2
    distance = hardest_pairs(x, labels).distance[:2].sum()
    (first,) = torch.autograd.grad(distance, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        first.sum().backward()
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: hardest_pairs(x, labels).distance, (x.detach(),), (x.detach(),))
    refs = {"ref_labels": labels}
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda r: hardest_pairs(x.detach(), labels, refs=r, **refs).distance, (x.detach(),), (x.detach(),))
    assert not hardest_pairs(x, labels).index.requires_grad


def test_no_graph_is_kept_where_none_is_wanted(device):
    x, labels = torch.randn(6, 3, device=device, requires_grad=True), torch.arange(6, device=device) % 2
    with torch.no_grad():
        assert not hardest_pairs(x, labels).distance.requires_grad
    with torch.inference_mode():
        assert hardest_pairs(x, labels).distance.is_inference()
    assert not hardest_pairs(x.detach(), labels).distance.requires_grad


@pytest.mark.skipif(bool(_ext.cpu_reason), reason="plain torch has its own words for it")
def test_a_partner_that_does_not_exist_is_refused():
    """Of the ops below the public ones, which cannot get there."""
    x, some = torch.randn(5, 3), torch.rand(4, 5)
    index = torch.full((4, 5), 5)
    with pytest.raises(RuntimeError, match="index must hold rows of refs, below 5"):
        torch.ops.zsml.hardest_pairs_backward(some, x, None, some, index, True, False)
    with pytest.raises(RuntimeError, match="index must hold rows of refs, below 5"):
        torch.ops.zsml.modality_triplet_backward(torch.tensor(1.0), x, some, some, index, x, torch.ones(5, dtype=torch.float64))
