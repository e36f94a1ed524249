"""Families of things that travel. Each draws one specimen of the class that the traits describe, facing right."""

from __future__ import annotations

import numpy as np

from zsml.data.synthetic.shapes import DARK, LIGHT, SECOND, Figure, arc, box, ellipse, profile, smooth
from zsml.data.synthetic.traits import Traits, Vary


def _wheel(f: Figure, x: float, y: float, radius: float) -> None:
    f.shape(ellipse(x, y, radius, radius, n=22), DARK)
    f.dot(x, y, radius * 0.5, LIGHT)


def car(t: Traits, r: Vary, f: Figure) -> None:
    """Anything on wheels, from the side."""
    cabin = t.pick("cabin", ("domed", "front-cab", "bus", "open"))
    load = t.pick("load", ("", "ladder", "crane", "tanker", "chimney"))
    wheels = t.pick("wheels", ("", "big-wheeled", "six-wheeled"))
    nose = t.pick("nose", ("", "wedge"))
    w, h = r.near(0.85), r.near(0.2)
    radius = r.near(0.32 if wheels == "big-wheeled" else 0.19)
    right = [(w, -h * 0.2), (w, h)] if not nose else [(w * 0.75, -h), (w * 1.15, h)]
    roof = -h - r.near(0.42)
    if load == "chimney":
        f.shape(box(w * 0.45, roof - 0.05, w * 0.62, -h * 0.5), DARK)
    elif load == "tanker":
        f.shape(ellipse(-w * 0.45, -h - 0.16, r.near(0.42), 0.25), SECOND)
    elif load == "crane":
        tip = (w * 1.05, roof - r.near(0.4))
        f.stroke([(-w * 0.6, -h), tip], 0.1, SECOND)
        f.stroke([tip, (tip[0], tip[1] + 0.35)], 0.05, DARK)
        f.shape(ellipse(tip[0], tip[1] + 0.4, 0.08, 0.08), DARK)
    if cabin == "bus":
        f.shape(box(-w, roof - 0.1, w * 0.92, h * 0.2, 0.08))
        for x in np.linspace(-0.78, 0.6, r.count(4, 5)):
            f.shape(box(w * x, roof + 0.03, w * x + 0.19, roof + 0.27), LIGHT, detail=True)
    elif cabin == "front-cab":
        f.shape(box(w * 0.25, roof, w * 0.8, h * 0.2, 0.06), SECOND)
        f.shape(box(w * 0.42, roof + 0.08, w * 0.72, -h * 0.8), LIGHT, detail=True)
    elif cabin == "domed":
        f.shape(arc(0, -h * 0.6, w * r.near(0.55), 0.52, 0.5, 1.0), SECOND)
        f.shape(arc(0.02, -h * 0.8, w * 0.4, 0.36, 0.5, 1.0), LIGHT, detail=True)
    else:
        f.stroke(arc(w * 0.15, -h - 0.1, 0.16, 0.2, 0.35, 0.85), 0.06, DARK)
        f.shape(box(-w * 0.45, roof + 0.14, -w * 0.25, -h * 0.5, 0.05), SECOND)
    f.shape([(-w, -h), (w * 0.75, -h), *right, (-w, h)])
    if load == "ladder":
        for y in (roof - 0.05, roof + 0.14):
            f.stroke([(-w * 1.0, y - 0.08), (w * 0.5, y - 0.08)], 0.06, LIGHT)
        for x in np.linspace(-0.8, 0.35, 5):
            f.stroke([(w * x, roof - 0.13), (w * x, roof + 0.06)], 0.05, LIGHT)
    for x in (-0.65, -0.05, 0.58) if wheels == "six-wheeled" else (-0.58, 0.58):
        _wheel(f, w * x, h + radius * 0.35, radius)


