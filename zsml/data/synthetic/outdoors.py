"""Families of places, plants and food. Each draws one specimen of the class that the traits describe."""

from __future__ import annotations

import numpy as np

from zsml.data.synthetic.shapes import BODY, DARK, LIGHT, SECOND, Figure, arc, box, ellipse, lobed, profile, smooth, spin
from zsml.data.synthetic.traits import Traits, Vary


def house(t: Traits, r: Vary, f: Figure) -> None:
    """Buildings from the front."""
    build = t.pick("build", ("", "tall", "wide", "leaning"))
    roof = t.pick("roof", ("gabled", "domed", "battlemented", "spired", "flat"))
    wings = t.pick("wings", ("", "towered", "chimneyed", "porched"))
    door = t.pick("door", ("", "arched", "double-doored"))
    windows = t.pick("windows", ("", "two-windowed", "four-windowed", "round-windowed"))
    w = r.near({"": 0.5, "tall": 0.3, "wide": 0.78, "leaning": 0.42}[build])
    top, low = -r.near(0.75 if build == "tall" else 0.2), 0.7
    lean = 0.25 if build == "leaning" else 0.0
    if wings == "towered":
        for side in (-1, 1):
            x = side * (w + 0.1)
            f.shape(box(x - 0.15, top - r.near(0.15), x + 0.15, low), SECOND)
            f.shape([(x - 0.21, top - 0.13), (x, top - r.near(0.55)), (x + 0.21, top - 0.13)], DARK)
    elif wings == "chimneyed":
        f.shape(box(w * 0.4 + lean, top - r.near(0.52), w * 0.4 + 0.19 + lean, top), DARK)
    elif wings == "porched":
        for side in (-1, 1):
            f.stroke([(side * (w + 0.28), low), (side * (w + 0.28), 0.3)], 0.09, SECOND)
        f.shape([(-w - 0.4, 0.3), (-w, 0.1), (w, 0.1), (w + 0.4, 0.3)], SECOND)
    f.shape([(-w + lean, top), (w + lean, top), (w, low), (-w, low)])
    eave, x = w * 1.15, lean
    if roof == "gabled":
        f.shape([(x - eave, top + 0.02), (x, top - r.near(0.5)), (x + eave, top + 0.02)], DARK)
    elif roof == "domed":
        f.shape(arc(x, top + 0.02, w * 0.95, r.near(0.42), 0.5, 1.0), SECOND)
        f.stroke([(x, top - 0.4), (x, top - 0.62)], 0.06, DARK)
    elif roof == "spired":
        f.shape(
            [
                (x - w, top + 0.02),
                (x - w * 0.25, top - 0.3),
                (x, top - r.near(0.95)),
                (x + w * 0.25, top - 0.3),
                (x + w, top + 0.02),
            ],
            DARK,
        )
    elif roof == "battlemented":
        for u in (-0.84, -0.28, 0.28, 0.84):
            f.shape(box(x + w * (u - 0.17), top - r.near(0.2), x + w * (u + 0.17), top + 0.03))
    else:
        f.shape(box(x - eave, top - 0.13, x + eave, top + 0.02), DARK)
    if door == "arched":
        f.shape(np.concatenate([arc(0, low - 0.3, 0.15, 0.16, 0.5, 1.0, 10), [(0.15, low), (-0.15, low)]]), DARK, detail=True)
    elif door == "double-doored":
        for side in (-1, 1):
            f.shape(box(side * 0.01, low - 0.36, side * r.near(0.2), low), DARK, detail=True)
    else:
        f.shape(box(-0.11, low - r.near(0.36), 0.11, low), DARK, detail=True)
    spots = {"two-windowed": [(-0.5, 0.25), (0.5, 0.25)], "four-windowed": [(-0.5, 0.2), (0.5, 0.2), (-0.5, 0.55), (0.5, 0.55)]}
    for u, v in spots.get(windows, []):
        y = top + v * (low - top) + 0.02
        f.shape(box(u * w - 0.1 + lean * (1 - v), y - 0.1, u * w + 0.1 + lean * (1 - v), y + 0.1), LIGHT, detail=True)
    if windows == "round-windowed":
        f.dot(lean * 0.7, top + 0.24, 0.15, LIGHT)


