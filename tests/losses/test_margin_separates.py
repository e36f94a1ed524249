"""What the margin of MEMS is for: from 2 + sqrt(3) on, a fit without error has its classes apart by more than they are wide."""

from __future__ import annotations

import math

import pytest
import torch

from zsml.losses import MEMSLoss

ENOUGH = 2 + math.sqrt(3)
DIRECTIONS = 180
SIZE = 40.0  # of the centres: far apart, the softmax is as good as a choice of the nearest


def boundary(centers: torch.Tensor, margin: float) -> torch.Tensor:
    """The farthest points of every class that still fit, margin * d_own <= d_other, by direction: [C, DIRECTIONS, 2].

    Along the unit vector u from the centre, with v to another one, m r = |r u - v| gives
    r = (sqrt((u.v)^2 + (m^2 - 1) |v|^2) - u.v) / (m^2 - 1), a ball of Apollonius; the least of the others counts.
    """
    angle = torch.arange(DIRECTIONS, dtype=torch.float64) * (2 * math.pi / DIRECTIONS)
    u = torch.stack([angle.cos(), angle.sin()], dim=1)  # [A, 2]
    points = []
    for own, center in enumerate(centers):
        v = torch.cat([centers[:own], centers[own + 1 :]]) - center  # [C - 1, 2]
        along = u @ v.T  # [A, C - 1]
        reach = ((along.square() + (margin**2 - 1) * v.square().sum(1)).sqrt() - along) / (margin**2 - 1)
        points.append(center + reach.amin(dim=1, keepdim=True) * u)
    return torch.stack(points)


def separation(points: torch.Tensor) -> float:
    """The least, over classes, of the distance to another class as a fraction of the largest distance within."""
    ratios = []
    for own, mine in enumerate(points):
        others = torch.cat([points[:own], points[own + 1 :]]).flatten(0, 1)
        ratios.append((torch.cdist(mine, others).min() / torch.cdist(mine, mine).max()).item())
    return min(ratios)


def random_centers(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = 2 + seed % 3
    return SIZE * torch.randn(count, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("margin", [ENOUGH, 4.0, 6.0])
def test_a_fit_without_error_has_every_distance_within_below_every_distance_between(margin):
    for seed in range(60):
        centers = random_centers(seed)
        points = boundary(centers, margin)
        assert separation(points) >= 1 - 1e-9, (margin, seed)


@pytest.mark.parametrize("margin", [2.0, 3.0])
def test_with_less_margin_it_need_not(margin):
    assert min(separation(boundary(random_centers(seed), margin)) for seed in range(60)) < 1


@pytest.mark.parametrize("margin", [2.0, 3.0, ENOUGH, 4.0])
def test_of_two_classes_the_constant_is_exact(margin):
    points = boundary(torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64), margin)
    assert separation(points) == pytest.approx((margin - 1) ** 2 / (2 * margin), abs=1e-12)  # 1 at 2 + sqrt(3)


@pytest.mark.parametrize("margin", [2.0, ENOUGH, 4.0])
def test_the_loss_draws_the_line_there(margin):
    """Inside the boundary the own class has more than half of the probability, outside less than any other one."""
    centers = random_centers(4)
    loss = MEMSLoss(len(centers), 2, margin=margin).double().eval()
    loss.centers.data.copy_(centers)
    points = boundary(centers, margin)
    labels = torch.arange(len(centers)).repeat_interleave(DIRECTIONS)
    for scale, fits in ((0.95, True), (1.05, False)):
        moved = (centers[:, None] + scale * (points - centers[:, None])).flatten(0, 1)
        losses = torch.stack([loss(row[None], label[None]) for row, label in zip(moved, labels, strict=True)])
        assert ((losses < math.log(2)) == fits).all()
