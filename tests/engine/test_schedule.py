from __future__ import annotations

import math

import pytest

from zsml.engine.schedule import mathm_factor
from zsml.errors import InputError


def test_the_published_schedule_of_40_epochs():
    factors = [mathm_factor(epoch, 40) for epoch in range(40)]
    assert factors[:2] == [1, 1]  # frozen
    assert factors[2:7] == pytest.approx([0.01, 0.21, 0.41, 0.61, 0.81])  # warm-up
    assert factors[7:12] == [1] * 5
    assert factors[12] == pytest.approx(0.944, abs=5e-4)
    assert factors[12:] == pytest.approx([(1 + math.cos(math.pi * k / 33)) / 2 for k in range(5, 33)])
    assert factors[39] == pytest.approx(0.00226, abs=1e-5)


@pytest.mark.parametrize(("epochs", "frozen", "warmup"), [(1, 0, 0), (1, 1, 5), (3, 2, 5), (8, 0, 5), (10, 2, 4), (7, 7, 0)])
def test_short_trainings_stay_between_0_and_1(epochs, frozen, warmup):
    factors = [mathm_factor(e, epochs, frozen_epochs=frozen, warmup_epochs=warmup) for e in range(epochs)]
    assert all(0 < factor <= 1 for factor in factors)


def test_without_warm_up_the_cosine_starts_at_once():
    factors = [mathm_factor(e, 4, frozen_epochs=0, warmup_epochs=0) for e in range(4)]
    assert factors == pytest.approx([1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((40, 40), "epoch"), ((-1, 40), "epoch"), ((0, 40, -1), "frozen_epochs"), ((0, 40, 2, -1), "warmup_epochs")],
)
def test_bad_arguments_are_named(arguments, named):
    epoch, epochs, *rest = arguments
    options = dict(zip(("frozen_epochs", "warmup_epochs"), rest, strict=False))
    with pytest.raises(InputError, match=named):
        mathm_factor(epoch, epochs, **options)
