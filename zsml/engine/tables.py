"""Results as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns aligned, the first to the left and the others to the right.

    >>> print(table(["class", "photos"], [["dog", 12], ["horse", 7]]))
    class  photos
    dog        12
    horse       7
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for first, *others in cells:
        aligned = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *aligned]).rstrip())
    return "\n".join(lines)


def results_table(results: dict[str, dict[str, Any]], classes: str = "unseen classes") -> str:
    """The headline numbers of `RetrievalResult.to_dict()` by direction, with what chance would give; of which classes."""
    header = [classes, "mAP", "mAP by class", "mAP@k", "P@k", "chance mAP", "queries", "gallery"]
    rows = [
        [
            name,
            number(result["map"]),
            number(result["map_macro"]),
            _at(result["map_at"]),
            _at(result["precision"]),
            number(result["chance_map"]),
            result["num_valid_queries"],
            result["gallery_size"],
        ]
        for name, result in results.items()
    ]
    by_sentence: dict[str, list[str]] = {}
    for name, result in results.items():
        by_sentence.setdefault(result["protocol"]["sentence"], []).append(name)
    sentences = list(by_sentence)
    if len(sentences) > 1:  # real-valued and binary: say which is which
        sentences = [f"{', '.join(names)}: {sentence}" for sentence, names in by_sentence.items()]
    intervals = [
        f"{name}: equal distances leave the mAP between {number(result['map_worst'])} and {number(result['map_best'])}."
        for name, result in results.items()
        if result["map_best"] is not None and number(result["map_worst"]) != number(result["map_best"])
    ]
    chance = ["Chance mAP: the gallery in random order, without interpolation."]
    return "\n".join([table(header, rows), *sentences, *intervals, *chance])


def sweep_table(sweep: dict[str, dict[str, Any]]) -> str:
    """Results by M and K of the clusters, each line marked; the definitions are those of the table above."""
    header = ["clusters by M and K", "", "mAP", "mAP by class", "mAP@k", "P@k"]
    rows = [
        [name, cell["note"], number(cell["map"]), number(cell["map_macro"]), _at(cell["map_at"]), _at(cell["precision"])]
        for name, cell in sweep.items()
    ]
    return table(header, rows)


def split_table(summary: dict[str, Any]) -> str:
    """What `describe` found: a row per class."""
    header = ["class", "split", "sketches", "photos", "held-out sketches", "held-out photos"]
    counts = ("sketches", "photos", "held_out_sketches", "held_out_photos")
    rows = [[row["class"], row["split"], *(row[name] for name in counts)] for row in summary["classes"]]
    total = [sum(row[name] for row in summary["classes"]) for name in counts]
    unseen = sum(row["split"] == "unseen" for row in summary["classes"])
    return table(header, [*rows, [f"{len({row['class'] for row in summary['classes']})} classes", f"{unseen} unseen", *total]])


def info_table(info: dict[str, Any]) -> str:
    """`zsml.info()`, a line per fact."""
    width = max(map(len, info))
    lines = []
    for name, value in info.items():
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else value
        lines.append(f"{name.replace('_', ' '):<{width}}  {'-' if shown is None else shown}")
    return "\n".join(lines)


def demo_table(result: dict[str, Any]) -> str:
    """Chance, the untrained and the trained network side by side."""
    rows = [
        [name, number(result[f"{key}_map"]), f"{result[f'{key}_map'] / result['chance_map']:.1f}"]
        for name, key in (("gallery in random order", "chance"), ("untrained network", "untrained"), ("trained", "trained"))
    ]
    what = (
        f"sketch->photo among {result['unseen_classes']} classes never seen in training: "
        f"{result['queries']} sketches, {result['gallery']} photos"
    )
    lines = [what, table(["", "mAP@all", "x chance"], rows), result["protocol"], f"report: {result['report']}"]
    if "index" in result:
        lines.append(f"now draw: zsml serve --index {result['index']}")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Four decimals, the precision papers give.

    >>> number(0.50824), number(None)
    ('0.5082', '-')
    """
    return "-" if value is None else f"{value:.4f}"


def _at(values: dict[str, float]) -> str:
    return " ".join(f"{number(value)} @{k}" for k, value in values.items()) or "-"


def systems_table(systems: Sequence[dict[str, str]]) -> str:
    """A paragraph per system: name, objective, source, protocol."""
    parts = []
    for system in systems:
        parts.append(f"{system['name']}\n  {system['summary']}\n  {system['source']}; protocol {system['protocol']}")
    return "\n".join(parts)


def settings_table(settings: Sequence[dict[str, Any]]) -> str:
    """The settings of a system, with what the published code has where that differs."""
    rows = []
    for entry in settings:
        value, released = entry["value"], entry["released"]
        rows.append([entry["setting"], _setting(value), "" if value == released else _setting(released)])
    return table(["setting", "value", "with --variant released"], rows)


def _setting(value: Any) -> str:
    return {None: "its own default", "": "as --pretrained"}.get(value, str(value)) if not isinstance(value, bool) else str(value)
