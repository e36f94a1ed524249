"""The README's table of speeds and the plots beside the rows, made from the saved rows alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from zsml.bench.rows import Row, comparison, load, milliseconds_each, ratio
from zsml.errors import InputError
from zsml.files import write_atomic

BEGIN, END = "<!-- bench: made by `zsml bench report` -->", "<!-- bench: end -->"
COLOURS = ("#2a6fb0", "#d1822c", "#3f9a5c", "#a4508b", "#7a6a53", "#c23b3b", "#5b6abf", "#8a8a2b")


def report(results: Path, readme: Path) -> dict[str, object]:
    """Write the section between the markers of the readme and a plot per file of rows.

    Raises:
        InputError: no such folder or readme, no markers in it, or it cannot be written.
    """
    if not results.is_dir():
        raise InputError(f"--results {str(results)!r} is not a folder; save rows first: zsml bench all --save {results}")
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--readme {str(readme)!r} cannot be read: {error.strerror}") from error
    files = {path.stem: load(path) for path in sorted(results.glob("*.json"))}
    new = with_section(text, files, results, readme)
    plots = {results / f"{stem}.svg": plot(rows) for stem, rows in files.items()}
    try:
        for path, drawing in plots.items():
            write_atomic(path, drawing.encode())
        write_atomic(readme, new.encode())
    except OSError as error:
        raise InputError(f"--results {str(results)!r} or --readme {str(readme)!r} cannot be written: {error.strerror}") from error
    return {"readme": str(readme), "plots": [str(path) for path in plots]}


def with_section(text: str, files: dict[str, list[Row]], results: Path, readme: Path) -> str:
    """The readme's text with the section between its markers made anew.

    Raises:
        InputError: it does not have both markers, once and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"--readme {str(readme)!r} must have the lines {BEGIN!r} and {END!r}, once each and in this order")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    folder = results.resolve()
    where = folder.relative_to(readme.resolve().parent).as_posix() if folder.is_relative_to(readme.resolve().parent) else folder
    parts = [f"{section(rows)}\n\n![{stem}: a bar per provider]({where}/{stem}.svg)" for stem, rows in files.items() if rows]
    body = "\n\n".join(parts) or "No timings are on record."
    return f"{before}{BEGIN}\n\n{body}\n\n{END}{after}"


def section(rows: Sequence[Row]) -> str:
    """The rows of one op on one device as a Markdown table: on a CPU ratios only, on a named GPU zsml's time as well."""
    first = rows[0]
    timed = on_gpu(first)
    providers = [name for name in dict.fromkeys(row["provider"] for row in rows) if name != "zsml"]
    head = [first["op"], *([] if timed else ["threads"]), *(["zsml, ms"] if timed else []), *providers, "zsml's peak, MiB"]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for group in comparisons(rows):
        by_name = {row["provider"]: row for row in group}
        own = by_name.get("zsml", group[0])
        cells = [cell(by_name.get(name), rows) for name in providers]
        what = own["case"] + (f", {queries(own)}" if "queries" in own["shape"] else "")
        peak = "-" if own["peak_extra_mib"] is None else f"{own['peak_extra_mib']:,.0f}"
        time = "-" if own["median_ms"] is None else f"{own['median_ms']:.3g}"
        lines.append([what, *([] if timed else [str(own["threads"])]), *([time] if timed else []), *cells, peak])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {first['op']}, {first['device']}\n\n{preface(rows)}\n\n{table}\n\n{remarks(rows, providers)}".rstrip()


def preface(rows: Sequence[Row]) -> str:
    """How to read the table, and where it comes from."""
    versions = [f"{name} {version}" for name, version in rows[0]["versions"].items()]
    stamps = dict.fromkeys(f"{row['commit']} ({row['date']})" for row in rows)
    kernels = rows[0]["kernels"] + (f", {rows[0]['instructions']}" if rows[0]["instructions"] and not on_gpu(rows[0]) else "")
    return (
        f"Times over zsml's in the same run, medians ({rows[0]['mode']}, {rows[0]['dtype']}; above 1, zsml is faster). "
        f"Kernels: {kernels}. {', '.join(versions)}. Commit {', '.join(stamps)}."
    )


