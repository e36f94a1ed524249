"""Families of beasts, birds and fishes. Each draws one specimen of the class that the traits describe, facing right."""

from __future__ import annotations

import numpy as np

from zsml.data.synthetic.shapes import BODY, DARK, LIGHT, SECOND, Figure, arc, box, ellipse, smooth, spin
from zsml.data.synthetic.traits import Traits, Vary


def pattern(kind: str, f: Figure, r: Vary, x: float, y: float, rx: float, ry: float) -> None:
    """Spots or stripes on an oval body."""
    if kind == "spotted":
        for k in range(r.count(5, 7)):
            a = 2.4 * k + r.shift(0.3)
            reach = 0.3 + 0.4 * (k % 3) / 2
            size = r.near(0.2, 0.3) * min(rx, ry)
            f.shape(ellipse(x + rx * reach * np.cos(a), y + ry * reach * np.sin(a), size * 1.2, size, n=10), DARK, detail=True)
    elif kind == "striped":
        for u in np.linspace(-0.6, 0.6, r.count(4, 5)):
            h = 0.9 * ry * np.sqrt(1 - u * u)
            bend = r.shift(0.04)
            f.stroke([(x + u * rx, y - h), (x + u * rx + bend, y), (x + u * rx, y + h)], 0.07 * (rx + ry), DARK, detail=True)


def beast(t: Traits, r: Vary, f: Figure) -> None:
    """Four legs, seen from the side."""
    legs = t.pick("legs", ("", "short-legged", "long-legged"))
    build = t.pick("build", ("", "round", "square"))
    neck = t.pick("neck", ("", "", "long-necked"))
    head = t.pick("head", ("horned", "antlered", "long-eared", "big-eared", "trunked"))
    back = t.pick("back", ("", "", "humped", "spiny", "shelled"))
    tail = t.pick("tail", ("", "bushy-tailed", "curly-tailed"))
    coat = t.pick("coat", ("", "spotted", "striped"))
    rx = r.near({"": 0.6, "round": 0.5, "square": 0.58}[build] * t.amount("girth", 0.9, 1.1))
    ry = r.near({"": 0.26, "round": 0.42, "square": 0.3}[build])
    leg = r.near({"": 0.42, "short-legged": 0.2, "long-legged": 0.75}[legs], 0.15)
    thick = r.near(0.13 if legs == "long-legged" else 0.17)
    foot = ry * 0.6 + leg
    for x, tone in ((-0.5, SECOND), (0.62, SECOND), (-0.72, BODY), (0.42, BODY)):
        swing = r.shift(0.12)
        f.stroke([(x * rx, ry * 0.4), (x * rx + swing / 2, (foot + ry * 0.4) / 2), (x * rx + swing, foot)], thick, tone)
    if tail == "bushy-tailed":
        f.shape(spin(ellipse(-rx - 0.2, -0.1, 0.27, r.near(0.13)), r.near(0.1, 0.5), -rx, 0), SECOND)
    elif tail == "curly-tailed":
        f.stroke(arc(-rx - 0.1, -ry * 0.4, 0.14, 0.14, 0.1, r.near(0.95), 16), 0.07)
    else:
        f.stroke(smooth([(-rx * 0.9, -ry * 0.3), (-rx - 0.15, 0.0), (-rx - 0.2, r.near(0.3))]), 0.07)
    if back == "spiny":
        for u in np.linspace(-0.75, 0.55, r.count(5, 6)):
            top = -ry * np.sqrt(1 - u * u)
            f.shape([(u * rx - 0.1, top + 0.08), (u * rx, top - r.near(0.24)), (u * rx + 0.1, top + 0.08)], SECOND)
    elif back == "humped":
        for u in (-0.4, 0.3):
            f.shape(ellipse(u * rx, -ry * 0.75, 0.2, r.near(0.27)))
    f.shape(box(-rx, -ry, rx, ry, 0.1) if build == "square" else ellipse(0, 0, rx, ry))
    if back == "shelled":
        f.shape(np.concatenate([arc(0, 0, rx * 0.95, ry * 1.5, 0.5, 1.0)]), SECOND)
        f.stroke(arc(0, 0, rx * 0.5, ry * 1.1, 0.5, 1.0), 0.05, DARK, detail=True)
    else:
        pattern(coat, f, r, 0, 0, rx, ry)
    hx, hy = (rx + 0.22, -ry - r.near(0.75)) if neck else (rx + 0.12, -ry - r.near(0.12, 0.6))
    f.shape([(rx * 0.62, -ry * 0.6), (hx - 0.12, hy), (hx + 0.1, hy + 0.05), (rx * 0.95, ry * 0.3)])
    _beast_head(head, r, f, hx, hy, r.near(0.23))


