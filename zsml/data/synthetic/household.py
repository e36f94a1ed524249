"""Families of things about the house. Each draws one specimen of the class that the traits describe."""

from __future__ import annotations

import numpy as np

from zsml.data.synthetic.shapes import DARK, LIGHT, SECOND, Figure, arc, box, ellipse, profile, smooth, star
from zsml.data.synthetic.traits import Traits, Vary


def vessel(t: Traits, r: Vary, f: Figure) -> None:
    """Cups, pots, bottles, vases."""
    form = t.pick("form", ("cup", "bowl", "bottle", "pot", "goblet", "vase"))
    handle = t.pick("handle", ("", "handled", "two-handled", "hooped"))
    spout = t.pick("spout", ("", "spouted"))
    lid = t.pick("lid", ("", "lidded", "flaming", "strawed"))
    marks = t.pick("marks", ("", "banded", "dotted"))
    w, h = r.near(0.48), r.near(0.52)
    levels = {
        "cup": [(-h, w), (h, w * 0.72)],
        "bowl": [(-h * 0.4, w * 1.4), (h * 0.2, w * 1.2), (h * 0.8, w * 0.5)],
        "bottle": [(-h * 1.5, w * 0.25), (-h * 0.7, w * 0.28), (-h * 0.2, w * 0.8), (h, w * 0.78)],
        "pot": [(-h, w * 0.5), (-h * 0.5, w), (h * 0.3, w * 1.1), (h, w * 0.7)],
        "goblet": [(-h * 1.2, w * 0.9), (-h * 0.4, w * 0.85), (h * 0.1, w * 0.12), (h, w * 0.12), (h * 1.15, w * 0.75)],
        "vase": [(-h * 1.2, w * 0.75), (-h * 0.8, w * 0.3), (h * 0.1, w * 0.95), (h * 1.1, w * 0.45)],
    }[form]
    top, rim = levels[0]
    wide = max(radius for _, radius in levels)
    mid = h * (-0.6 if form == "goblet" else 0.15)
    for side in {"handled": (-1,), "two-handled": (-1, 1)}.get(handle, ()):
        f.stroke(arc(side * wide * 0.85, mid - 0.05, r.near(0.3), h * 0.55, 0.25, 0.25 - side * 0.5), 0.1, SECOND)
    if handle == "hooped":
        f.stroke(arc(0, top + 0.05, max(rim, 0.3), r.near(0.55), 0.5, 1.0), 0.08, SECOND)
    if spout:
        f.shape(
            smooth(
                [
                    (wide * 0.6, mid + 0.22),
                    (wide + 0.2, mid),
                    (wide + r.near(0.45), mid - 0.45),
                    (wide + 0.26, mid - 0.42),
                    (wide * 0.7, mid - 0.12),
                ],
                True,
                4,
            ),
            SECOND,
        )
    if lid == "strawed":
        f.stroke([(0, top + 0.1), (rim * 0.5, top - r.near(0.5)), (rim * 0.5 + 0.2, top - 0.56)], 0.08, LIGHT)
    elif lid == "flaming":
        f.shape(
            smooth(
                [(0, top - r.near(0.6)), (0.17, top - 0.16), (0.08, top + 0.06), (-0.08, top + 0.06), (-0.17, top - 0.16)],
                True,
                5,
            ),
            LIGHT,
        )
    f.shape(profile(levels, curved=form != "cup"))
    if lid == "lidded":
        f.shape(arc(0, top + 0.03, rim * 1.05, r.near(0.24), 0.5, 1.0), SECOND)
        f.shape(ellipse(0, top - 0.28, 0.09, 0.09), SECOND)
    if marks == "banded":
        for y in (mid - 0.08, mid + 0.16):
            f.stroke([(-w * 0.75, y), (w * 0.75, y)], 0.08, LIGHT, detail=True)
    elif marks == "dotted":
        for x in (-0.5, 0, 0.5):
            f.dot(w * x, mid, 0.09, LIGHT)


