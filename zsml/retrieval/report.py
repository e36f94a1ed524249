"""The report of an evaluation: ``metrics.json`` for programs, ``report.html`` for people.

The page is one file without scripts or links to anywhere: images are embedded, charts are drawn inline, so it can be read
offline, mailed or archived.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zsml.errors import InputError
from zsml.files import write_atomic
from zsml.retrieval.metrics import RetrievalResult, as_plain
from zsml.retrieval.report_parts import STYLE, class_bars, precision_recall_chart, show, text

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL = 176  # pixels of the longer side: twice what is shown, for fine screens
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class QueryExample(NamedTuple):
    """One query and what was found for it.

    results: nearest first, (image, class name, same class as the query, distance).
    """

    direction: str
    query_image: Image
    query_class: str
    results: Sequence[tuple[Image, str, bool, float]]


def write_report(
    out: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, RetrievalResult],
    protocol: Mapping[str, str],
    classes: Sequence[str],
    examples: Sequence[QueryExample] = (),
    facts: Mapping[str, Any] | None = None,
    skipped: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` and ``metrics.json`` into the folder ``out``.

    Args:
        out: folder, made if missing; the two files are replaced.
        title: heading of the page.
        results: by task, e.g. "sketch->photo" or "sketch->photo, 64 bits"; the first is the headline.
        protocol: what was measured and on what, as label -> sentence. The definition of the numbers need not be repeated
            here: every result states its own.
        classes: name of class id 0, 1, ...
        examples: queries to show with their nearest gallery images.
        facts: how the model came about, for the end of the page: settings, seed, commit, versions.
        skipped: names of images that could not be decoded and were left out.

    Returns:
        path of ``report.html``.

    Raises:
        TypeError: a result or an example of the wrong kind.
        InputError: no results, a class id without a name, ``out`` is a file.
        OSError: the folder cannot be written; files already there stay as they were.
    """
    results, protocol, facts = dict(results), dict(protocol), dict(facts or {})
    _check(results, classes, examples)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"out must be a folder for the report, but {out} is a file")
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
        "title": title,
        "results": {name: result.to_dict() for name, result in results.items()},
        "protocol": protocol,
        "classes": list(classes),
        "skipped_images": list(skipped),
        "facts": as_plain(facts),
    }
    page = _page(title, results, protocol, classes, examples, facts, skipped)
    write_atomic(out / "metrics.json", (json.dumps(numbers, indent=1, allow_nan=False, default=str) + "\n").encode())
    write_atomic(out / "report.html", page.encode())
    return out / "report.html"


def _page(
    title: str,
    results: dict[str, RetrievalResult],
    protocol: dict[str, str],
    classes: Sequence[str],
    examples: Sequence[QueryExample],
    facts: dict[str, Any],
    skipped: Sequence[str],
) -> str:
    name, first = next(iter(results.items()))
    charts = (
        f"<div>{_heading('Precision and recall')}{precision_recall_chart(results)}</div>"
        f"<div>{_heading('Average precision by class', name)}{class_bars(first, classes)}{_other_classes(results, classes)}</div>"
    )
    sections = [
        _tiles(name, first),
        _section("Results", _table(results) + _definitions(protocol) + _skipped(skipped)),
        f'<section class="charts">{charts}</section>',
        _section("What was found", _examples(examples)) if examples else "",
        _section("How the model was made", _definitions(facts)) if facts else "",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{text(title)}</h1>\n" + "\n".join(part for part in sections if part) + "\n</main>\n</body>\n</html>\n"
    )


def _tiles(name: str, result: RetrievalResult) -> str:
    """The headline numbers, large."""
    tiles = []
    for metric, value in result.headline.items():
        is_precision = metric.startswith("P@")
        chance = result.chance_precision if is_precision else result.chance_map if metric == "mAP" else None
        note = f"chance {show(chance)}" if chance is not None else "&nbsp;"
        label = "mAP@all" if metric == "mAP" else metric
        tiles.append(f'<div class="tile"><span>{label}</span><b>{show(value)}</b><small>{note}</small></div>')
    return f'<p class="lead">{text(name)}</p><div class="tiles">{"".join(tiles)}</div>'