def plant(t: Traits, r: Vary, f: Figure) -> None:
    """What grows in a pot or from the ground."""
    ground = t.pick("ground", ("", "potted", "bulbous"))
    stem = t.pick("stem", ("", "curved", "three-stemmed"))
    flower = t.pick("flower", ("daisy", "tulip", "sun", "bell", "ear", "cactus"))
    leaves = t.pick("leaves", ("", "leafy", "broad-leaved"))
    low, high = 0.55, -r.near(0.45)
    if flower == "cactus":
        w = r.near(0.2)
        arms = (-1, 1) if stem else (1,)
        for side in arms:
            y = 0.1 - 0.15 * side + r.shift(0.06)
            f.stroke([(0, y), (side * 0.45, y), (side * 0.45, y - r.near(0.38))], 0.18)
        f.shape(box(-w, high - 0.25, w, low, w))
        for x in (-0.4, 0.4):
            f.stroke([(x * w, high), (x * w, low - 0.1)], 0.04, DARK, detail=True)
    else:
        stems = {"": (0.0,), "curved": (0.0,), "three-stemmed": (-0.5, 0.5, 0.0)}[stem]
        for u in stems:
            tip = (u + (0.18 if stem == "curved" else 0.0), high + 0.35 * abs(u))
            bend = r.near(0.28) if stem == "curved" else u * 0.3
            f.stroke(smooth([(0, low), (-bend if stem == "curved" else bend, (low + high) / 2), tip]), 0.07, DARK)
            _flower(flower, r, f, *tip, r.near(0.34) * (0.75 if len(stems) > 1 else 1.0))
        if leaves:
            wide = 0.15 if leaves == "broad-leaved" else 0.08
            for side in (-1, 1):
                f.shape(spin(ellipse(side * 0.28, 0.2, r.near(0.28), wide), -side * 0.08, 0, 0.3), SECOND)
    if ground == "potted":
        f.shape([(-0.34, low - 0.06), (0.34, low - 0.06), (r.near(0.24), 1.0), (-0.24, 1.0)], LIGHT)
        f.shape(box(-0.4, low - 0.14, 0.4, low + 0.02), LIGHT)
    elif ground == "bulbous":
        f.shape(smooth([(0, low - 0.15), (0.3, low + 0.1), (0.0, low + r.near(0.42)), (-0.3, low + 0.1)], True), LIGHT)


def _flower(kind: str, r: Vary, f: Figure, x: float, y: float, s: float) -> None:
    if kind == "daisy":
        many = r.count(6, 7)
        for k in range(many):
            f.shape(spin(ellipse(x, y - s * 0.68, s * 0.26, s * 0.5, n=14), k / many, x, y), BODY)
        f.shape(ellipse(x, y, s * 0.36, s * 0.36, n=16), LIGHT)
    elif kind == "tulip":
        f.shape(
            smooth(
                [
                    (x, y + s * 0.5),
                    (x - s * 0.7, y + s * 0.2),
                    (x - s * 0.65, y - s),
                    (x - s * 0.3, y - s * 0.4),
                    (x, y - s * 1.1),
                    (x + s * 0.3, y - s * 0.4),
                    (x + s * 0.65, y - s),
                    (x + s * 0.7, y + s * 0.2),
                ],
                True,
                4,
            )
        )
    elif kind == "sun":
        f.shape(lobed(x, y, s * 1.15, s * 1.15, 11, 0.14))
        f.shape(ellipse(x, y, s * 0.68, s * 0.68), DARK)
    elif kind == "bell":
        f.shape(profile([(y - s * 0.5, 0.04), (y, s * 0.6), (y + s * 0.5, s * 0.55), (y + s * 0.85, s * 0.95)], x))
    else:
        for k in range(5):
            for side in (-1, 1):
                f.shape(
                    ellipse(x + side * s * 0.28, y - s * 0.9 + k * s * 0.42, s * 0.16, s * 0.32, tilt=side * 0.08, n=12), BODY
                )


