"""Families of small life. Each draws one specimen of the class that the traits describe, the same left and right."""

from __future__ import annotations

import numpy as np

from zsml.data.synthetic.animals import pattern
from zsml.data.synthetic.shapes import DARK, LIGHT, SECOND, Figure, arc, ellipse, lobed, smooth, spin, star
from zsml.data.synthetic.traits import Traits, Vary


def bug(t: Traits, r: Vary, f: Figure) -> None:
    """Seen from above, head up, the same left and right."""
    wings = t.pick("wings", ("", "two-winged", "four-winged", "butterfly"))
    body = t.pick("body", ("", "slim", "two-lobed", "three-lobed"))
    legs = t.pick("legs", ("", "six-legged", "eight-legged"))
    head = t.pick("head", ("", "feelered", "pincered"))
    coat = t.pick("coat", ("", "banded", "spotted"))
    rx = r.near({"": 0.36, "slim": 0.14, "two-lobed": 0.3, "three-lobed": 0.24}[body])
    if legs:
        for k in np.linspace(-0.4, 0.4, 3 if legs == "six-legged" else 4):
            knee, foot = r.near(0.3), r.near(0.55)
            for side in (-1, 1):
                f.stroke(
                    [(0, 0.1 + k), (side * (rx + knee * 0.6), k * 1.5 - 0.04), (side * (rx + foot), 0.2 + k * 2.2)], 0.06, DARK
                )
    if wings == "butterfly":
        up, down = r.near(0.42), r.near(0.3)
        for side in (-1, 1):
            f.shape(ellipse(side * 0.42, -0.28, up, 0.34, tilt=-side * 0.09), SECOND)
            f.shape(ellipse(side * 0.34, 0.32, down, 0.27, tilt=side * 0.1), SECOND)
            f.dot(side * 0.46, -0.3, 0.13, LIGHT)
    elif wings:
        for y in (0.0,) if wings == "two-winged" else (-0.16, 0.2):
            for side in (-1, 1):
                lift = -0.05 if y <= 0 else 0.06
                f.shape(spin(ellipse(side * 0.5, y, r.near(0.48), 0.14), side * lift, 0, y), LIGHT)
    if body == "three-lobed":
        f.shape(ellipse(0, 0.46, rx * 1.1, r.near(0.38)))
        f.shape(ellipse(0, -0.05, rx * 0.8, 0.2))
    elif body == "two-lobed":
        f.shape(ellipse(0, 0.32, rx * 1.2, r.near(0.4)))
    else:
        f.shape(ellipse(0, 0.16, rx, r.near(0.52)))
    if coat == "banded":
        for y in (0.18, 0.36, 0.54):
            f.stroke([(-rx * 0.8, y), (rx * 0.8, y)], 0.07, DARK, detail=True)
    else:
        pattern(coat, f, r, 0, 0.3, rx * 0.9, 0.3)
    if head == "feelered":
        for side in (-1, 1):
            f.stroke(smooth([(0, -0.45), (side * 0.14, -0.75), (side * r.near(0.4), -0.95)]), 0.05, DARK)
            f.dot(side * 0.38, -0.93, 0.06)
    elif head == "pincered":
        for side in (-1, 1):
            f.stroke(arc(side * 0.12, -0.68, r.near(0.2), 0.24, 0.25, 0.25 - side * 0.55, 12), 0.09, SECOND)
    f.shape(ellipse(0, -0.45, r.near(0.2), 0.18), SECOND)
    for side in (-1, 1):
        f.dot(side * 0.09, -0.5, 0.045)