def _table(results: dict[str, RetrievalResult]) -> str:
    """A row per task; a letter leads to the definition its numbers follow."""
    metrics = list(dict.fromkeys(metric for result in results.values() for metric in result.headline))
    sentences = list(dict.fromkeys(result.protocol.sentence() for result in results.values()))
    marks = dict(zip(sentences, LETTERS, strict=False)) if len(sentences) <= len(LETTERS) else dict.fromkeys(sentences, "")
    heads = ["mAP@all" if metric == "mAP" else metric for metric in metrics] + ["chance mAP", "× chance", "queries", "gallery"]
    rows = []
    for name, result in results.items():
        left_out = result.num_queries - result.num_valid_queries
        queries = f"{result.num_valid_queries:,}" + (f" <small>({left_out:,} without match left out)</small>" if left_out else "")
        times = result.headline["mAP"] / result.chance_map if result.chance_map else float("nan")
        cells = [show(result.headline.get(metric)) for metric in metrics]
        cells += [show(result.chance_map), f"{times:.1f}" if times == times else "–", queries, f"{result.gallery_size:,}"]
        head = f'<th scope="row">{text(name)}<sup>{marks[result.protocol.sentence()]}</sup></th>'
        rows.append(f"<tr>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    header = "".join(f'<th scope="col">{head}</th>' for head in heads)
    notes = "".join(f"<li><sup>{marks[sentence]}</sup> {text(sentence)}</li>" for sentence in sentences)
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">task</th>{header}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<ul class="notes">{notes}<li>R: number of gallery images of the query\'s class. Chance: the expected mAP, without '
        "interpolation, of a gallery in random order.</li></ul>"
    )


def _other_classes(results: dict[str, RetrievalResult], classes: Sequence[str]) -> str:
    """The classes of every task but the first, folded away."""
    folded = []
    for name, result in list(results.items())[1:]:
        folded.append(f"<details><summary>{text(name)}</summary>{class_bars(result, classes)}</details>")
    return "".join(folded)


def _examples(examples: Sequence[QueryExample]) -> str:
    """Each query beside its nearest gallery images, framed and marked by whether the class is right."""
    blocks = []
    for example in examples:
        hits = sum(correct for _, _, correct, _ in example.results)
        found = []
        for rank, (image, name, correct, distance) in enumerate(example.results, 1):
            verdict = "right" if correct else "wrong"
            alt = text(f"rank {rank}: {name}, {verdict} class, distance {distance:.3g}")
            mark = "✓" if correct else "✗"
            found.append(
                f'<figure class="{verdict}"><img src="{_data_uri(image)}" alt="{alt}" loading="lazy">'
                f"<figcaption>{mark} {text(name)}</figcaption></figure>"
            )
        alt = text(f"query: {example.query_class}")
        score = f"{text(example.direction)}, {hits} of {len(example.results)} right"
        blocks.append(
            f'<article class="example"><figure class="query">'
            f'<img src="{_data_uri(example.query_image)}" alt="{alt}" loading="lazy">'
            f"<figcaption><b>{text(example.query_class)}</b><br><small>{score}</small></figcaption></figure>"
            f'<div class="found">{"".join(found)}</div></article>'
        )
    legend = (
        '<p class="muted">The query is on the left, the nearest gallery images follow from the nearest on. '
        '<span class="right-mark">✓ green frame</span>: the class of the query. '
        '<span class="wrong-mark">✗ red frame</span>: another class.</p>'
    )
    return legend + "".join(blocks)


def _definitions(entries: Mapping[str, Any]) -> str:
    items = "".join(f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd></div>" for key, value in entries.items())
    return f"<dl>{items}</dl>" if items else ""


def _skipped(skipped: Sequence[str]) -> str:
    if not skipped:
        return ""
    names = "".join(f"<li>{text(name)}</li>" for name in skipped)
    noun = "image that could not be decoded was" if len(skipped) == 1 else "images that could not be decoded were"
    return f'<details class="warning"><summary>{len(skipped)} {noun} left out</summary><ul>{names}</ul></details>'


def _section(heading: str, content: str) -> str:
    return f"<section>{_heading(heading)}{content}</section>"


def _heading(heading: str, note: str = "") -> str:
    return f"<h2>{text(heading)}{f' <small>{text(note)}</small>' if note else ''}</h2>"


def _data_uri(image: Image) -> str:
    """The image as a small JPEG inside the page."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _check(results: dict[str, RetrievalResult], classes: Sequence[str], examples: Sequence[QueryExample]) -> None:
    if not results:
        raise InputError("results is empty: a report needs at least one evaluated task")
    for name, result in results.items():
        if not isinstance(result, RetrievalResult):
            raise TypeError(f"results[{name!r}] must be a RetrievalResult, got {type(result).__name__}")
        unnamed = [label for label in result.per_class if not 0 <= label < len(classes)]
        if unnamed:
            raise InputError(f"results[{name!r}] has class ids {unnamed[:8]} but classes names only 0 to {len(classes) - 1}")
    for number, example in enumerate(examples):
        for image in [example.query_image, *(image for image, *_ in example.results)]:
            if not hasattr(image, "convert"):
                raise TypeError(f"examples[{number}] must hold PIL images, got {type(image).__name__}")