def _beast_head(head: str, r: Vary, f: Figure, x: float, y: float, size: float) -> None:
    if head == "horned":
        for lean in (-0.02, 0.1):
            f.stroke(smooth([(x + lean, y - 0.1), (x + lean - 0.12, y - 0.3), (x + lean + 0.06, y - r.near(0.47))]), 0.08, LIGHT)
    elif head == "antlered":
        for side in (-1, 1):
            tip = (x + side * r.near(0.3), y - r.near(0.62))
            f.stroke([(x, y - 0.1), (x + side * 0.16, y - 0.34), tip], 0.06, LIGHT)
            f.stroke([(x + side * 0.16, y - 0.34), (x + side * 0.36, y - 0.36)], 0.05, LIGHT)
    elif head == "long-eared":
        for lean in (-0.16, -0.02):
            f.shape(spin(ellipse(x + lean, y - 0.42, 0.085, r.near(0.3)), r.shift(0.03) - 0.03, x, y), SECOND)
    f.shape(ellipse(x, y, size, size * 0.9))
    if head == "trunked":
        f.shape(ellipse(x - 0.14, y + 0.02, r.near(0.2), 0.27), SECOND)
        f.stroke(smooth([(x + 0.12, y), (x + 0.32, y + 0.12), (x + 0.34, y + 0.4), (x + 0.48, y + r.near(0.55))]), 0.13)
    else:
        f.shape(ellipse(x + size * 0.9, y + 0.06, r.near(0.17), 0.12))
        f.dot(x + size + 0.12, y + 0.03, 0.045)
    if head == "big-eared":
        f.shape(ellipse(x - 0.14, y - 0.2, r.near(0.18), r.near(0.2)), SECOND)
    f.dot(x + 0.05, y - 0.05, 0.045)


def bird(t: Traits, r: Vary, f: Figure) -> None:
    """Seen from the side."""
    neck = t.pick("neck", ("", "long-necked"))
    beak = t.pick("beak", ("", "long-billed", "broad-billed"))
    tail = t.pick("tail", ("", "fan-tailed", "long-tailed"))
    wing = t.pick("wing", ("", "spread-winged"))
    legs = t.pick("legs", ("", "stilted", "swimming"))
    crest = t.pick("crest", ("", "crested"))
    rx, ry = r.near(0.46), r.near(0.3 * t.amount("girth", 0.85, 1.25))
    leg = r.near(0.7 if legs == "stilted" else 0.3)
    if legs != "swimming":
        for x in (-0.04, 0.14):
            foot = x + r.shift(0.08)
            f.stroke([(x, ry * 0.8), (foot, ry + leg), (foot + 0.16, ry + leg)], 0.06, LIGHT)
    if tail == "fan-tailed":
        for k in range(5):
            f.shape(spin(ellipse(-rx - 0.3, 0, 0.38, 0.1), (k - 0.7) * r.near(0.045), -rx * 0.6, 0), SECOND)
    elif tail == "long-tailed":
        f.shape(
            smooth([(-rx * 0.7, -0.1), (-rx - 0.4, 0.05), (-rx - 0.85, r.near(0.3)), (-rx - 0.4, 0.22), (-rx * 0.7, 0.15)], True),
            SECOND,
        )
    else:
        f.shape([(-rx * 0.7, -0.08), (-rx - 0.25, -r.near(0.16)), (-rx - 0.2, 0.06), (-rx * 0.7, 0.12)], SECOND)
    hx, hy = (rx * 0.9, -ry - r.near(0.6)) if neck else (rx * 0.75, -ry * 0.95)
    if crest:
        for k in range(3):
            f.stroke([(hx, hy - 0.1), (hx - 0.12 - 0.08 * k, hy - r.near(0.34) + 0.07 * k)], 0.06, SECOND)
    if neck:
        f.stroke(smooth([(rx * 0.5, -ry * 0.3), (rx * 0.95, -ry - 0.1), (hx - 0.12, (hy - ry) / 2 - 0.1), (hx, hy)]), 0.15)
    if wing and legs:
        f.shape(smooth([(0.2, -ry * 0.4), (-0.05, -ry - r.near(0.65)), (-0.4, -ry - 0.35), (-0.25, -ry * 0.2)], True), SECOND)
    f.shape(ellipse(0, 0, rx, ry, tilt=-0.02))
    f.shape(ellipse(hx, hy, r.near(0.19), r.near(0.18)))
    tip = hx + 0.15 + {"": 0.18, "long-billed": 0.5, "broad-billed": 0.28}[beak]
    half = 0.11 if beak == "broad-billed" else 0.07
    f.shape([(hx + 0.13, hy - half), (tip, hy + r.near(0.06)), (hx + 0.13, hy + half + 0.02)], LIGHT)
    if wing and not legs:
        f.shape(smooth([(0.22, -ry * 0.2), (-0.05, -ry - r.near(0.6)), (-0.45, -ry - 0.35), (-0.25, ry * 0.2)], True), SECOND)
    elif not wing:
        f.shape(smooth([(0.2, -0.08), (-0.1, -0.14), (-rx - 0.05, 0.1), (-0.05, r.near(0.17))], True), SECOND)
    f.dot(hx + 0.05, hy - 0.04, 0.04)