def tree(t: Traits, r: Vary, f: Figure) -> None:
    """Trees and mushrooms: a crown on a trunk."""
    crown = t.pick("crown", ("round", "tiered", "palm", "cloudy", "weeping", "capped", "bare"))
    trunk = t.pick("trunk", ("", "thick", "forked", "rooted"))
    fruit = t.pick("fruit", ("", "fruited", "snowy"))
    size = t.pick("size", ("", "tall", "broad"))
    low, y = 0.95, -r.near(0.2 if size != "tall" else 0.35)
    thick = r.near(0.34 if trunk == "thick" else 0.16)
    w = r.near(0.78 if size == "broad" else 0.52)
    f.shape([(-thick * 0.4, y), (thick * 0.4, y), (thick * 0.7, low), (-thick * 0.7, low)], DARK)
    if trunk == "rooted":
        for side in (-1, 1):
            f.stroke(smooth([(side * thick * 0.4, low - 0.2), (side * 0.25, low - 0.05), (side * r.near(0.45), low)]), 0.1, DARK)
    elif trunk == "forked":
        for side in (-1, 1):
            f.stroke([(0, 0.42), (side * r.near(0.4), y)], 0.12, DARK)
    if crown == "round":
        f.shape(ellipse(0, y - 0.2, w, r.near(0.58)))
    elif crown == "tiered":
        for k in range(3):
            half, top = w * (1.0 - 0.24 * k), y + 0.3 - 0.36 * k
            f.shape([(-half, top), (0, top - r.near(0.62)), (half, top)])
    elif crown == "palm":
        for k in range(6):
            a, reach = (k / 5 * 0.62 - 0.06), r.near(w * 1.35)
            end = (-reach * np.cos(a * np.pi * 1.2 - 0.2), y - reach * 0.7 * np.sin(a * np.pi * 1.6))
            f.shape(
                smooth(
                    [
                        (0, y),
                        (end[0] * 0.55, y + (end[1] - y) - 0.18),
                        (end[0], end[1] + 0.2),
                        (end[0] * 0.5, y + (end[1] - y) * 0.6 + 0.06),
                    ],
                    True,
                    5,
                )
            )
    elif crown == "cloudy":
        for u, v, s in ((-0.6, 0.1, 0.36), (0.6, 0.1, 0.36), (0, -0.35, 0.42), (0, 0.12, 0.36)):
            f.shape(lobed(u * w, y - 0.1 + v, r.near(s), s, 7))
    elif crown == "weeping":
        f.shape(arc(0, y + 0.02, w * 1.1, r.near(0.55), 0.5, 1.0))
        for u in np.linspace(-0.9, 0.9, 6):
            f.stroke(smooth([(u * w, y - 0.1), (u * w * 1.2, y + 0.25), (u * w * 1.22, y + r.near(0.7))]), 0.1)
    elif crown == "capped":
        f.shape(
            np.concatenate(
                [
                    arc(0, y + 0.12, w * 1.15, r.near(0.62), 0.5, 1.0),
                    smooth([(w * 1.1, y + 0.12), (0, y + 0.24), (-w * 1.1, y + 0.12)]),
                ]
            )
        )
    else:
        for k, lean in enumerate((-0.75, -0.3, 0.3, 0.75)):
            tip = (lean * w * 1.3, y - r.near(0.65))
            f.stroke([(0, y + 0.1), (lean * 0.4, y - 0.15), tip], 0.09, DARK)
            f.stroke([(lean * 0.55, y - 0.25), (lean * 0.55 + (0.3 if k % 2 else -0.3), y - 0.45)], 0.06, DARK)
    if fruit == "fruited":
        for u, v in ((-0.5, -0.1), (0.1, -0.35), (0.5, -0.05), (-0.05, 0.0)):
            f.dot(u * w + r.shift(0.05), y - 0.05 + v, 0.09, SECOND)
    elif fruit == "snowy":
        f.shape(arc(0, y - 0.32, w * 0.5, r.near(0.3), 0.5, 1.0, 12), LIGHT, detail=True)


