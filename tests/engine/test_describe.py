from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import tiny_config

from zsml.data import sketchy
from zsml.data.lists import PublishedSplit
from zsml.engine.config import TrainConfig
from zsml.engine.describe import THUMBNAIL, describe
from zsml.engine.embed import open_run
from zsml.engine.evaluate import evaluate
from zsml.engine.tables import number, split_table, table
from zsml.engine.train import train
from zsml.errors import InputError
from zsml.systems import SYSTEMS


def test_a_folder_is_counted_class_by_class(tiny_folder):
    found = describe(TrainConfig(data="folder", root=tiny_folder, unseen=("elk", "fox")))
    assert [row["class"] for row in found["classes"]] == ["ant", "bee", "cow", "dog", "elk", "fox"]
    for row in found["classes"][:4]:
        assert row["split"] == "seen"
        assert row["sketches"] + row["held_out_sketches"] == row["photos"] + row["held_out_photos"] == 14
    assert [(row["split"], row["sketches"], row["photos"]) for row in found["classes"][4:]] == [("unseen", 14, 14)] * 2
    assert split_table(found).splitlines()[-1].split()[:4] == ["6", "classes", "2", "unseen"]


def test_the_sheet_shows_unseen_classes_first_sketches_left(tiny_folder, tmp_path):
    describe(TrainConfig(data="folder", root=tiny_folder, unseen=("elk", "fox")), tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    assert sheet.shape == (6 * THUMBNAIL, 150 + 12 * THUMBNAIL, 3)
    colour = sheet.max(axis=2) - sheet.min(axis=2)
    assert colour[:, 150 : 150 + 6 * THUMBNAIL].max() == 0  # the sketches here are grey, the photos are not
    for row in range(6):
        for column in range(6):
            top, left = row * THUMBNAIL, 150 + (6 + column) * THUMBNAIL
            assert colour[top : top + THUMBNAIL, left : left + THUMBNAIL].max() > 50
    elk = np.asarray(Image.open(tiny_folder / "photo" / "elk" / "00.png").convert("RGB")).astype(int)
    assert abs(sheet[8, 150 + 6 * THUMBNAIL + 8] - elk[2, 2]).max() < 20


def test_a_sheet_that_cannot_be_written_is_named(tiny_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--sheet '.*sheet.png' cannot be written: "):
        describe(TrainConfig(data="folder", root=tiny_folder), tmp_path / "file" / "sheet.png")


@pytest.fixture
def small_sketchy(monkeypatch, tiny_folder, tmp_path) -> Path:
    """A tree and lists like those of the published split, three classes seen and two unseen."""
    seen, unseen = ("ant", "bee", "cow"), ("elk", "fox")
    split = PublishedSplit(name="sketchy", folder="zeroshot1", seen=3, unseen=2, stems=sketchy.STEMS, rows={})
    monkeypatch.setattr(sketchy, "ZEROSHOT1", split)
    lists = tmp_path / "zeroshot1"
    lists.mkdir()
    for kind in ("photo", "sketch"):
        (tmp_path / kind).symlink_to(tiny_folder / kind)
    for names, suffix in ((seen, ""), (unseen, "_zero")):
        (lists / f"cname_cid{suffix}.txt").write_text("".join(f"{name} {label}\n" for label, name in enumerate(names)))
    numbers = {"train": range(10), "test": range(10, 14), "zero": range(14)}
    for kind, stem in sketchy.STEMS.items():
        for part, chosen in numbers.items():
            names = unseen if part == "zero" else seen
            lines = [f"{kind}/{name}/{n:02d}.png {label}\n" for label, name in enumerate(names) for n in chosen]
            (lists / f"{stem}_filelist_{part}.txt").write_text("".join(lines))
    return tmp_path


def test_published_lists_have_no_held_out_photos(small_sketchy):
    found = describe(TrainConfig(data="sketchy", root=small_sketchy))
    assert [list(row.values()) for row in found["classes"]] == [
        ["ant", "seen", 10, 10, 4, 0],
        ["bee", "seen", 10, 10, 4, 0],
        ["cow", "seen", 10, 10, 4, 0],
        ["elk", "unseen", 14, 14, 0, 0],
        ["fox", "unseen", 14, 14, 0, 0],
    ]


@pytest.mark.parametrize("lists", [None, "zeroshot1"])
def test_published_lists_are_trained_on_and_evaluated(small_sketchy, lists):
    lists = lists and small_sketchy / lists
    out = small_sketchy / "run"
    config = tiny_config(small_sketchy, out, data="sketchy", lists=lists, unseen=(), epochs=1, batches_per_epoch=2)
    train(config, SYSTEMS["mathm"])
    run = open_run(out, torch.device("cpu"))
    results = evaluate(run.model, run.config, device=torch.device("cpu"), preset="mathm").results
    assert (results["sketch->photo"].num_queries, results["sketch->photo"].gallery_size) == (28, 28)


def test_a_table_is_aligned():
    assert table(["", "n"], [["a", 1], ["bcd", 22]]).splitlines() == ["      n", "a     1", "bcd  22"]
    assert [number(value) for value in (None, 0.5, 0.12345)] == ["-", "0.5000", "0.1235"]
