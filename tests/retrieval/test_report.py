"""The report folder: complete, self-contained, escaped, readable without images or colours, strict JSON."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from zsml.errors import InputError
from zsml.metrics import RetrievalResult, evaluate_retrieval
from zsml.retrieval.report import QueryExample, write_report

CLASSES = ["cat", "hot air balloon", 'car "(sedan)" <b>&amp;']
VOID = {"meta", "img", "line", "br"}


class Page(HTMLParser):
    """Tags that open and close, their attributes and the visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def result(classes: int = 3, seed: int = 0, **options) -> RetrievalResult:
    generator = torch.Generator().manual_seed(seed)
    query, gallery = torch.randn(12, 4, generator=generator), torch.randn(30, 4, generator=generator)
    return evaluate_retrieval(query, torch.arange(12) % classes, gallery, torch.arange(30) % 3, **options)


def image(colour: str, size: tuple[int, int] = (300, 200), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def example() -> QueryExample:
    found = [(image("green"), "cat", True, 0.25), (image("red", (20, 900)), CLASSES[2], False, 0.5)]
    return QueryExample("sketch->photo", image("white", mode="L"), "cat", found)


def write(out: Path, **changes) -> tuple[Page, dict]:
    arguments = {
        "title": "A <title>",
        "results": {"sketch->photo": result(), "sketch->photo, 64 bits": result(seed=1, preset="dsn")},
        "protocol": {"data": "three classes"},
        "classes": CLASSES,
        "examples": [example()],
    } | changes
    path = write_report(out, **arguments)
    assert path == out / "report.html"
    assert sorted(p.name for p in out.iterdir()) == ["metrics.json", "report.html"]
    return Page(path.read_text(encoding="utf-8")), json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def test_numbers_and_their_definitions_are_there(tmp_path: Path) -> None:
    results = {"sketch->photo": result(), "sketch->photo, 64 bits": result(seed=1, preset="dsn")}
    page, numbers = write(tmp_path / "new" / "report", results=results, facts={"seed": 7, "commit": "abc123"})
    for name, one in results.items():
        assert numbers["results"][name] == one.to_dict()
        assert name.replace("->", " → ") in page.words
        for value in [*one.headline.values(), one.chance_map, *one.per_class.values()]:
            assert f"{value:.3f}" in page.words
        assert one.protocol.sentence() in page.words
    for words in ("mAP@all", "mAP@200", "P@100", "chance mAP", "three classes", "seed 7", "commit abc123", "12 30"):
        assert words in page.words
    assert numbers["protocol"] == {"data": "three classes"} and numbers["facts"] == {"seed": 7, "commit": "abc123"}
    assert numbers["classes"] == CLASSES and numbers["skipped_images"] == []
    assert len(page.all("polyline")) == 2
    assert len([t for t in page.all("div") if t.get("class") == "fill"]) == 6


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page, _ = write(tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", html)
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in page.all("img"))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme: dark" in html


def test_examples_show_small_framed_described_images(tmp_path: Path) -> None:
    page, _ = write(tmp_path)
    pictures = page.all("img")
    assert [picture["alt"] for picture in pictures] == [
        "query: cat",
        "rank 1: cat, right class, distance 0.25",
        f"rank 2: {CLASSES[2]}, wrong class, distance 0.5",
    ]
    assert [figure["class"] for figure in page.all("figure")] == ["query", "right", "wrong"]
    assert "1 of 2 right" in page.words and "✓ cat" in page.words and "✗ car" in page.words
    for picture, (colour, size) in zip(pictures, [("white", (176, 117)), ("green", (176, 117)), ("red", (4, 176))], strict=True):
        decoded = Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",")[1])))
        assert decoded.size == size
        expected = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        assert max(abs(a - b) for a, b in zip(decoded.getpixel((1, 50)), expected, strict=True)) < 5


def test_names_are_escaped(tmp_path: Path) -> None:
    page, _ = write(tmp_path, protocol={"<i>": "<script>alert(1)</script>"}, facts={"a&b": "<u>"}, skipped=["<img src=x>.png"])
    for words in ("A <title>", CLASSES[2], "<script>alert(1)</script>", "a&b <u>", "<img src=x>.png"):
        assert " ".join(words.split()) in page.words
    assert not page.all("script") and len(page.all("b")) == 4 and not page.all("u") and not page.all("i")


def test_left_out_images_and_queries_are_counted(tmp_path: Path) -> None:
    page, numbers = write(tmp_path, results={"all": result(4)}, classes=[*CLASSES, "absent"], skipped=["a.png", "b.png"])
    assert "2 images that could not be decoded were left out" in page.words and "b.png" in page.words
    assert "9 (3 without match left out)" in page.words
    assert numbers["skipped_images"] == ["a.png", "b.png"] and numbers["results"]["all"]["per_class"]["3"] is None
    page, _ = write(tmp_path, skipped=["a.png"])
    assert "1 image that could not be decoded was left out" in page.words


def test_a_result_without_any_valid_query(tmp_path: Path) -> None:
    nothing = evaluate_retrieval(torch.zeros(2, 1), torch.tensor([0, 1]), torch.zeros(3, 1), torch.tensor([2, 2, 2]))
    page, numbers = write(tmp_path, results={"nothing": nothing, "mems": result(preset="mems")}, examples=[])
    assert numbers["results"]["nothing"]["map"] is None and "nan" not in page.words
    assert len(page.all("polyline")) == 1 and not page.all("img")
    assert "What was found" not in page.words and "How the model was made" not in page.words


def test_facts_of_any_kind(tmp_path: Path) -> None:
    _, numbers = write(tmp_path, facts={"root": Path("data"), "best": math.nan, "rates": (1e-4, 1e-3)})
    assert numbers["facts"] == {"root": "data", "best": None, "rates": [1e-4, 1e-3]}


def test_many_tasks_still_tell_their_curves_apart(tmp_path: Path) -> None:
    page, _ = write(tmp_path, results={f"task {i}": result(seed=i) for i in range(9)})
    styles = [(line["stroke"], line.get("stroke-dasharray")) for line in page.all("polyline")]
    assert len(set(styles)) == 9


def test_bad_input_is_named_and_leaves_the_old_report(tmp_path: Path) -> None:
    write(tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(InputError, match="results is empty"):
        write(tmp_path, results={})
    with pytest.raises(TypeError, match=r"results\['x'\] must be a RetrievalResult, got float"):
        write(tmp_path, results={"x": 0.5})
    with pytest.raises(InputError, match=r"results\['sketch->photo'\] has class ids \[2\] but classes names only 0 to 1"):
        write(tmp_path, classes=CLASSES[:2])
    with pytest.raises(TypeError, match=r"examples\[0\] must hold PIL images, got str"):
        write(tmp_path, examples=[example()._replace(query_image="cat.png")])
    with pytest.raises(InputError, match="out must be a folder"):
        write(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == before
