"""Outlines in object coordinates: x to the right, y down, an object fills about [-1, 1] in both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TAU = 2 * np.pi
BODY, SECOND, DARK, LIGHT = range(4)  # materials: one colour each in a photo


class Part(NamedTuple):
    """One visible piece of an object; later parts cover earlier ones."""

    points: np.ndarray  # [n, 2]
    closed: bool  # a filled outline, or a stroke of the given thickness
    tone: int  # BODY, SECOND, DARK or LIGHT
    width: float  # thickness of a stroke, object units
    detail: bool  # surface decoration: a hasty drawer leaves it out


class Figure:
    """The parts of one object, in painting order."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def shape(self, points: np.ndarray, tone: int = BODY, detail: bool = False) -> None:
        self.parts.append(Part(np.asarray(points, dtype=float), True, tone, 0.0, detail))

    def stroke(self, points: np.ndarray, width: float, tone: int = BODY, detail: bool = False) -> None:
        self.parts.append(Part(np.asarray(points, dtype=float), False, tone, width, detail))

    def dot(self, x: float, y: float, radius: float, tone: int = DARK) -> None:
        self.shape(ellipse(x, y, radius, radius, n=10), tone, detail=True)


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, n: int = 20) -> np.ndarray:
    """Points on an ellipse from angle start to end, in turns (0 = right, 0.25 = down), -> [n, 2]."""
    a = np.linspace(start, end, n) * TAU
    return np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], axis=1)


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0, n: int = 28) -> np.ndarray:
    """A closed ellipse, tilted by so many turns, -> [n, 2]."""
    a = np.arange(n) * (TAU / n)
    u, v = rx * np.cos(a), ry * np.sin(a)
    c, s = np.cos(tilt * TAU), np.sin(tilt * TAU)
    return np.stack([x + c * u - s * v, y + s * u + c * v], axis=1)


def box(left: float, top: float, right: float, bottom: float, round: float = 0.0) -> np.ndarray:
    """A rectangle, corners rounded by a radius in object units."""
    if not round:
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    r = min(round, abs(right - left) / 2, abs(bottom - top) / 2)
    corners = ((right - r, top + r, -0.25), (right - r, bottom - r, 0.0), (left + r, bottom - r, 0.25), (left + r, top + r, 0.5))
    return np.concatenate([arc(x, y, r, r, a, a + 0.25, 5) for x, y, a in corners])


def smooth(points: list[tuple[float, float]], closed: bool = False, steps: int = 6) -> np.ndarray:
    """A Catmull-Rom curve through the points, -> [about len(points) * steps, 2]."""
    p = np.asarray(points, dtype=float)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = (np.arange(steps) / steps)[:, None]
    a, b, c, d = (p[k : len(p) - 3 + k, None] for k in range(4))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def profile(levels: list[tuple[float, float]], x: float = 0.0, curved: bool = True) -> np.ndarray:
    """The outline of a turned body from (y, radius) levels, top to bottom, symmetric about x."""
    side = np.array([(radius, y) for y, radius in levels])
    if curved and len(levels) > 2:
        side = smooth([(a, b) for a, b in side], steps=5)
    left = side[::-1] * (-1, 1)
    return np.concatenate([side, left]) + np.array((x, 0.0))


def star(x: float, y: float, outer: float, inner: float, points: int, turn: float = -0.25) -> np.ndarray:
    """A star (or, with rounded reading, a gear or a splash) of so many points."""
    a = (np.arange(2 * points) / (2 * points) + turn) * TAU
    radius = np.where(np.arange(2 * points) % 2, inner, outer)
    return np.stack([x + radius * np.cos(a), y + radius * np.sin(a)], axis=1)


def lobed(x: float, y: float, rx: float, ry: float, lobes: int, depth: float = 0.12, n: int = 56) -> np.ndarray:
    """A round outline with so many soft bumps: a crown of leaves, a cloud, a fleece."""
    a = np.arange(n) * (TAU / n)
    radius = 1 - depth + depth * np.abs(np.cos(a * lobes / 2)) * 2
    return np.stack([x + rx * radius * np.cos(a), y + ry * radius * np.sin(a)], axis=1)


def spin(points: np.ndarray, turns: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """The points rotated about (x, y)."""
    c, s = np.cos(turns * TAU), np.sin(turns * TAU)
    return (points - (x, y)) @ np.array([[c, s], [-s, c]]) + (x, y)
