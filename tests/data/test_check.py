"""`zsml data check` and `prepare`: exactly what a copy lacks, in words, as JSON and as exit status."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from downloads import picture, tuberlin_files, write_loose, write_packed
from small_copies import CLASSES, write_annotations, write_quickdraw
from tiny_data import write_tiny_folder

from zsml.cli import main
from zsml.data import check as check_module
from zsml.data.check import check_dataset
from zsml.data.lists import PublishedSplit
from zsml.errors import InputError

SPLIT = PublishedSplit(
    name="quickdraw", folder="zeroshot", seen=3, unseen=2, stems={"sketch": "sketch", "photo": "all_photo"}, val=False,
    rows={("sketch", "train"): 6, ("photo", "train"): 6, ("sketch", "test"): 3, ("photo", "test"): 3},
)  # fmt: skip


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A whole copy of a small QuickDraw: classes c0, c1, c2 of 1, 2, 3 images, unseen palm tree 0, 1."""
    monkeypatch.setitem(check_module.BY_LISTS, "quickdraw", SPLIT)
    return write_quickdraw(tmp_path / "copy")


def rows(result) -> dict[tuple[str, str], dict]:
    return {(row["modality"], row["part"]): row for row in result["lists"]}


# ---- the published lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder", "absent", "known"),
    [("sketchy", "Sketchy/zeroshot1", [], 5), ("sketchy2", "Sketchy/zeroshot2", ["000_ready_filelist_train.txt' is not in"], 4),
     ("tuberlin", "TUBerlin/zeroshot", ["ImageResized_ready_filelist_train.txt' is not in"], 4)],
)  # fmt: skip
def test_the_published_lists_are_recognised(shared_data, tmp_path, name, folder, absent, known):
    """Golden: their SHA-256, rows and classes; every image is missing here, and so are two of the lists."""
    found = check_dataset(name, tmp_path, shared_data / "splits" / folder)
    assert [row["content"] for row in found["lists"]] == ["as published"] * known and not found["ok"]
    for row in found["lists"]:
        assert row["rows"] in row["expected_rows"] and row["classes"] == row["expected_classes"]
        assert len(row["missing"]) == row["rows"] == sum(count for count, _ in row["missing_by_class"].values())
    lists = [problem for problem in found["problems"] if "is not in" in problem]
    assert all("images are missing" in problem or "has no folder" in problem for problem in set(found["problems"]) - set(lists))
    assert len(lists) == len(absent) and all(name in problem for name, problem in zip(absent, lists, strict=True))
    broken = {key: row["labels_not_used"] for key, row in rows(found).items() if row["labels_not_used"]}
    assert broken == ({("photo", "train"): 72_949} if name == "sketchy2" else {})  # all 104 classes disagree, as is known


def test_reordered_and_changed_lists_are_told_apart(shared_data, tmp_path):
    source = shared_data / "splits/TUBerlin/zeroshot"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    zero = tmp_path / "png_ready_filelist_zero.txt"
    text = zero.read_text()

    def content(changed: str) -> str:
        zero.write_bytes(changed.encode())
        found = check_dataset("tuberlin", tmp_path, tmp_path)
        differs = [problem for problem in found["problems"] if "names other images than the published list" in problem]
        row = rows(found)["sketch", "test"]
        assert bool(differs) == (row["content"] == "other images")
        return row["content"]

    assert content(text.replace("\n", "\r\n")) == "as published"
    assert content("\n".join(reversed(text.splitlines()))) == "same images"
    assert content(re.sub(r"\d+$", "0", text, flags=re.MULTILINE)) == "same images"
    assert content(text.replace("/1", "/x", 1)) == "other images"


# ---- what is missing ---------------------------------------------------------------------------------------------------------


def test_a_whole_copy(copy):
    found = check_dataset("quickdraw", copy, decode_images=True)
    assert found["ok"] and found["problems"] == [] and len(found["lists"]) == 4
    assert [row["rows"] for row in found["lists"]] == [6, 3, 6, 3]
    assert not any(row["missing"] or row["corrupt"] or row["labels_not_used"] for row in found["lists"])