def ship(t: Traits, r: Vary, f: Figure) -> None:
    """Anything that floats, from the side."""
    hull = t.pick("hull", ("", "crescent", "raft", "diving"))
    rig = t.pick("rig", ("one-sailed", "two-sailed", "square-sailed", "funnelled", "cabined"))
    flag = t.pick("flag", ("", "flagged"))
    marks = t.pick("marks", ("", "portholed", "striped"))
    w, h = r.near(0.85), r.near(0.34)
    tall = r.near(1.05)
    if rig in ("one-sailed", "two-sailed", "square-sailed"):
        f.stroke([(0, 0.05), (0, -tall)], 0.07, DARK)
        if rig == "square-sailed":
            for top, size in ((-tall * 0.95, 0.36), (-tall * 0.52, 0.52)):
                f.shape(
                    smooth([(-size, top), (size, top), (size * 1.12, top + 0.2), (size, top + 0.4), (-size, top + 0.4)], True, 4),
                    LIGHT,
                )
        else:
            f.shape([(0.06, -tall * 0.92), (r.near(0.66), -0.1), (0.06, -0.1)], LIGHT)
            if rig == "two-sailed":
                f.shape([(-0.06, -tall * 0.8), (-r.near(0.6), -0.1), (-0.06, -0.1)], SECOND)
    else:
        f.shape(box(-w * 0.5, -r.near(0.36), w * 0.45, 0.08), LIGHT)
        if rig == "funnelled":
            for x in (-0.3, 0.12):
                f.shape([(w * x, -0.3), (w * x + 0.02, -r.near(0.85)), (w * x + 0.22, -0.85), (w * x + 0.24, -0.3)], SECOND)
        else:
            f.shape(box(-w * 0.2, -0.66, w * 0.3, -0.3, 0.05), SECOND)
            f.shape(box(-w * 0.05, -0.58, w * 0.2, -0.4), LIGHT, detail=True)
    if flag:
        x, y = (0, -tall) if "sail" in rig else (-w * 0.85, -r.near(0.55))
        f.stroke([(x, 0), (x, y - 0.15)], 0.05, DARK)
        f.shape([(x, y - 0.15), (x - 0.34, y - 0.02), (x, y + 0.1)], SECOND)
    if hull == "crescent":
        f.shape(np.concatenate([arc(0, -0.12, w * 1.08, h * 1.9, 0, 0.5), arc(0, -0.12, w * 0.95, h * 0.6, 0.5, 0)]))
    elif hull == "raft":
        f.shape(box(-w, 0, w, h * 0.8, 0.12))
    elif hull == "diving":
        f.shape(ellipse(0, h * 0.5, w * 1.05, h))
        f.shape([(-w, h * 0.5), (-w - 0.25, h * 0.5 - 0.3), (-w - 0.25, h * 0.5 + 0.3)], SECOND)
    else:
        f.shape([(-w, 0), (w * 1.08, -0.06), (w * 0.7, h * 1.15), (-w * 0.75, h * 1.15)])
    if marks == "portholed":
        for x in (-0.45, 0, 0.45):
            f.dot(w * x, h * 0.5, 0.085, LIGHT)
    elif marks == "striped":
        f.stroke([(-w * 0.8, h * 0.45), (w * 0.8, h * 0.45)], 0.1, LIGHT, detail=True)


def rocket(t: Traits, r: Vary, f: Figure) -> None:
    """Upright flying machines."""
    build = t.pick("build", ("", "stout", "stepped"))
    tip = t.pick("tip", ("pointed", "domed", "needle"))
    fins = t.pick("fins", ("finned", "legged", "boosted", "winged"))
    window = t.pick("window", ("", "portholed", "banded"))
    w, top, low = r.near(0.34 if build == "stout" else 0.22), -r.near(0.42), r.near(0.6)
    if fins == "finned":
        for side in (-1, 1):
            f.shape([(side * w * 0.8, low * 0.2), (side * (w + r.near(0.34)), low + 0.22), (side * w * 0.7, low)], SECOND)
    elif fins == "legged":
        for side in (-1, 1):
            foot = side * (w + r.near(0.34))
            f.stroke([(side * w * 0.7, low * 0.4), (foot, low + 0.3)], 0.08, DARK)
            f.stroke([(foot - 0.1, low + 0.3), (foot + 0.1, low + 0.3)], 0.08, DARK)
    elif fins == "winged":
        for side in (-1, 1):
            f.shape([(side * w * 0.8, -0.1), (side * (w + r.near(0.62)), low * 0.5), (side * w * 0.7, low * 0.55)], SECOND)
    else:
        for side in (-1, 1):
            x = side * (w + 0.12)
            f.shape(np.concatenate([arc(x, 0.02, 0.12, r.near(0.2), 0.5, 1.0, 10), [(x + 0.12, low), (x - 0.12, low)]]), SECOND)
    f.shape([(-w * 0.5, low - 0.05), (w * 0.5, low - 0.05), (w * 0.75, low + 0.14), (-w * 0.75, low + 0.14)], DARK)
    if tip == "pointed":
        f.shape([(-w, top + 0.02), (0, top - r.near(0.5)), (w, top + 0.02)], SECOND)
    elif tip == "domed":
        f.shape(arc(0, top + 0.02, w, r.near(0.34), 0.5, 1.0), SECOND)
    else:
        f.stroke([(0, top), (0, top - r.near(0.62))], 0.05, DARK)
        f.shape([(-w, top + 0.02), (-w * 0.3, top - 0.25), (w * 0.3, top - 0.25), (w, top + 0.02)], SECOND)
    if build == "stepped":
        f.shape(box(-w * 0.7, top, w * 0.7, 0.1))
        f.shape(box(-w * 1.35, 0.08, w * 1.35, low))
    else:
        f.shape(profile([(top, w), (0.05, w * 1.16), (low, w * 0.8)]))
    if window == "portholed":
        f.dot(0, top + 0.26, w * 0.52, LIGHT)
        f.dot(0, top + 0.26, w * 0.28, DARK)
    elif window == "banded":
        for y in (-0.12, 0.14):
            f.stroke([(-w, y), (w, y)], 0.09, LIGHT, detail=True)


