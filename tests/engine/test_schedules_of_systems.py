"""The published learning rates, by epoch and step."""

from __future__ import annotations

import pytest

from zsml.engine.schedule import exponential_factor, linear_half_factor
from zsml.errors import InputError


def test_the_rates_of_sake_and_dsn():
    twenty = {0: 1e-4, 1: 7.08e-5, 5: 1.78e-5, 10: 3.16e-6, 19: 1.41e-7}
    sixteen = {8: 3.16e-6, 15: 1.54e-7}
    for epochs, rates in ((20, twenty), (16, sixteen)):
        for epoch, rate in rates.items():
            assert 1e-4 * exponential_factor(epoch, epochs) == pytest.approx(rate, rel=3e-3)


def test_the_rate_of_mems_is_constant_for_half_its_steps_and_then_falls_to_nothing():
    steps, epochs, in_epoch = 200_000, 200, 1000
    for step in (0, 1, 99_999, 100_000, 100_500, 150_000, 199_999):
        expected = 1.0 if step <= steps // 2 else 2 * (1 - step / steps)
        assert linear_half_factor(step // in_epoch, epochs, step % in_epoch / in_epoch) == pytest.approx(expected)


@pytest.mark.parametrize("factor", [exponential_factor, linear_half_factor])
@pytest.mark.parametrize("epoch", [-1, 4])
def test_an_epoch_outside_the_training_is_refused(factor, epoch):
    with pytest.raises(InputError, match=rf"epoch must be one of 0\.\.3 \(epochs=4\), got {epoch}"):
        factor(epoch, 4)


def test_a_part_outside_the_epoch_is_refused():
    with pytest.raises(InputError, match=r"part must be from 0 to 1, got 1\.5"):
        linear_half_factor(0, 4, 1.5)
