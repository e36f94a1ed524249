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
    if not 0 <= epoch < epochs:
        raise InputError(f"epoch must be one of 0..{epochs - 1} (epochs={epochs}), got {epoch}")
    if epoch < frozen_epochs:
        return 1.0
    e, length = epoch - frozen_epochs, epochs - frozen_epochs
    if e < warmup_epochs:
        return 0.01 + e / warmup_epochs
    if e < 2 * warmup_epochs:
        return 1.0
    return (1 + math.cos(math.pi * (e - warmup_epochs) / (length - warmup_epochs))) / 2