def test_missing_and_corrupt_images_are_named_class_by_class(copy):
    for name in ("c2/0.png", "c2/1.png", "c1/1.png"):
        (copy / "images" / name).unlink()
    (copy / "sketches/palm tree 1/1.png").write_bytes(b"")
    found = check_dataset("quickdraw", copy, decode_images=True)
    row = rows(found)["photo", "train"]
    assert row["missing"] == ["images/c1/1.png", "images/c2/0.png", "images/c2/1.png"]
    assert row["missing_by_class"] == {"c1": [1, 2], "c2": [2, 3]}
    assert found["problems"] == [
        "train photos: 3 of the 6 images are missing, of 2 of the 3 classes: c1 1 of 2, c2 2 of 3",
        "test sketches: 1 images cannot be decoded: 'sketches/palm tree 1/1.png'",
    ]
    assert [entry["path"] for entry in rows(found)["sketch", "test"]["corrupt"]] == ["sketches/palm tree 1/1.png"]
    assert len(check_dataset("quickdraw", copy)["problems"]) == 1  # undecodable ones are only found by decoding
    (copy / "images").rename(copy / "photos")
    assert f"root={str(copy)!r} has no folder 'images'" in check_dataset("quickdraw", copy)["problems"]


def test_wrong_lists(copy):
    lists = copy / "zeroshot"
    train = lists / "sketch_filelist_train.txt"
    train.write_text(train.read_text().replace("c0/0.png 0\n", "c1/0.png 1\n"))
    (lists / "all_photo_filelist_train.txt").write_text("nonsense\n")
    (lists / "cname_cid_zero.txt").write_text("c1 0\npalm tree 0 1\npalm tree 1 2\n")
    found = check_dataset("quickdraw", copy)
    shown = "\n".join(found["problems"])
    assert set(rows(found)) == {("sketch", "train"), ("sketch", "test"), ("photo", "test")} and not found["ok"]
    for part in (
        r"sketch_filelist_train.txt' has no image of 1 of its classes \(c0\)",
        r"sketch_filelist_train.txt': 1 images are listed twice",
        r"all_photo_filelist_train.txt' line 1: expected a name and then a label",
        r"sketch_filelist_zero.txt': expected 2 classes, found 3",
        r"c1: classes that are seen and unseen at once",
    ):
        assert re.search(part, shown), part
    assert rows(found)["sketch", "test"]["labels_not_used"] == 3


def test_images_in_two_lists(copy):
    lists = copy / "zeroshot"
    (lists / "cname_cid_zero.txt").write_text("c1 0\nc2 1\n")
    (lists / "sketch_filelist_zero.txt").write_text("sketches/c1/0.png 0\nsketches/c2/0.png 1\nsketches/c2/1.png 1\n")
    assert any(
        "3 images are listed as train sketches and as test sketches, among them 'sketches/c1/0.png'" in problem
        for problem in check_dataset("quickdraw", copy)["problems"]
    )


def test_versions_of_a_split_are_not_mixed(copy, monkeypatch):
    split = PublishedSplit(**{**vars(SPLIT), "rows": {("sketch", "train"): (6, 5), ("sketch", "test"): (4, 3)}})
    monkeypatch.setitem(check_module.BY_LISTS, "quickdraw", split)
    assert (
        "the lists of sketch train and sketch test are of different versions" in check_dataset("quickdraw", copy)["problems"][0]
    )


def test_no_lists_at_all(copy):
    for file in (copy / "zeroshot").iterdir():
        file.unlink()
    assert len(check_dataset("quickdraw", copy)["problems"]) == 2  # the two files of class names, once each
    (copy / "zeroshot").rmdir()
    found = check_dataset("quickdraw", copy)
    assert not found["lists"] and re.match(r"lists: no folder '.*zeroshot'", found["problems"][0])