def lamp(t: Traits, r: Vary, f: Figure) -> None:
    """Something on a stand: lamps, signs, fans, stands."""
    top = t.pick("top", ("shaded", "globed", "fanned", "lantern", "signed", "belled"))
    pole = t.pick("pole", ("", "bent", "short", "twin"))
    foot = t.pick("foot", ("", "tripod", "boxed", "clawed"))
    marks = t.pick("marks", ("", "banded"))
    length = r.near(0.5 if pole == "short" else 1.0)
    low, high = 0.75, 0.75 - length
    x = r.near(0.4) if pole == "bent" else 0.0
    if pole == "bent":
        f.stroke(smooth([(0, low), (-0.05, (low + high) / 2), (0.1, high - 0.1), (x, high)]), 0.08, DARK)
    elif pole == "twin":
        for side in (-1, 1):
            f.stroke([(side * 0.14, low), (side * 0.14, high)], 0.07, DARK)
    else:
        f.stroke([(0, low), (0, high)], 0.09, DARK)
    if foot == "tripod":
        for u in (-1, 0, 1):
            f.stroke([(0, low - 0.25), (u * r.near(0.4), low + 0.16)], 0.08, DARK)
    elif foot == "boxed":
        f.shape(box(-r.near(0.3), low - 0.12, 0.3, low + 0.15), SECOND)
    elif foot == "clawed":
        f.stroke(arc(0, low + 0.14, r.near(0.38), 0.24, 0.5, 1.0), 0.1, SECOND)
    else:
        f.shape(arc(0, low + 0.12, r.near(0.38), 0.2, 0.5, 1.0), SECOND)
    s = r.near(0.42)
    y = high - 0.2
    if top == "shaded":
        f.shape(
            [(x - s * 0.5, y - s * 0.75), (x + s * 0.5, y - s * 0.75), (x + s * 1.15, y + s * 0.5), (x - s * 1.15, y + s * 0.5)]
        )
    elif top == "globed":
        f.shape(ellipse(x, y - 0.1, s, s))
    elif top == "fanned":
        f.shape(ellipse(x, y - 0.1, s * 1.15, s * 1.15), LIGHT)
        for k in range(4):
            a = (k / 4 + 0.1) * 2 * np.pi
            f.shape(ellipse(x + 0.5 * s * np.cos(a), y - 0.1 + 0.5 * s * np.sin(a), s * 0.48, s * 0.22, tilt=k / 4 + 0.1))
        f.dot(x, y - 0.1, 0.09)
    elif top == "lantern":
        f.shape([(x - s, y - s * 0.6), (x, y - s * 1.35), (x + s, y - s * 0.6)], SECOND)
        f.shape(
            [(x - s * 0.8, y - s * 0.6), (x + s * 0.8, y - s * 0.6), (x + s * 0.45, y + s * 0.6), (x - s * 0.45, y + s * 0.6)]
        )
    elif top == "signed":
        f.shape(box(x - s * 1.3, y - s * 0.9, x + s * 1.3, y + s * 0.4))
        f.stroke([(x - s * 0.8, y - s * 0.25), (x + s * 0.8, y - s * 0.25)], 0.1, LIGHT, detail=True)
    else:
        f.shape(profile([(y - s, 0.06), (y - s * 0.7, s * 0.55), (y + s * 0.2, s * 0.7), (y + s * 0.6, s * 1.15)], x))
        f.shape(ellipse(x, y + s * 0.68, 0.11, 0.11), DARK)
    if marks and top not in ("fanned", "signed"):
        f.stroke([(x - s * 0.6, y - 0.02), (x + s * 0.6, y - 0.02)], 0.1, LIGHT, detail=True)