def balloon(t: Traits, r: Vary, f: Figure) -> None:
    """What hangs in the air: envelopes, kites, parachutes."""
    envelope = t.pick("envelope", ("round", "pear", "canopy", "diamond", "heart", "long"))
    hangs = t.pick("hangs", ("basket", "tail", "weight", "gondola"))
    marks = t.pick("marks", ("", "gored", "belted", "starred"))
    w, h = r.near(0.62), r.near(0.6)
    low = {"canopy": 0.05, "long": 0.32}.get(envelope, h)
    hang = low + r.near(0.45)
    for side in (-1, 1) if hangs in ("basket", "weight") else ():
        start = w * {"canopy": 0.95, "long": 0.6}.get(envelope, 0.35)
        f.stroke([(side * start, low * 0.75), (side * 0.13, hang)], 0.04, DARK)
    if hangs == "basket":
        f.shape([(-0.17, hang), (0.17, hang), (0.13, hang + 0.24), (-0.13, hang + 0.24)], SECOND)
    elif hangs == "weight":
        f.shape(ellipse(0, hang + 0.1, 0.15, r.near(0.16)), SECOND)
        f.stroke([(0, hang + 0.2), (-0.1, hang + 0.4)], 0.06, SECOND)
        f.stroke([(0, hang + 0.2), (0.1, hang + 0.4)], 0.06, SECOND)
    elif hangs == "gondola":
        f.shape(box(-r.near(0.36), low - 0.05, 0.36, low + 0.22, 0.08), SECOND)
        for x in (-0.18, 0, 0.18):
            f.dot(x, low + 0.08, 0.05, LIGHT)
    else:
        s = r.near(0.16)
        f.stroke(smooth([(0, low * 0.9), (s, low + 0.2), (-s, low + 0.42), (s, low + 0.65)]), 0.05, DARK)
        for y in (0.26, 0.5):
            f.shape([(-0.12, low + y - 0.07), (0.12, low + y + 0.07), (0.12, low + y - 0.07), (-0.12, low + y + 0.07)], SECOND)
    if envelope == "round":
        f.shape(ellipse(0, 0, w, h))
    elif envelope == "pear":
        f.shape(profile([(-h * 1.1, 0.02), (-h * 0.95, w * 0.6), (-h * 0.3, w), (h * 0.4, w * 0.5), (h, w * 0.16)]))
    elif envelope == "canopy":
        edge = np.concatenate([arc(x * w, 0.05, w / 4, 0.12, 1.0, 0.5, 6) for x in (0.75, 0.25, -0.25, -0.75)])
        f.shape(np.concatenate([arc(0, 0.05, w, h * 1.1, 0.5, 1.0, 24), edge]))
    elif envelope == "diamond":
        f.shape([(0, -h * 1.15), (w * 0.85, -h * 0.15), (0, h), (-w * 0.85, -h * 0.15)])
        f.stroke([(0, -h * 1.1), (0, h)], 0.04, DARK, detail=True)
    elif envelope == "heart":
        f.shape(
            smooth(
                [
                    (0, -h * 0.6),
                    (w * 0.5, -h),
                    (w, -h * 0.5),
                    (w * 0.6, h * 0.3),
                    (0, h),
                    (-w * 0.6, h * 0.3),
                    (-w, -h * 0.5),
                    (-w * 0.5, -h),
                ],
                True,
            )
        )
    else:
        f.shape([(-w * 1.1, 0), (-w * 1.6, -0.3), (-w * 1.6, 0.3)], SECOND)
        f.shape(ellipse(0, 0, w * 1.4, 0.36))
    if marks == "gored":
        for u in (-0.45, 0.0, 0.45):
            f.stroke(smooth([(u * w * 0.4, -h * 0.85), (u * w, -h * 0.1), (u * w * 0.6, low * 0.55)]), 0.06, LIGHT, detail=True)
    elif marks == "belted":
        f.shape([(-w * 0.7, -0.14), (w * 0.7, -0.14), (w * 0.7, 0.06), (-w * 0.7, 0.06)], LIGHT, detail=True)
    elif marks == "starred":
        for k in range(3):
            f.dot((k - 1) * w * 0.4, -h * 0.25 + 0.1 * (k % 2), 0.11, LIGHT)
