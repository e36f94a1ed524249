"""Telling people and programs how a run goes: stderr for messages, CSV and JSON lines for numbers."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

_silent = False


@contextmanager
def silent(yes: bool = True) -> Iterator[None]:
    """Within the block this process neither says anything nor shows progress."""
    global _silent
    before, _silent = _silent, yes
    try:
        yield
    finally:
        _silent = before


def printable(text: str) -> str:
    """The text with what a terminal does not show as it is (control characters, bytes that are not UTF-8) as escapes.

    >>> printable("a\\x1b[2J.jpg")
    'a\\\\x1b[2J.jpg'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(message: str) -> None:
    """Print a message to stderr, above the progress bar if there is one."""
    if _silent:
        return
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A progress bar on stderr; silent where stderr is no terminal."""
    return tqdm(items, file=sys.stderr, disable=_silent or None, dynamic_ncols=True, leave=False, **options)


class RunLog:
    """Writes `log.jsonl` (a line per step and per epoch) and `log.csv` (a row per epoch) into the run's folder.

    A resumed run drops the lines after the step it resumes from, so that every step is there once.
    """

    def __init__(self, out: Path, *, resume_step: int = 0, tensorboard: bool = False):
        self._jsonl_path, self._csv_path = out / "log.jsonl", out / "log.csv"
        self._rows = _keep_until(self._jsonl_path, resume_step)
        self._jsonl = self._jsonl_path.open("a", encoding="utf-8", buffering=1)
        self._events = _event_writer(out) if tensorboard else None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._jsonl.close()
        if self._events is not None:
            self._events.close()

    def step(self, row: dict[str, Any]) -> None:
        """Record one optimiser step; row has at least `epoch`, `step` and `loss`."""
        self._write({"kind": "step", **row})

    def epoch(self, row: dict[str, Any]) -> None:
        """Record one finished epoch."""
        self._write({"kind": "epoch", **row})
        self._rows.append(row)
        _write_csv(self._csv_path, self._rows)

    def _write(self, row: dict[str, Any]) -> None:
        self._jsonl.write(json.dumps({key: _finite(value) for key, value in row.items()}) + "\n")
        if self._events is not None:
            for key, value in row.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{row['kind']}/{key}", value, row["step"])


class NoLog:
    """Takes what a RunLog takes, and writes nothing: for processes beside the one that writes."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, row: dict[str, Any]) -> None:
        pass

    def epoch(self, row: dict[str, Any]) -> None:
        pass


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no nan


def _keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Cut the JSON-lines file after `step` and return its epoch rows."""
    lines, rows = [], []
    if step and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the line the run was killed in
                break
            if row["step"] > step:
                break
            lines.append(line + "\n")
            if row.pop("kind") == "epoch":
                rows.append(row)
    _replace(path, "".join(lines))
    return rows


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _event_writer(out: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # optional

    return SummaryWriter(str(out / "tensorboard"))
