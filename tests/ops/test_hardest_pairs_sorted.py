"""The search sorts a batch that is its own candidates: what the order of rows must not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zsml.ops import hardest_pairs


def on_a_grid(count: int, width: int, classes: int, kinds: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integer coordinates: equal distances everywhere, exactly equal in float32."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 2, (count, width), generator=generator).float()
    return x, torch.randint(0, classes, (count,), generator=generator), torch.randint(0, kinds, (count,), generator=generator)


def by_definition(x: Tensor, labels: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [4, B] (integers, so exact) and the lowest index that reaches each."""
    squared = (x[:, None].long() - x[None].long()).pow(2).sum(dim=2)  # [B, B]
    same_class, same_modality = labels[:, None] == labels, modality[:, None] == modality
    other = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    best, where = [], []
    for fits in (same_modality, ~same_modality):
        for sign, wanted in ((-1, fits & same_class & other), (1, fits & ~same_class)):
            masked = torch.where(wanted, sign * squared, 10**9)
            least = masked.amin(dim=1)
            first = (masked == least[:, None]).int().argmax(dim=1)
            found = wanted.any(dim=1)
            best.append(torch.where(found, (sign * least).double().sqrt(), sign * torch.inf))
            where.append(torch.where(found, first, -1))
    return torch.stack(best), torch.stack(where)


@pytest.mark.parametrize(("classes", "kinds"), [(1, 1), (2, 1), (3, 2), (60, 2), (700, 3), (5, 40)])
@pytest.mark.parametrize("count", [15, 449, 700])
def test_lowest_index_wins_among_equals(device, count, classes, kinds):
    x, labels, modality = (t.to(device) for t in on_a_grid(count, 5, classes, kinds, seed=count + classes))
    ours = hardest_pairs(x, labels, modality)
    distance, index = by_definition(x, labels, modality)
    assert torch.equal(ours.index, index)
    torch.testing.assert_close(ours.distance.double(), distance)


def test_any_ids_sort(device):
    """Ids across the whole range of int64, classes shared by the modalities."""
    x, labels, modality = (t.to(device) for t in on_a_grid(200, 6, 9, 3, seed=3))
    ids = torch.tensor([2**63 - 1, -(2**63), 0, -1, 2**31, -(2**31) - 1, 7, 2**40, -5], device=device)
    assert torch.equal(hardest_pairs(x, ids[labels], ids[modality]).index, hardest_pairs(x, labels, modality).index)


def test_order_of_rows_does_not_change_distances(device):
    x, labels, modality = (t.to(device) for t in on_a_grid(300, 64, 30, 2, seed=1))
    x = x + torch.rand(300, 64, generator=torch.Generator().manual_seed(0)).to(device)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1)).to(device)
    plain, shuffled = hardest_pairs(x, labels, modality), hardest_pairs(x[order], labels[order], modality[order])
    assert torch.equal(shuffled.distance, plain.distance[:, order])
    partner = torch.where(shuffled.index >= 0, order[shuffled.index.clamp(min=0)], -1)
    assert torch.equal(partner, plain.index[:, order])


def test_threads_do_not_change_anything():
    x, labels, modality = on_a_grid(1100, 16, 100, 2, seed=9)
    before = torch.get_num_threads()
    try:
        seen = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(hardest_pairs(x, labels, modality))
    finally:
        torch.set_num_threads(before)
    for found in seen[1:]:
        assert torch.equal(found.index, seen[0].index) and torch.equal(found.distance, seen[0].distance)


@pytest.mark.parametrize("kinds", [2, 3])
def test_modalities_far_apart(device, kinds):
    """Each modality a small cluster of its own: within one, distances in the frame of all would cancel."""
    generator = torch.Generator().manual_seed(kinds)
    labels, modality = torch.arange(400) // 8, torch.arange(400) % kinds
    centres = torch.randn(kinds, 48, generator=generator, dtype=torch.float64)
    x = (centres[modality] + 1e-3 * torch.randn(400, 48, generator=generator, dtype=torch.float64)).float()
    x[5, 7], x[17] = torch.nan, x[25]
    ours = hardest_pairs(x.to(device), labels.to(device), modality.to(device))
    finite = x.isfinite().all(dim=1)
    d = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    same_class, same_modality = labels[:, None] == labels, modality[:, None] == modality
    allowed = finite[None] & ~torch.eye(400, dtype=torch.bool)
    for role, wanted in enumerate((same_modality & same_class, same_modality & ~same_class, ~same_modality & same_class)):
        sign = 1 if role == 1 else -1
        best = sign * torch.where(wanted & allowed, sign * d, torch.inf).amin(dim=1)
        found, index = ours.distance[role].cpu().double()[finite], ours.index[role].cpu()[finite]
        torch.testing.assert_close(found, best[finite], rtol=1e-6, atol=0)
        chosen = d[finite].gather(1, index.clamp(min=0)[:, None])[:, 0]
        torch.testing.assert_close(chosen[index >= 0], best[finite][index >= 0], rtol=1e-6, atol=0)
    assert (ours.index[:, 5] == -1).all() and ours.distance[:, 5].isnan().all()
    assert ours.index[1, [17, 25]].tolist() == by_first(d, same_modality & ~same_class & allowed, [17, 25])


def by_first(d: Tensor, wanted: Tensor, rows: list[int]) -> list[int]:
    """The lowest index at the least distance."""
    masked = torch.where(wanted, d, torch.inf)
    return [int((masked[i] == masked[i].min()).int().argmax()) for i in rows]
