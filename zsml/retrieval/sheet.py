"""What a search found, as pictures: a contact sheet, and a page that holds its images."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from zsml.data.decode import decode
from zsml.errors import InputError
from zsml.files import write_atomic
from zsml.retrieval.report_parts import STYLE, text

SIDE, GAP, CAPTION = 112, 8, 28  # pixels of a picture, between pictures, below them
ACROSS = 10  # pictures in a row beside the query
UNITS = {"float": "", "bits": " bits", "rerank": ""}
Queries = list[dict[str, Any]]  # query: path; hits: dicts with path, label, distance


def contact_sheet(path: Path, queries: Queries, method: str = "float") -> None:
    """Write queries, each with what was found for it in rows of 10, as one picture.

    Raises:
        InputError: the sheet would be more than 65,000 pixels high.
        OSError: the file cannot be written; an old one stays.
    """
    cell = (SIDE + GAP, SIDE + CAPTION + GAP)
    heights = [max(1, -(-len(query["hits"]) // ACROSS)) * cell[1] for query in queries]
    if sum(heights) > 65_000:
        raise InputError(f"a sheet of {len(queries)} queries would be {sum(heights)} pixels high; ask for fewer, or write a page")
    sheet = Image.new("RGB", (cell[0] * (ACROSS + 1) + 2 * GAP, sum(heights) + GAP), "white")
    draw, top = ImageDraw.Draw(sheet), GAP
    for query, height in zip(queries, heights, strict=True):
        _place(sheet, draw, (GAP, top), query["query"], Path(query["query"]).name, "query")
        for n, hit in enumerate(query["hits"]):
            place = (2 * GAP + (1 + n % ACROSS) * cell[0], top + n // ACROSS * cell[1])
            _place(sheet, draw, place, hit["path"], hit["label"], _distance(hit, method))
        top += height
    data = io.BytesIO()
    sheet.save(data, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=90)
    write_atomic(path, data.getvalue())


def contact_page(path: Path, queries: Queries, method: str = "float") -> None:
    """Write the same as an HTML page without links to anywhere.

    Raises:
        OSError: the file cannot be written; an old one stays.
    """
    rows = []
    for query in queries:
        name = Path(query["query"]).name
        found = "".join(_figure(hit["path"], hit["label"], _distance(hit, method)) for hit in query["hits"])
        asked = _figure(query["query"], name, "query", "query")
        rows.append(f'<article class="example">{asked}<div class="found">{found}</div></article>')
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Search results</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f'<body><main><h1>Search results</h1><p class="lead">Nearest first; below each image its class and distance.</p>'
        f"{''.join(rows)}</main></body></html>\n"
    )
    write_atomic(path, page.encode("utf-8", "replace"))


def _figure(path: str, label: str, note: str, kind: str = "hit") -> str:
    image = _picture(path)
    caption = f"<figcaption>{text(label)}<br><small>{text(note)}</small></figcaption>"
    if image is None:
        return f'<figure class="{kind}" title="{text(path)}"><p class="muted">no image</p>{caption}</figure>'
    data = io.BytesIO()
    image.save(data, "JPEG", quality=86)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    shown = f'<img src="{source}" alt="{text(label)}, {text(note)}" loading="lazy">'
    return f'<figure class="{kind}" title="{text(path)}">{shown}{caption}</figure>'


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, place: tuple[int, int], path: str, label: str, note: str) -> None:
    x, y = place
    image = _picture(path)
    draw.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), outline="#d0d0c8", fill=None if image else "#ecece6")
    if image is not None:
        sheet.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
    for line, words in enumerate((label, note)):
        draw.text((x, y + SIDE + 2 + 12 * line), words.encode("latin-1", "replace").decode("latin-1")[:18], fill="#1d2126")


def _picture(path: str) -> Image.Image | None:
    """The image, small; None if its file is gone or damaged."""
    try:
        image = decode(path)
    except InputError:
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def _distance(hit: dict[str, Any], method: str) -> str:
    value = hit["distance"]
    return f"{value}{UNITS[method]}" if isinstance(value, int) else f"{value:.4f}"