def treat(t: Traits, r: Vary, f: Figure) -> None:
    """Things to eat: stacked, coned, sliced or whole."""
    base = t.pick("base", ("cone", "cake", "bun", "stick", "plate", "slice", "apple"))
    top = t.pick("top", ("", "cherry", "candle", "leaf", "cream"))
    marks = t.pick("marks", ("", "dotted", "layered", "waffled"))
    layers = t.pick("layers", ("", "double"))
    w, n = r.near(0.5), 2 if layers else 1
    y = 0.0
    if base == "cone":
        f.shape([(-w * 0.8, 0.05), (w * 0.8, 0.05), (0, r.near(1.05))], SECOND)
        for k in range(n):
            y = -0.12 - 0.42 * k
            f.shape(lobed(0, y, w * (0.95 - 0.2 * k), 0.4 - 0.06 * k, 8, 0.06))
        y -= 0.36
    elif base == "cake":
        for k in range(n + 1):
            half = w * (1.5 - 0.45 * k)
            f.shape(box(-half, 0.45 - 0.42 * k, half, 0.88 - 0.42 * k, 0.04), BODY if k % 2 == 0 else SECOND)
        y = 0.45 - 0.42 * n
    elif base == "bun":
        f.shape(box(-w * 1.3, 0.4, w * 1.3, 0.72, 0.15))
        for k in range(n):
            f.shape(lobed(0, 0.34 - 0.22 * k, w * 1.45, 0.12, 9, 0.15), (DARK, LIGHT)[k])
        y = 0.2 - 0.22 * (n - 1)
        f.shape(arc(0, y, w * 1.35, r.near(0.55), 0.5, 1.0))
        y -= 0.5
    elif base == "stick":
        f.stroke([(0, 0.2), (0, 1.1)], 0.1, LIGHT)
        for k in range(n):
            y = 0.1 - 0.6 * k
            f.shape(ellipse(0, y, w * (1.0 if n == 1 else 0.75), w * (1.0 if n == 1 else 0.72)))
        y -= w * 0.8
    elif base == "plate":
        f.shape(arc(0, 0.35, w * 1.8, r.near(0.35), 0.0, 0.5), SECOND)
        for k in range(2 * n):
            f.shape(ellipse((k - n + 0.5) * w * 0.9, 0.18 - 0.14 * (k % 2), w * 0.55, 0.3))
        y = -0.12
    elif base == "slice":
        f.shape([(-w * 1.3, -0.2), (w * 1.3, -0.2), (r.shift(0.15), 1.0)])
        f.shape(ellipse(0, -0.22, w * 1.45, 0.16), SECOND)
        if layers:
            f.stroke([(-w * 0.7, 0.3), (w * 0.7, 0.3)], 0.12, DARK, detail=True)
        y = -0.35
    else:
        for x in (0.0,) if n == 1 else (-0.45, 0.45):
            s = 0.62 if n == 1 else 0.42
            f.shape(
                smooth(
                    [
                        (x, -s * 0.75),
                        (x + s * 0.6, -s),
                        (x + s, -0.1),
                        (x + s * 0.5, s),
                        (x, s * 0.85),
                        (x - s * 0.5, s),
                        (x - s, -0.1),
                        (x - s * 0.6, -s),
                    ],
                    True,
                )
            )
        y = -0.5
    mid = {"cone": 0.4, "cake": 0.66, "stick": 0.1, "slice": 0.2, "apple": 0.1}.get(base, 0.1)
    if marks == "dotted":
        for u, v in ((-0.4, 0.0), (0.35, -0.08), (0.0, 0.14)):
            f.dot(u * w, mid + v, 0.085, DARK)
    elif marks == "layered":
        f.stroke(
            smooth([(-w * 0.7, mid), (-w * 0.25, mid + 0.08), (w * 0.25, mid - 0.06), (w * 0.7, mid + 0.03)]),
            0.1,
            LIGHT,
            detail=True,
        )
    elif marks == "waffled":
        for u in (-0.25, 0.15):
            f.stroke([(u * w, mid - 0.25), ((u + 0.35) * w, mid + 0.2)], 0.05, DARK, detail=True)
            f.stroke([((u + 0.35) * w, mid - 0.25), (u * w, mid + 0.2)], 0.05, DARK, detail=True)
    if top == "cherry":
        f.stroke(arc(0.16, y - 0.12, 0.16, r.near(0.34), 0.5, 0.75, 8), 0.05, DARK)
        f.shape(ellipse(0, y - 0.06, 0.15, 0.15), DARK)
    elif top == "candle":
        f.shape(box(-0.06, y - r.near(0.4), 0.06, y + 0.03), LIGHT)
        f.shape(ellipse(0, y - 0.5, 0.08, 0.14), SECOND)
    elif top == "leaf":
        f.stroke([(0, y + 0.05), (0.04, y - 0.25)], 0.07, DARK)
        f.shape(spin(ellipse(0.24, y - 0.2, r.near(0.24), 0.11), -0.07, 0.04, y - 0.2), SECOND)
    elif top == "cream":
        f.shape(lobed(0, y, w * 0.5, r.near(0.18), 6), LIGHT)
        f.shape(ellipse(0.02, y - 0.22, 0.13, 0.12), LIGHT)