def jelly(t: Traits, r: Vary, f: Figure) -> None:
    """Sea life hanging from a dome or spreading from a disc."""
    bell = t.pick("bell", ("", "tall", "flat"))
    arms = t.pick("arms", ("straight-armed", "wavy-armed", "curled"))
    number = t.pick("number", ("four-armed", "six-armed"))
    face = t.pick("face", ("", "eyed", "spotted"))
    top = t.pick("top", ("", "frilled", "finned"))
    rx = r.near({"": 0.5, "tall": 0.38, "flat": 0.75}[bell])
    ry = r.near({"": 0.5, "tall": 0.75, "flat": 0.34}[bell])
    many = 4 if number == "four-armed" else 6
    length = r.near(0.8 * t.amount("reach", 0.8, 1.2))
    for k in range(many):
        x = rx * (2 * (k + 0.5) / many - 1) * 0.85
        side = 1 if x > 0 else -1
        if arms == "straight-armed":
            line = [(x, 0), (x * 1.15 + r.shift(0.06), length)]
        elif arms == "wavy-armed":
            s = r.near(0.12) * (-1) ** k
            line = smooth([(x, 0), (x + s, length * 0.3), (x - s, length * 0.65), (x + s, length)])
        else:
            line = np.concatenate([[(x, 0)], arc(x * 1.25, length * 0.7, 0.14, 0.2, 0.25 + side * 0.25, 0.25 - side * 0.5, 12)])
        f.stroke(line, 0.1, SECOND)
    if top == "finned":
        for side in (-1, 1):
            f.shape([(side * rx * 0.5, -ry * 0.5), (side * (rx + 0.3), -ry * r.near(0.9)), (side * rx * 0.9, -ry * 0.15)], SECOND)
    f.shape(np.concatenate([arc(0, 0, rx, ry, 0.5, 1.0, 24), smooth([(rx, 0), (rx * 0.4, 0.1), (-rx * 0.4, 0.1), (-rx, 0)])]))
    if top == "frilled":
        f.shape(lobed(0, 0.02, rx * 1.05, 0.14, 12, 0.2), LIGHT)
    if face == "eyed":
        for side in (-1, 1):
            f.dot(side * rx * 0.35, -ry * 0.4, 0.12, LIGHT)
            f.dot(side * rx * 0.35, -ry * 0.37, 0.06)
    else:
        pattern(face, f, r, 0, -ry * 0.45, rx * 0.7, ry * 0.4)


def starfish(t: Traits, r: Vary, f: Figure) -> None:
    """Radial creatures and blossoms: how many rays, how they end, what sits in the middle."""
    rays = t.pick("rays", ("four-rayed", "five-rayed", "seven-rayed", "nine-rayed"))
    kind = t.pick("kind", ("", "petalled", "knobbed", "wheeled"))
    heart = t.pick("heart", ("", "ringed", "smiling"))
    many = {"four-rayed": 4, "five-rayed": 5, "seven-rayed": 7, "nine-rayed": 9}[rays]
    core = r.near(0.36)
    if kind == "":
        f.shape(star(0, 0, r.near(0.95, 0.06), core, many))
    elif kind == "petalled":
        for k in range(many):
            f.shape(spin(ellipse(0, -0.62, min(0.3, 1.5 / many), r.near(0.36)), k / many), SECOND)
    elif kind == "knobbed":
        for k in range(many):
            f.stroke(spin(np.array([(0.0, 0.0), (0.0, -0.7)]), k / many), 0.1, SECOND)
            f.shape(spin(ellipse(0, -0.78, 0.13, r.near(0.13)), k / many), SECOND)
    else:
        f.shape(ellipse(0, 0, 0.95, 0.95), SECOND)
        f.shape(ellipse(0, 0, 0.74, 0.74), LIGHT)
        for k in range(many):
            f.stroke(spin(np.array([(0.0, 0.0), (0.0, -0.8)]), k / many), 0.09, SECOND)
    if kind:
        f.shape(ellipse(0, 0, core * 0.8, core * 0.8))
    if heart == "ringed":
        f.shape(ellipse(0, 0, core * 0.5, core * 0.5), LIGHT, detail=True)
    elif heart == "smiling":
        for side in (-1, 1):
            f.dot(side * core * 0.35, -core * 0.2, 0.06)
        f.stroke(arc(0, 0, core * 0.4, core * 0.4, 0.08, 0.42, 10), 0.06, DARK, detail=True)
