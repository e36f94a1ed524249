"""Look and charts of the report: one style sheet, a precision-recall chart and bars per class, without any script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from zsml.retrieval.metrics import RetrievalResult

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by everyone

STYLE = """
:root { color-scheme: light dark; --page: #fbfbf9; --card: #fff; --line: #e2e2dc; --text: #1d2126; --muted: #626b75;
  --accent: #0b63a5; --track: #ecece6; --right: #15803d; --wrong: #c62f2f; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --line: #30363c; --text: #e7e9eb;
  --muted: #9ba5af; --accent: #6db3f2; --track: #2a3036; --right: #3ecf72; --wrong: #ff7066; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: clamp(1.4rem, 4vw, 2rem); line-height: 1.2; margin: .5rem 0 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; }
h2 small, .muted, .lead, dt, .notes, small { color: var(--muted); font-weight: 400; }
.lead { margin: .25rem 0 1rem; }
section { margin-top: 2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; display: grid; }
.tile b { font-size: 1.9rem; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .9rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .5rem .8rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
thead th { color: var(--muted); font-weight: 500; font-size: .85rem; }
tbody th { font-weight: 500; }
tbody tr { border-top: 1px solid var(--line); }
sup { color: var(--accent); margin-left: .15rem; line-height: 0; }
.notes { list-style: none; padding: 0; margin: .6rem 0 1rem; font-size: .85rem; }
dl { margin: 0; font-size: .92rem; }
dl div { display: grid; grid-template-columns: minmax(7rem, 14rem) 1fr; gap: .25rem 1rem; padding: .3rem 0;
  border-top: 1px solid var(--line); }
dt, dd { margin: 0; overflow-wrap: anywhere; }
.warning { margin-top: .8rem; border-left: 4px solid var(--wrong); padding: .3rem .8rem; }
details { margin-top: .6rem; } summary { cursor: pointer; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 2rem; align-items: start; }
.charts > div { min-width: 0; }
svg { width: 100%; height: auto; display: block; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
svg text { fill: var(--muted); font-size: 11px; } svg .grid { stroke: var(--line); } svg .axis { stroke: var(--muted); }
svg .curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; } svg .chance { stroke: var(--muted); stroke-dasharray: 2 4; }
.legend { list-style: none; padding: 0; margin: .6rem 0 0; font-size: .88rem; }
.legend svg { display: inline-block; width: 1.6rem; height: .5rem; border: 0; background: none; margin-right: .5rem;
  vertical-align: middle; }
.bars { list-style: none; margin: 0; padding: 0; font-size: .9rem; }
.bars li { display: grid; grid-template-columns: minmax(5rem, 30%) 1fr 3rem; gap: .6rem; align-items: center; padding: .12rem 0; }
.bars .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars .track { position: relative; height: .8rem; background: var(--track); border-radius: .2rem; }
.bars .fill { height: 100%; background: var(--accent); border-radius: .2rem; }
.bars .mark { position: absolute; top: -.12rem; bottom: -.12rem; width: 2px; background: var(--text); opacity: .55; }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; color: var(--muted); }
.example { display: grid; grid-template-columns: 8rem 1fr; gap: 1rem; padding: 1rem 0; border-top: 1px solid var(--line); }
.found { display: grid; grid-template-columns: repeat(10, 1fr); gap: .5rem; }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff; border-radius: .35rem; display: block; }
.query img { border: 1px solid var(--line); }
.right img { border: 3px solid var(--right); } .wrong img { border: 3px solid var(--wrong); }
.right figcaption, .right-mark { color: var(--right); } .wrong figcaption, .wrong-mark { color: var(--wrong); }
figcaption { font-size: .78rem; line-height: 1.3; margin-top: .25rem; overflow-wrap: anywhere; }
.query figcaption { font-size: .9rem; }
@media (max-width: 52rem) { .found { grid-template-columns: repeat(5, 1fr); } }
@media (max-width: 34rem) { .example, dl div { grid-template-columns: 1fr; gap: .6rem; } th, td { padding: .5rem .6rem; }
  .query { display: grid; grid-template-columns: 6rem 1fr; gap: .8rem; align-items: center; } dl div { gap: 0; } }
