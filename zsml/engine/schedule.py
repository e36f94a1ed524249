"""Learning-rate schedules, as pure functions of the epoch."""

from __future__ import annotations

import math

from zsml.errors import InputError


def mathm_factor(epoch: int, epochs: int, *, frozen_epochs: int = 2, warmup_epochs: int = 5) -> float:
    """The factor MATHM multiplies every learning rate by in one epoch.

    The backbone is frozen for the first F = `frozen_epochs` epochs, and the factor is 1. After that, with e = epoch - F,
    E = epochs - F and W = `warmup_epochs`::

        0.01 + e / W                              e < W           warm-up
        1                                    W <= e < 2 W         plateau
        (1 + cos(pi (e - W) / (E - W))) / 2      e >= 2 W         cosine

    The cosine has been running under the plateau, so leaving it is a small step down (to 0.944 in the published setting,
    40 epochs). Without warm-up the cosine starts at once.

    Args:
        epoch: which epoch, counted from 0.
        epochs: length of the whole training.

    Returns:
        The factor, a plain number without unit.

    Raises:
        InputError: epoch outside 0..epochs-1, or a negative length.

    Source: the training script published with MATHM (arXiv 2112.07966).

    >>> [round(mathm_factor(e, 40), 3) for e in (0, 1, 2, 6, 7, 11, 12, 39)]
    [1.0, 1.0, 0.01, 0.81, 1.0, 1.0, 0.944, 0.002]
    """
    if frozen_epochs < 0 or warmup_epochs < 0:
        raise InputError(f"frozen_epochs and warmup_epochs must be 0 or more, got {frozen_epochs} and {warmup_epochs}")
    _check_epoch(epoch, epochs)
    if epoch < frozen_epochs:
        return 1.0
    e, length = epoch - frozen_epochs, epochs - frozen_epochs
    if e < warmup_epochs:
        return 0.01 + e / warmup_epochs
    if e < 2 * warmup_epochs:
        return 1.0
    return (1 + math.cos(math.pi * (e - warmup_epochs) / (length - warmup_epochs))) / 2


def exponential_factor(epoch: int, epochs: int) -> float:
    """The factor SAKE, DSN and SBKA multiply their learning rates by in one epoch: 0.001^(epoch / epochs).

    Args:
        epoch: which epoch, counted from 0.
        epochs: length of the whole training.

    Raises:
        InputError: epoch outside 0..epochs-1.

    Source: the published training scripts of SAKE (ICCV 2019), DSN (IJCAI 2021) and SBKA.

    >>> [f"{1e-4 * exponential_factor(e, 20):.3g}" for e in (0, 1, 5, 10, 19)]
    ['0.0001', '7.08e-05', '1.78e-05', '3.16e-06', '1.41e-07']
    """
    _check_epoch(epoch, epochs)
    return 0.001 ** (epoch / epochs)


def linear_half_factor(epoch: int, epochs: int, part: float = 0.0) -> float:
    """The factor MEMS multiplies its learning rate by: 1 in the first half of the training, then linearly to 0.

    With the place t = (epoch + part) / epochs, from 0 to 1: min(1, 2 (1 - t)).

    Args:
        epoch: which epoch, counted from 0.
        epochs: length of the whole training.
        part: the part of the epoch that is done, 0 to 1.

    Raises:
        InputError: epoch outside 0..epochs-1, part outside 0..1.

    Source: the training script published with MEMS (arXiv 1812.04275).

    >>> [linear_half_factor(e, 8, part) for e, part in ((0, 0.0), (3, 0.5), (4, 0.0), (6, 0.0), (7, 0.5))]
    [1.0, 1.0, 1.0, 0.5, 0.125]
    """
    _check_epoch(epoch, epochs)
    if not 0 <= part <= 1:
        raise InputError(f"part must be from 0 to 1, got {part}")
    return min(1.0, 2 * (1 - (epoch + part) / epochs))


def _check_epoch(epoch: int, epochs: int) -> None:
    if not 0 <= epoch < epochs:
        raise InputError(f"epoch must be one of 0..{epochs - 1} (epochs={epochs}), got {epoch}")