def seat(t: Traits, r: Vary, f: Figure) -> None:
    """Chairs, tables, beds, shelves: boards on legs."""
    back = t.pick("back", ("", "barred", "solid-backed", "round-backed", "drawered"))
    legs = t.pick("legs", ("", "cross-legged", "pillared", "rocking", "castored"))
    width = t.pick("width", ("", "wide"))
    extra = t.pick("extra", ("", "armed", "cushioned"))
    w = r.near(0.85 if width else 0.48)
    leg, tall = r.near(0.6), r.near(0.75)
    y = 0.1
    if legs == "pillared":
        f.stroke([(0, y), (0, y + leg)], 0.16, DARK)
        f.stroke([(-w * 0.6, y + leg), (w * 0.6, y + leg)], 0.12, DARK)
    elif legs == "cross-legged":
        f.stroke([(-w * 0.85, y), (w * 0.85, y + leg)], 0.1, DARK)
        f.stroke([(w * 0.85, y), (-w * 0.85, y + leg)], 0.1, DARK)
    else:
        for side in (-1, 1):
            f.stroke([(side * w * 0.85, y), (side * w * 0.85 + side * r.near(0.04, 1), y + leg)], 0.11, DARK)
        if legs == "rocking":
            f.stroke(arc(0, y + leg - 0.2, w * 1.25, r.near(0.28), 0.04, 0.46), 0.09, DARK)
        elif legs == "castored":
            for side in (-1, 1):
                f.shape(ellipse(side * w * 0.85, y + leg + 0.08, 0.12, 0.12), SECOND)
    if back == "drawered":
        f.shape(box(-w * 0.8, y, w * 0.8, y + leg * 0.65), SECOND)
        for side in (-1, 1):
            f.dot(side * w * 0.35, y + leg * 0.33, 0.07, LIGHT)
    elif back == "solid-backed":
        f.shape(box(-w * 0.95, y - tall, w * 0.95, y, 0.1))
    elif back == "round-backed":
        f.shape(ellipse(0, y - tall * 0.6, w * 0.85, tall * 0.65))
        f.shape(ellipse(0, y - tall * 0.6, w * 0.5, tall * 0.35), LIGHT, detail=True)
    elif back == "barred":
        for u in np.linspace(-0.88, 0.88, 5 if width else 4):
            f.stroke([(u * w, y), (u * w, y - tall)], 0.08)
        f.stroke([(-w * 0.95, y - tall), (w * 0.95, y - tall)], 0.14)
    if extra == "armed":
        for side in (-1, 1):
            f.stroke([(side * w, y), (side * w * 1.08, y - r.near(0.34)), (side * w * 0.7, y - 0.34)], 0.09, SECOND)
    f.shape(box(-w, y - 0.09, w, y + 0.09, 0.04))
    if extra == "cushioned":
        f.shape(ellipse(0, y - 0.17, w * 0.8, r.near(0.13)), SECOND)


def tool(t: Traits, r: Vary, f: Figure) -> None:
    """A handle with a head."""
    head = t.pick("head", ("hammer", "axe", "spade", "fork", "racket", "brush", "spanner", "mace", "sickle", "umbrella"))
    grip = t.pick("grip", ("", "knobbed", "ringed", "crooked", "cross-guarded"))
    shaft = t.pick("shaft", ("", "thick", "short"))
    long = r.near(0.45 if shaft == "short" else 0.85)
    thick = r.near(0.2 if shaft == "thick" else 0.1)
    low, y = long, -0.15
    f.stroke([(0, low), (0, y - 0.1)], thick, SECOND)
    if grip == "knobbed":
        f.shape(ellipse(0, low, thick * 1.1, thick * 1.1), DARK)
    elif grip == "ringed":
        f.stroke(ellipse(0, low + 0.17, 0.17, r.near(0.17), n=18)[[*range(18), 0]], 0.07, DARK)
    elif grip == "crooked":
        f.stroke(arc(0.17, low, 0.17, r.near(0.2), 0.5, 0.0, 12), thick, SECOND)
    elif grip == "cross-guarded":
        f.stroke([(-0.26, low - 0.3), (0.26, low - 0.3)], 0.1, DARK)
        f.shape(ellipse(0, low, 0.12, 0.12), DARK)
    s = r.near(0.4)
    if head == "hammer":
        f.shape(box(-s * 1.1, y - 0.42, s * 1.1, y - 0.05, 0.05))
    elif head == "axe":
        f.shape(
            smooth(
                [(-0.1, y - 0.45), (s * 0.6, y - 0.55), (s * 1.5, y - 0.75), (s * 1.5, y + 0.3), (s * 0.6, y), (-0.1, y - 0.05)],
                True,
                4,
            )
        )
    elif head == "spade":
        f.shape([(-s * 0.75, y), (s * 0.75, y), (s * 0.75, y - 0.4), (0, y - 0.85), (-s * 0.75, y - 0.4)])
    elif head == "fork":
        for u in (-1, 0, 1):
            f.stroke([(0, y), (u * s * 0.8, y - 0.2), (u * s * 0.8, y - r.near(0.8))], 0.1)
    elif head == "racket":
        f.shape(ellipse(0, y - 0.45, s * 1.1, 0.52))
        f.shape(ellipse(0, y - 0.45, s * 0.85, 0.4), LIGHT)
        for u in (-0.4, 0.0, 0.4):
            f.stroke([(u * s, y - 0.8), (u * s, y - 0.1)], 0.03, DARK, detail=True)
    elif head == "brush":
        f.shape(box(-s, y - 0.2, s, y + 0.05))
        f.shape([(-s * 0.9, y - 0.2), (-s * 1.1, y - 0.65), (s * 1.1, y - 0.65), (s * 0.9, y - 0.2)], LIGHT)
    elif head == "spanner":
        f.shape(np.concatenate([arc(0, y - 0.35, s, s, 0.83, 1.67, 22), [(0.12, y - 0.35), (-0.12, y - 0.35)]]))
    elif head == "mace":
        f.shape(star(0, y - 0.4, s * 1.3, s * 0.75, 8))
    elif head == "sickle":
        f.shape(np.concatenate([arc(0.3, y - 0.2, 0.62, 0.62, 0.45, 0.95, 18), arc(0.32, y - 0.1, 0.42, 0.42, 0.95, 0.5, 14)]))
    else:
        edge = np.concatenate([arc(x, y, s * 0.5, 0.12, 1.0, 0.5, 6) for x in (s * 1.5, s * 0.5, -s * 0.5, -s * 1.5)])
        f.shape(np.concatenate([arc(0, y, s * 2, r.near(0.7), 0.5, 1.0, 22), edge]))