"""


def show(value: float | None) -> str:
    """Three decimals, as papers print them; a dash for what has no value.

    >>> show(0.50824), show(None), show(float("nan"))
    ('0.508', '–', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def text(value: object) -> str:
    """Safe inside HTML, quotes included, with real arrows.

    >>> text("sketch->photo <b>")
    'sketch → photo &lt;b&gt;'
    """
    return escape(str(value).replace("->", " → "), quote=True)


def class_bars(result: RetrievalResult, classes: Sequence[str]) -> str:
    """A bar per class, the best first, with a mark at the chance level."""
    ordered = sorted(result.per_class.items(), key=lambda item: (math.isnan(item[1]), -item[1], item[0]))
    mark = "" if math.isnan(result.chance_map) else f'<div class="mark" style="left:{100 * result.chance_map:.2f}%"></div>'
    bars = []
    for label, ap in ordered:
        width = 0.0 if math.isnan(ap) else 100 * ap
        name = text(classes[label])
        bars.append(
            f'<li><span class="name" title="{name}">{name}</span><div class="track"><div class="fill" style="width:{width:.2f}%">'
            f'</div>{mark}</div><span class="value">{show(ap)}</span></li>'
        )
    note = f'<p class="muted"><small>The upright mark is chance, {show(result.chance_map)}.</small></p>' if mark else ""
    return f'<ul class="bars">{"".join(bars)}</ul>{note}'


def precision_recall_chart(results: Mapping[str, RetrievalResult]) -> str:
    """Interpolated precision over recall, a curve per task, and the precision of a random order of the first task."""
    width, height, left, right, top, bottom = 420, 320, 40, 12, 12, 38

    def x(recall: float) -> float:
        return left + recall * (width - left - right)

    def y(precision: float) -> float:
        return height - bottom - precision * (height - top - bottom)

    marks = []
    for step in range(6):
        v = step / 5
        marks.append(f'<line class="grid" x1="{x(0)}" y1="{y(v):.1f}" x2="{x(1)}" y2="{y(v):.1f}"/>')
        marks.append(f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>')
        marks.append(f'<text x="{x(v):.1f}" y="{height - bottom + 16}" text-anchor="middle">{v:.1f}</text>')
    marks.append(f'<line class="axis" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(0)}"/>')
    marks.append(f'<text x="{x(0.5)}" y="{height - 6}" text-anchor="middle">recall</text>')
    marks.append(f'<text transform="translate(11 {y(0.5)}) rotate(-90)" text-anchor="middle">precision</text>')

    first = next(iter(results.values()))
    legend = []
    if not math.isnan(first.chance_precision):
        level = f"{y(first.chance_precision):.1f}"
        marks.append(f'<line class="chance" x1="{x(0)}" y1="{level}" x2="{x(1)}" y2="{level}"/>')
    for number, (name, result) in enumerate(results.items()):
        line = f'stroke="{COLOURS[number % len(COLOURS)]}"' + (' stroke-dasharray="6 4"' if number >= len(COLOURS) else "")
        if not math.isnan(result.map):
            points = " ".join(f"{x(i / 100):.1f},{y(p):.1f}" for i, p in enumerate(result.pr_curve.tolist()))
            marks.append(f'<polyline class="curve" {line} points="{points}"/>')
        legend.append(_legend(f'class="curve" {line}', f"{text(name)}, mAP {show(result.headline['mAP'])}"))
    legend.append(_legend('class="chance"', f"random order, precision {show(first.chance_precision)}"))
    numbers = "; ".join(f"{name}, mAP {show(result.headline['mAP'])}" for name, result in results.items())
    described = text(f"Precision over recall: {numbers}")
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{described}">{"".join(marks)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul>'
    )


def _legend(line: str, text: str) -> str:
    swatch = f'<svg viewBox="0 0 26 8" aria-hidden="true"><line {line} x1="0" y1="4" x2="26" y2="4"/></svg>'
    return f"<li>{swatch}{text}</li>"