def remarks(rows: Sequence[Row], providers: Sequence[str]) -> str:
    """What a provider does differently, and why cells are empty."""
    said: dict[str, None] = {}
    for name in ("zsml", *providers):
        own = [row for row in rows if row["provider"] == name]
        for row in own:
            differences = [row["mode"]] if row["mode"] != rows[0]["mode"] else []
            differences += [row["note"]] if row["note"] else []
            if fewer := [r for r in own if r["shape"].get("queries", 0) < zsml_queries(r, rows)]:
                differences.append(f"given {fewer[0]['shape']['queries']} queries, compared per query")
            if differences and not row["left_out"]:
                said[f"{name}: {'; '.join(differences)}."] = None
            if row["left_out"]:
                said[f"{name} left out at {row['case']}, {row['threads']} threads: {row['left_out']}."] = None
    return "\n".join(f"- {line}" for line in said)


def zsml_queries(row: Row, rows: Sequence[Row]) -> int:
    """Queries that zsml was given in the same comparison."""
    own = [r for r in rows if comparison(r) == comparison(row) and r["provider"] == "zsml"]
    return own[0]["shape"].get("queries", 0) if own else 0


def queries(row: Row) -> str:
    """
    >>> queries({"shape": {"queries": 1024, "full_queries": 15229}})
    '1,024 of 15,229 queries'
    """
    used, full = row["shape"]["queries"], row["shape"]["full_queries"]
    return f"{used:,} queries" if used == full else f"{used:,} of {full:,} queries"


def comparisons(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows grouped by comparison, in order of first appearance."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(comparison(row), []).append(row)
    return list(groups.values())


def cell(row: Row | None, rows: Sequence[Row]) -> str:
    """A ratio such as 12x."""
    value = None if row is None else ratio(row, rows)
    return "-" if value is None else f"{value:.0f}x" if value >= 99.5 else f"{value:.2g}x"


def on_gpu(row: Row) -> bool:
    """Times of a row may be shown as such: its device is a GPU, whose name says what they mean."""
    return row["on"] == "cuda"


# ---- plot -------------------------------------------------------------------------------------------------------------------

LEFT, WIDTH, BAR, GAP = 190, 900, 14, 10  # pixels


def plot(rows: Sequence[Row]) -> str:
    """Horizontal bars on a logarithmic scale, one group per comparison: times over zsml's, or on a GPU milliseconds."""
    absolute = on_gpu(rows[0])
    names = list(dict.fromkeys(row["provider"] for row in rows))
    value = (lambda row: milliseconds_each(row)) if absolute else (lambda row: ratio(row, rows))
    values = {id(row): v for row in rows if (v := value(row)) is not None}
    low = math.floor(math.log10(min(values.values(), default=1)))
    high = max(math.ceil(math.log10(max(values.values(), default=1))), low + 1)

    def x(v: float) -> float:
        return LEFT + (WIDTH - LEFT - 60) * (math.log10(v) - low) / (high - low)

    marks, y = [], 54.0
    for group in comparisons(rows):
        threads = "" if absolute else f", {group[0]['threads']} thread{'s' * (group[0]['threads'] > 1)}"
        marks.append(f'<text x="8" y="{y + 11:.0f}" class="case">{escape(group[0]["case"] + threads)}</text>')
        y += BAR + 2
        for row in group:
            label = f'<text x="{LEFT - 6}" y="{y + 11:.0f}" text-anchor="end">{escape(row["provider"])}</text>'
            if id(row) in values:
                v, colour = values[id(row)], COLOURS[names.index(row["provider"]) % len(COLOURS)]
                length = max(x(v) - LEFT, 1)
                number = f"{v:.3g} ms" if absolute else cell(row, rows)
                marks.append(f'<rect x="{LEFT}" y="{y:.0f}" width="{length:.1f}" height="{BAR - 3}" fill="{colour}"/>')
                label += f'<text x="{LEFT + length + 4:.1f}" y="{y + 11:.0f}">{number}</text>'
            else:
                label += f'<text x="{LEFT + 4}" y="{y + 11:.0f}" class="out">left out</text>'
            marks.append(label)
            y += BAR
        y += GAP
    height = round(y + 6)
    grid = "".join(
        f'<line x1="{x(10**e):.1f}" x2="{x(10**e):.1f}" y1="44" y2="{height - 8}"/>'
        f'<text x="{x(10**e):.1f}" y="40" text-anchor="middle">{10**e:g}</text>'
        for e in range(low, high + 1)
    )
    unit = "milliseconds per query" if "queries" in rows[0]["shape"] else "milliseconds"
    title = (
        f"{rows[0]['op']}, {rows[0]['device']}: {unit if absolute else 'time over that of zsml'} (log scale, shorter is faster)"
    )
    style = "text{font:11px sans-serif;fill:#444}.case{font-weight:bold}.out{fill:#999}line{stroke:#ddd}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f'<style>{style}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="8" y="20" style="font-size:13px">{escape(title)}</text>{grid}\n' + "\n".join(marks) + "\n</svg>\n"
    )