def robot(t: Traits, r: Vary, f: Figure) -> None:
    """A toy figure from the front."""
    head = t.pick("head", ("round-headed", "box-headed", "cone-headed"))
    torso = t.pick("torso", ("", "barrel", "skirted"))
    arms = t.pick("arms", ("", "waving", "armless"))
    base = t.pick("base", ("", "one-wheeled", "tracked"))
    top = t.pick("top", ("", "antenna", "hatted"))
    w, h = r.near(0.34), r.near(0.38)
    if base == "one-wheeled":
        f.stroke([(0, h), (0, h + 0.3)], 0.12, DARK)
        f.shape(ellipse(0, h + 0.38, r.near(0.24), 0.24), DARK)
        f.dot(0, h + 0.38, 0.09, LIGHT)
    elif base == "tracked":
        f.shape(box(-w * 1.3, h, w * 1.3, h + r.near(0.26), 0.13), DARK)
        for x in (-0.8, 0, 0.8):
            f.dot(x * w, h + 0.13, 0.08, LIGHT)
    else:
        for side in (-1, 1):
            x = side * w * 0.5
            f.stroke([(x, h * 0.8), (x + side * r.near(0.03, 1), h + 0.42)], 0.17, SECOND)
            f.shape(ellipse(x + side * 0.07, h + 0.46, 0.17, 0.09), DARK)
    if arms != "armless":
        for side in (-1, 1):
            rise = -0.45 if arms == "waving" and side == 1 else r.near(0.35)
            hand = (side * (w + r.near(0.3)), rise)
            f.stroke([(side * w * 0.9, -h * 0.6), (side * (w + 0.18), (rise - h * 0.6) / 2), hand], 0.12, SECOND)
            f.shape(ellipse(*hand, 0.1, 0.1), LIGHT)
    if torso == "skirted":
        f.shape([(-w * 0.6, -h), (w * 0.6, -h), (w * 1.35, h), (-w * 1.35, h)])
    else:
        f.shape(profile([(-h, w * 0.7), (0, w * 1.25), (h, w * 0.7)]) if torso == "barrel" else box(-w, -h, w, h, 0.06))
    f.shape(box(-w * 0.5, -h * 0.4, w * 0.5, h * 0.3), LIGHT, detail=True)
    y = -h - r.near(0.28)
    if top == "antenna":
        f.stroke([(0, y), (0, y - 0.5)], 0.06, DARK)
        f.shape(ellipse(0, y - 0.54, 0.1, 0.1), SECOND)
    if head == "round-headed":
        f.shape(ellipse(0, y, r.near(0.3), 0.28))
    elif head == "box-headed":
        f.shape(box(-r.near(0.36), y - 0.26, 0.36, y + 0.26, 0.05))
    else:
        f.shape([(-0.34, y + 0.26), (0, y - r.near(0.42)), (0.34, y + 0.26)])
    for side in (-1, 1):
        f.dot(side * 0.13, y, 0.065)
    f.stroke([(-0.12, y + 0.15), (0.12, y + 0.15)], 0.05, DARK, detail=True)
    if top == "hatted":
        f.shape(box(-0.42, y - 0.34, 0.42, y - 0.24), DARK)
        f.shape(box(-0.25, y - r.near(0.62), 0.25, y - 0.3), DARK)
