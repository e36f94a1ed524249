"""hardest_pairs by its definition, one anchor at a time in float64, and what may differ from it."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from zsml.ops import CROSS_POS, WITHIN_POS, HardestPairs, hardest_pairs

ROLES = 4


class Truth(NamedTuple):
    distance: Tensor  # [B, M] float64; NaN where either row has a NaN or an infinity
    allowed: Tensor  # [4, B, M] which candidates may be chosen
    usable: Tensor  # [B] anchors without NaN or infinity


def run(batch) -> HardestPairs:
    return hardest_pairs(batch.x, batch.labels, batch.modality, **batch.options)


def is_positive(role: int) -> bool:
    return role in (WITHIN_POS, CROSS_POS)


@cache
def truth_of(case, dtype: torch.dtype) -> Truth:
    """The same on every device, so worked out once."""
    return brute_force(case.build(dtype))


def brute_force(batch) -> Truth:
    """Every distance and every permission, spelled out."""
    x, labels = batch.x.detach().cpu().double(), batch.labels.cpu()
    own = batch.refs is None
    refs = x if own else batch.refs.detach().cpu().double()
    ref_labels = labels if own else batch.ref_labels.cpu()
    if batch.modality is None:
        modality, ref_modality = torch.zeros(len(x)), torch.zeros(len(refs))
    else:
        modality = batch.modality.cpu()
        ref_modality = modality if own else batch.ref_modality.cpu()
    usable, ref_usable = (torch.tensor([bool(row.isfinite().all()) for row in t], dtype=torch.bool) for t in (x, refs))
    distance = torch.full((len(x), len(refs)), torch.nan, dtype=torch.float64)
    allowed = torch.zeros(ROLES, len(x), len(refs), dtype=torch.bool)
    for i in range(len(x)):
        if not usable[i]:
            continue
        distance[i, ref_usable] = (x[i] - refs[ref_usable]).pow(2).sum(dim=1).sqrt()
        fits = ref_usable.clone()
        if own:
            fits[i] = False
        elif batch.exclude is not None and batch.exclude[i] >= 0:
            fits[batch.exclude[i]] = False
        same_class, same_modality = ref_labels == labels[i], ref_modality == modality[i]
        allowed[0, i] = fits & same_class & same_modality
        allowed[1, i] = fits & ~same_class & same_modality
        allowed[2, i] = fits & same_class & ~same_modality
        allowed[3, i] = fits & ~same_class & ~same_modality
    return Truth(distance, allowed, usable)


def assert_hardest(result: HardestPairs, batch, truth: Truth, *, exact: bool) -> None:
    """The result is right: a permitted partner, as hard as any, the lowest of equals, its distance true to rounding.

    exact: the arithmetic has no rounding, so the very index is known. Otherwise a search may settle for a partner whose true
    distance is within the rounding of a sum of D products of the hardest one's.
    """
    accumulate = torch.float64 if batch.x.dtype == torch.float64 else torch.float32
    assert result.distance.dtype == accumulate and result.index.dtype == torch.int64
    assert result.distance.shape == result.index.shape == (ROLES, len(batch.x))
    assert result.distance.device == result.index.device == batch.x.device
    precision, root = torch.finfo(accumulate), batch.x.shape[1] ** 0.5
    search_error = 4 * precision.eps * max(root, 2)
    # Against a truth in float64, float64 rounds as often as the truth does.
    own_error = precision.eps * (4 if accumulate == torch.float32 else 4 + root / 2)
    distance, index = result.distance.detach().cpu().double(), result.index.cpu()
    found = truth.allowed.any(dim=2)  # [4, B]
    sign = torch.tensor([1.0 if is_positive(role) else -1.0 for role in range(ROLES)])[:, None]
    expected_index, expected, chosen = index.clone(), distance.clone(), distance.clone()
    if truth.allowed.shape[2]:
        ranked = torch.where(truth.allowed, sign[:, :, None] * truth.distance, -torch.inf)  # [4, B, M]
        expected_index = torch.where(found, ranked.argmax(dim=2), -1)
        expected = sign * ranked.amax(dim=2)
        picked = index.clamp(0, ranked.shape[2] - 1)[:, :, None]
        chosen = sign * ranked.gather(2, picked)[:, :, 0]  # infinite where the pair is not permitted
    else:
        expected_index, expected, chosen = torch.full_like(index, -1), -sign.expand_as(distance) * torch.inf, distance
    slack = own_error * chosen + precision.smallest_normal * precision.eps
    infinite = (distance == torch.inf) & (chosen >= precision.max * (1 - own_error))

    def check(right: Tensor, what: str) -> None:
        if not right.all():
            role, i = (~right).nonzero()[0].tolist()
            raise AssertionError(
                f"{what}: role {role}, anchor {i}: got index {index[role, i]}, distance {distance[role, i]:.17g} (truly "
                f"{chosen[role, i]:.17g}); the hardest is {expected_index[role, i]} at {expected[role, i]:.17g}"
            )

    none = (index == -1) & (distance == -sign * torch.inf)
    check(truth.usable | ((index == -1) & distance.isnan()), "anchor that is not finite")
    check(~truth.usable | found | none, "no candidate")
    found &= truth.usable
    check(~found | ((index >= 0) & (index < truth.allowed.shape[2]) & chosen.isfinite()), "partner not permitted")
    check(~found | ((chosen - expected).abs() <= search_error * expected), "not the hardest")
    check(~found | (index == expected_index) | (not exact), "not the lowest index of equals")
    check(~found | infinite | ((distance - chosen).abs() <= slack), "distance")


def assert_as_good_as_eager(fused: Tensor, eager: Tensor, truth: Tensor, *, atol: float) -> None:
    """|fused - truth| <= 2 max |eager - truth| + atol, where eager is the textbook formula in the dtype of fused."""
    error = (fused.detach().double() - truth).abs()
    allowed = 2 * (eager.detach().double() - truth).abs().max().item() + atol if error.numel() else 0
    if error.numel() and not error.max() <= allowed:  # also where it is NaN
        at = tuple(int(k) for k in torch.unravel_index(error.nan_to_num(torch.inf).argmax(), error.shape))
        raise AssertionError(f"worst at {at}: {fused[at].item()}, true {truth[at].item()}, off by {error[at]}, allowed {allowed}")
