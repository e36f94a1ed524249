"""From object coordinates to the picture: bend, tilt, mirror, and fit into the frame."""

from __future__ import annotations

import numpy as np

from zsml.data.synthetic.shapes import TAU, Part


def place(
    parts: list[Part], random: np.random.RandomState, frame: int, *, turn: float, fill: tuple[float, float]
) -> tuple[list[np.ndarray], float]:
    """The parts' points in pixels of a square frame, and how many pixels an object unit spans.

    ``turn`` is the largest tilt in turns, ``fill`` the range of the frame's share that the longer side takes.
    """
    u = random.random_sample(10)
    points = np.concatenate([part.points for part in parts])
    phase = u[0] * TAU
    bend = 0.05 * np.sin(points[:, ::-1] * (2.2 + 1.5 * u[1]) + (phase, phase + 1.7))  # the object is not quite rigid
    points = points + bend
    angle = (2 * u[2] - 1) * turn * TAU
    c, s = np.cos(angle), np.sin(angle)
    squeeze = 1 + 0.16 * (2 * u[3:5] - 1)
    shear = 0.18 * (2 * u[5] - 1)
    mirror = -1.0 if u[6] < 0.5 else 1.0
    matrix = np.array([[mirror * squeeze[0], shear], [0.0, squeeze[1]]]) @ np.array([[c, s], [-s, c]])
    points = points @ matrix
    low, high = points.min(axis=0), points.max(axis=0)
    unit = frame * (fill[0] + (fill[1] - fill[0]) * u[7]) / (high - low).max()
    spare = frame - unit * (high - low)
    offset = spare * (0.5 + 0.7 * (u[8:10] - 0.5)) - unit * low
    pixels = np.round((points * unit + offset) * 16) / 16  # a last-digit difference between machines must not show
    return np.split(pixels, np.cumsum([len(part.points) for part in parts])[:-1]), float(unit)