def test_annotations_and_folders(tmp_path):
    root = write_annotations(tmp_path / "TUBerlin", tmp_path / "TUBerlin")
    (root / "photos/ant/1.jpg").unlink()
    found = check_dataset("annotations", root)
    assert [row["rows"] for row in found["lists"]] == [6, 3, 9, 9]
    assert [row["expected_rows"] for row in found["lists"]] == [[17_500], [2_500], [], []]
    assert [problem.partition(": ")[2].split(",")[0] for problem in found["problems"]] == [
        "expected 250 classes", "expected 17", "expected 2", "1 of the 9 images are missing", "1 of the 9 images are missing",
    ]  # fmt: skip
    write_annotations(root, root, sketch_test=[[f"sketches/{c}/1.png", k] for k, c in enumerate(CLASSES)])
    shown = "\n".join(check_dataset("annotations", root)["problems"])
    assert "3 images are listed as train sketches and as test sketches" in shown and "photos and as" not in shown
    folder = write_tiny_folder(tmp_path / "folder")
    assert check_dataset("folder", folder, decode_images=True)["ok"]
    (folder / "photo/new").mkdir()
    assert "classes with one modality only: 'new' (no sketch folder)" in check_dataset("folder", folder)["problems"][0]


# ---- the commands ------------------------------------------------------------------------------------------------------------


def test_check_says_it_in_words_as_json_and_as_exit_status(copy, capsys):
    command = ["data", "check", "quickdraw", "--root", str(copy)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "quickdraw: complete" and re.search(r"train photo +6 +6 +3 +3 +not known +0 +-", shown)
    (copy / "images/c2/0.png").write_bytes(b"")
    assert main([*command, "--decode", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["ok"] and rows(result)["photo", "train"]["corrupt"][0]["path"] == "images/c2/0.png"
    (copy / "images/c2/0.png").unlink()
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "quickdraw: 1 problem\n- train photos: 1 of the 6 images are missing, of 1 of the 3 classes: c2 1 of 3" in shown


def test_prepare_then_check(tmp_path, capsys):
    files = {f"{kind}/{name}/{i}.png": picture(i) for kind in ("photo", "sketch") for name in "ab" for i in range(3)}
    write_packed(tmp_path / "down/all.tar.gz", {**files, "photo/a/bad.png": b""})
    command = ["data", "prepare", "folder", "--from", str(tmp_path / "down"), "--root", str(tmp_path / "out"), "--size", "16"]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "12 files written, 0 were there" in shown and "all.tar.gz: photo/a/bad.png (" in shown
    assert shown.splitlines()[-1] == f"now: zsml data check folder --root {tmp_path / 'out'}"
    write_packed(tmp_path / "down/all.tar.gz", files)
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["complete"] and (result["already"], result["folders"]) == (12, {"photo": 6, "sketch": 6})
    assert main(["data", "check", "folder", "--root", str(tmp_path / "out"), "--decode"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "skechy", "--root", "."], "name 'skechy' is not known; choose from .*did you mean 'sketchy'"),
        (["check", "synthetic", "--root", "."], "its images are generated, so there is nothing to check"),
        (["check", "sketchy", "--root", "nowhere"], "root='nowhere' is not there"),
        (["check", "sketchy", "--root", ".", "--lists", "nowhere"], "lists='nowhere' is not there"),
        (["prepare", "skechy", "--from", ".", "--root", "x"], "name 'skechy' is not known; .*did you mean 'sketchy'"),
        (["prepare", "sketchy", "--from", "nowhere", "--root", "x"], "nowhere' is not there"),
    ],
)
def test_bad_arguments_end_with_status_2(arguments, message, capsys):
    assert main(["data", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.fixture
def interrupts():
    """Ctrl-C interrupts, also in a process started in the background, which shells let ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupted_prepare_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stopped(files, **_):
        for number, file in enumerate(files):
            if number == 10:
                os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
            yield file

    monkeypatch.setattr("zsml.engine.log.progress", stopped)
    write_loose(tmp_path / "down", tuberlin_files(per_class=20))
    command = ["data", "prepare", "tuberlin", "--from", str(tmp_path / "down"), "--root", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 130
    assert "interrupted; what is in " in (said := capsys.readouterr().err) and "the same command goes on from there" in said
    assert 10 <= len(list((tmp_path / "out").rglob("*.*G"))) + len(list((tmp_path / "out").rglob("*.png"))) < 80
    assert not list((tmp_path / "out").rglob("*.part"))


def test_an_unknown_set_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="name 'x' is not known"):
        check_dataset("x", tmp_path)
