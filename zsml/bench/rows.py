"""Rows on disk and as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zsml.engine.tables import table
from zsml.errors import InputError
from zsml.files import write_atomic

Row = dict[str, Any]


def comparison(row: Row) -> tuple[Any, ...]:
    """What rows of one comparison, timed together, have in common."""
    return row["op"], row["case"], row["threads"]


def milliseconds_each(row: Row) -> float | None:
    """Median per query, or per call where an op has no queries: what providers given fewer queries can be compared by."""
    return None if row["median_ms"] is None else row["median_ms"] / row["shape"].get("queries", 1)


def ratio(row: Row, rows: Iterable[Row]) -> float | None:
    """How many times longer than zsml in the same run it took; None if either has no time."""
    base = next((r for r in rows if comparison(r) == comparison(row) and r["provider"] == "zsml"), None)
    own = milliseconds_each(row)
    return None if own is None or base is None or base["median_ms"] is None else own / milliseconds_each(base)


def file_name(row: Row) -> str:
    """The file a row belongs into.

    >>> file_name({"op": "evaluate", "on": "cuda", "device": "NVIDIA H200"})
    'evaluate.nvidia-h200.json'
    """
    device = re.sub(r"[^a-z0-9]+", "-", row["device"].lower()).strip("-") if row["on"] == "cuda" else "cpu"
    return f"{row['op']}.{device}.json"


def load(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        InputError: it is not a file of rows.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        assert all(comparison(row) and "median_ms" in row for row in rows)
        return rows
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(f"{str(path)!r} is not a file of benchmark rows; move it away or mend it") from error


def save(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Put rows into the files of a folder; comparisons that stood there before are replaced as a whole. One row per line."""
    paths = []
    for name in dict.fromkeys(file_name(row) for row in rows):
        new = [row for row in rows if file_name(row) == name]
        path = folder / name
        renewed = {comparison(row) for row in new}
        old = [row for row in load(path) if comparison(row) not in renewed] if path.exists() else []
        write_atomic(path, ("[\n" + ",\n".join(json.dumps(row) for row in (*old, *new)) + "\n]\n").encode())
        paths.append(path)
    return paths


def check_folder(folder: Path) -> None:
    """Make the folder and see that rows can be written there, before hours are spent on them.

    Raises:
        InputError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(probe := folder / "probe.tmp", b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"--save {str(folder)!r} cannot be written: {error.strerror}") from error


def rows_table(rows: Sequence[Row]) -> str:
    """For the terminal; "x zsml" is the time per query over that of zsml in the same run."""
    header = ["", "queries", "ms", "p20", "p80", "x zsml", "peak MiB"]
    parts = []
    for key in dict.fromkeys(comparison(row) for row in rows):
        group = [row for row in rows if comparison(row) == key]
        lines, remarks = [], [""]
        for row in group:
            numbers = [*(row[name] for name in ("median_ms", "p20_ms", "p80_ms")), ratio(row, rows), row["peak_extra_mib"]]
            lines.append([row["provider"], row["shape"].get("queries", "-"), *map(_short, numbers)])
            differs = row["mode"] if row["mode"] != group[0]["mode"] else ""
            remarks.append(f"left out: {row['left_out']}" if row["left_out"] else "; ".join(filter(None, [differs, row["note"]])))
        parts.append(f"{key[0]}, {key[1]}, threads: {key[2]} ({group[0]['mode']})")
        shown = table(header, lines).splitlines()
        parts += [f"  {line:<{max(map(len, shown))}}  {remark}".rstrip() for line, remark in zip(shown, remarks, strict=True)]
    return "\n".join(parts)


def _short(value: float | None) -> str:
    """Three digits.

    >>> _short(0.012345), _short(1234.5), _short(None)
    ('0.0123', '1,234', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