def fish(t: Traits, r: Vary, f: Figure) -> None:
    """Seen from the side."""
    build = t.pick("build", ("", "slender", "round", "arrow"))
    tail = t.pick("tail", ("forked", "fan-tailed", "sickle-tailed"))
    fin = t.pick("fin", ("", "sail-finned", "spiny", "shark-finned"))
    coat = t.pick("coat", ("", "banded", "spotted"))
    nose = t.pick("nose", ("", "sword-nosed"))
    rx = r.near({"": 0.6, "slender": 0.8, "round": 0.48, "arrow": 0.62}[build])
    ry = r.near({"": 0.3, "slender": 0.17, "round": 0.44, "arrow": 0.36}[build])
    x, h = -rx * 0.85, r.near(0.34)
    if tail == "forked":
        f.shape([(x, -0.06), (x - 0.4, -h), (x - 0.22, 0), (x - 0.4, h), (x, 0.06)], SECOND)
    elif tail == "fan-tailed":
        f.shape(smooth([(x + 0.05, 0), (x - 0.25, -h), (x - 0.45, -h * 0.5), (x - 0.48, h * 0.5), (x - 0.25, h)], True), SECOND)
    else:
        f.shape(
            np.concatenate([arc(x - 0.4, 0, 0.4, h * 1.2, -0.2, 0.2, 12), arc(x - 0.55, 0, 0.45, h * 0.9, 0.2, -0.2, 12)]), SECOND
        )
    if fin == "sail-finned":
        f.shape(
            smooth(
                [(-rx * 0.6, -ry * 0.4), (-rx * 0.4, -ry - r.near(0.45)), (rx * 0.3, -ry - 0.35), (rx * 0.55, -ry * 0.5)], True
            ),
            SECOND,
        )
    elif fin == "spiny":
        for u in np.linspace(-0.5, 0.4, 4):
            f.shape([(u * rx - 0.1, -ry * 0.7), (u * rx - 0.04, -ry - r.near(0.26)), (u * rx + 0.1, -ry * 0.7)], SECOND)
    elif fin == "shark-finned":
        f.shape([(-rx * 0.2, -ry * 0.7), (-rx * 0.25, -ry - r.near(0.38)), (rx * 0.35, -ry * 0.7)], SECOND)
    f.shape([(rx * 0.05, ry * 0.6), (-rx * 0.2, ry + r.near(0.2)), (rx * 0.3, ry * 0.8)], SECOND)
    if nose:
        f.shape([(rx * 0.8, -0.07), (rx + r.near(0.5), -0.02), (rx * 0.8, 0.07)])
    if build == "arrow":
        f.shape(smooth([(rx, 0), (rx * 0.2, -ry), (-rx, 0), (rx * 0.2, ry)], True, 7))
    else:
        f.shape(
            smooth([(rx, 0), (rx * 0.5, -ry * 0.85), (0, -ry), (-rx, -0.06), (-rx, 0.06), (0, ry), (rx * 0.5, ry * 0.85)], True)
        )
    if coat == "banded":
        for u in (-0.35, -0.02, 0.3):
            w = r.near(0.07)
            q = ry * np.sqrt(1 - u * u) * 0.85
            f.shape([(u * rx - w, -q), (u * rx + w, -q), (u * rx + w, q), (u * rx - w, q)], LIGHT, detail=True)
    else:
        pattern(coat, f, r, -0.1 * rx, 0, rx * 0.65, ry * 0.8)
    f.stroke(arc(rx * 0.42, 0, 0.1, ry * 0.6, -0.2, 0.2, 10), 0.05, DARK, detail=True)
    f.dot(rx * 0.68, -ry * 0.2, 0.055)
