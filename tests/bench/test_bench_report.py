"""Rows on disk, the section of the README and the plots made from them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zsml.bench import rows as rows_module
from zsml.bench.report import BEGIN, END, report, with_section
from zsml.bench.rows import load, ratio, rows_table, save
from zsml.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def row(provider, milliseconds, op="hamming_topk", case="tiny, 64 bits", threads=1, queries=80, **changes):
    times = dict.fromkeys(("median_ms", "p20_ms", "p80_ms"), milliseconds)
    return {
        "op": op, "case": case, "size": "tiny", "provider": provider, "mode": "distances", "dtype": "uint8",
        "shape": {"queries": queries, "full_queries": 80, "gallery": 300}, "threads": threads, "pools": {"torch": threads},
        **times, "samples": 3, "peak_extra_mib": 1.5, "note": "", "left_out": None, "on": "cpu", "device": "Some CPU <x>",
        "kernels": "cpu", "instructions": "avx2", "python": "3.11", "versions": {"torch": "2.11", "faiss-cpu": "1.15"},
        "commit": "abc1234", "date": "2026-01-01", **changes,
    }  # fmt: skip


ROWS = [
    row("zsml", 2.0),
    row("faiss-heap", 30.0),
    row("scipy", 40.0, queries=8, note="equal distances in no fixed order"),
    row("broken", None, left_out="disagrees: by far"),
    row("zsml", 1.0, threads=2),
    row("faiss-heap", 250.0, threads=2),
]


@pytest.fixture
def folder(tmp_path):
    """A checkout with saved rows and a README with markers."""
    (results := tmp_path / "bench" / "results").mkdir(parents=True)
    save(ROWS, results)
    save([row("zsml", 0.5, on="cuda", device="NVIDIA H200"), row("torch", 1.25, on="cuda", device="NVIDIA H200")], results)
    (tmp_path / "README.md").write_text(f"# x\n\nbefore\n\n{BEGIN}\nold words\n{END}\n\nafter\n")
    return tmp_path


def test_a_ratio_is_per_query_and_within_one_comparison():
    assert [ratio(r, ROWS) for r in ROWS] == [1, 15, 200, None, 1, 250]
    assert ratio(ROWS[1], ROWS[1:4]) is None


def test_files_are_by_op_and_device_one_row_per_line(folder):
    results = folder / "bench" / "results"
    assert sorted(path.name for path in results.iterdir()) == ["hamming_topk.cpu.json", "hamming_topk.nvidia-h200.json"]
    lines = (results / "hamming_topk.cpu.json").read_text().splitlines()
    assert len(lines) == len(ROWS) + 2 and json.loads(lines[1].rstrip(",")) == ROWS[0]
    assert load(results / "hamming_topk.cpu.json") == ROWS


def test_a_renewed_comparison_replaces_the_old_one_as_a_whole(folder):
    path = folder / "bench" / "results" / "hamming_topk.cpu.json"
    save([row("zsml", 3.0), row("new", 6.0)], path.parent)
    assert [(r["provider"], r["threads"], r["median_ms"]) for r in load(path)] == [
        ("zsml", 2, 1.0), ("faiss-heap", 2, 250.0), ("zsml", 1, 3.0), ("new", 1, 6.0),
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"op": "x"}]', '{"a": 1}'])
def test_a_file_of_something_else_is_neither_read_nor_replaced(content, tmp_path):
    path = tmp_path / "hamming_topk.cpu.json"
    path.write_text(content)
    with pytest.raises(InputError, match="not a file of benchmark rows"):
        load(path)
    with pytest.raises(InputError, match="not a file of benchmark rows"):
        save(ROWS, tmp_path)
    assert path.read_text() == content


def test_the_section_has_ratios_on_a_cpu_and_times_on_a_named_gpu(folder):
    report(folder / "bench" / "results", folder / "README.md")
    text = (folder / "README.md").read_text()
    assert text.startswith(f"# x\n\nbefore\n\n{BEGIN}\n") and text.endswith(f"{END}\n\nafter\n") and "old words" not in text
    lines = text.splitlines()
    assert "| tiny, 64 bits, 80 queries | 1 | 15x | 200x | - | 2 |" in lines
    assert "| tiny, 64 bits, 80 queries | 2 | 250x | - | - | 2 |" in lines
    assert "- scipy: equal distances in no fixed order; given 8 queries, compared per query." in lines
    assert "- broken left out at tiny, 64 bits, 1 threads: disagrees: by far." in lines
    assert "| hamming_topk | zsml, ms | torch | zsml's peak, MiB |" in lines
    assert "| tiny, 64 bits, 80 queries | 0.5 | 2.5x | 2 |" in lines
    assert "abc1234 (2026-01-01)" in text and "faiss-cpu 1.15" in text
    assert "(bench/results/hamming_topk.cpu.svg)" in text


def test_the_report_is_the_same_every_time(folder):
    results, readme = folder / "bench" / "results", folder / "README.md"
    made = report(results, readme)
    assert made == {
        "readme": str(readme),
        "plots": [str(results / f"hamming_topk.{device}.svg") for device in ("cpu", "nvidia-h200")],
    }
    files = [readme, *results.iterdir()]
    first = [path.read_bytes() for path in files]
    report(results, readme)
    assert [path.read_bytes() for path in files] == first


def test_plots_are_drawings_with_a_bar_for_every_time(folder):
    report(folder / "bench" / "results", folder / "README.md")
    texts = {}
    for device in ("cpu", "nvidia-h200"):
        drawing = ElementTree.parse(folder / "bench" / "results" / f"hamming_topk.{device}.svg").getroot()
        texts[device] = [element.text for element in drawing.findall(".//{*}text")]
        widths = [float(element.get("width")) for element in drawing.findall(".//{*}rect")][1:]
        assert len(widths) == {"cpu": 5, "nvidia-h200": 2}[device] and min(widths) >= 1
    assert {"left out", "200x", "15x"} <= set(texts["cpu"]) and not any("ms" in text for text in texts["cpu"])
    assert {"0.00625 ms", "0.0156 ms"} <= set(texts["nvidia-h200"])


def test_without_rows_the_section_says_so(tmp_path):
    text = with_section(f"a {BEGIN} x {END} b", {}, tmp_path, tmp_path / "README.md")
    assert text == f"a {BEGIN}\n\nNo timings are on record.\n\n{END} b"


@pytest.mark.parametrize("text", ["", BEGIN, END, END + BEGIN, BEGIN + END + END])
def test_a_readme_without_its_markers_is_left_alone(folder, text):
    readme = folder / "README.md"
    readme.write_text(text)
    with pytest.raises(InputError, match=r"--readme .*README.md' must have the lines"):
        report(folder / "bench" / "results", readme)
    assert readme.read_text() == text and not list((folder / "bench" / "results").glob("*.svg"))


def test_the_terminal_table_names_what_was_left_out():
    lines = rows_table(ROWS).splitlines()
    assert lines[0] == "hamming_topk, tiny, 64 bits, threads: 1 (distances)"
    assert lines[3].split() == ["faiss-heap", "80", "30", "30", "30", "15", "1.5"]
    assert lines[5].split()[:3] == ["broken", "80", "-"] and lines[5].endswith("left out: disagrees: by far")


def test_the_readme_of_this_checkout_shows_the_rows_of_this_checkout():
    readme, results = ROOT / "README.md", ROOT / "bench" / "results"
    files = {path.stem: load(path) for path in sorted(results.glob("*.json"))}
    text = readme.read_text(encoding="utf-8")
    assert with_section(text, files, results, readme) == text, "run: zsml bench report"
    for stem, rows in files.items():
        assert all(f"{rows_module.file_name(r)}" == f"{stem}.json" for r in rows)
        assert (results / f"{stem}.svg").is_file()
