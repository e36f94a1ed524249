"""Official downloads, loose or packed, to the layout the readers expect: whole files, resumable, nothing outside the root."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from downloads import picture, run, tree, tuberlin_files, write_loose, write_packed
from PIL import Image

from zsml.data import prepare
from zsml.data.prepare import resized
from zsml.errors import CorruptImage, InputError

# ---- what comes out ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["", "all.zip", "all.tar", "all.tar.gz", "all.tgz", "all.tar.bz2", "all.tar.xz", "ALL.ZIP"])
def test_every_kind_of_download_gives_the_same_tree(tmp_path, packed):
    files = tuberlin_files()
    lists = {
        "zeroshot/cname_cid.txt": b"ant 0\n",
        "zeroshot/notes.md": b"",
        "__MACOSX/png/ant/._0.png": b"x",
        "png/readme.txt": b"",
    }
    if packed:
        write_packed(tmp_path / "down" / packed.lower(), {f"./some/where/{name}": data for name, data in (files | lists).items()})
        (tmp_path / "down" / packed.lower()).rename(tmp_path / "down" / packed)
    else:
        write_loose(tmp_path / "down/some/where", files | lists)
    done = run(tmp_path / "down", tmp_path / "out")
    assert done.complete and (done.written, done.already, done.repeated) == (9, 0, 0)
    assert done.folders == {"png_ready": 4, "ImageResized_ready": 4, "zeroshot": 1}
    found = tree(tmp_path / "out")
    assert found.pop(".prepared.json") == b'{"size": 16}' and found.pop("zeroshot/cname_cid.txt") == b"ant 0\n"
    assert set(found) == {name.replace("/", "_ready/", 1) for name in files}
    for name, data in files.items():
        small = Image.open(io.BytesIO(found[name.replace("/", "_ready/", 1)]))
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
        worst = 0 if name.endswith("png") else 60  # JPEG loses a little of noise
        assert small.size == (16, 16) and abs(np.asarray(small).astype(int) - expected).max() <= worst


def test_an_archive_or_a_folder_may_be_what_its_name_says(tmp_path):
    """png.zip and the folder png, with the class folders right in them; several sources, of which the first has the say."""
    files = {name.removeprefix("png/"): data for name, data in tuberlin_files().items() if name.startswith("png")}
    write_packed(tmp_path / "down/png.zip", files)
    done = run(tmp_path / "down", tmp_path / "a")
    write_loose(tmp_path / "loose/png", files)
    assert done.folders == run(tmp_path / "loose/png", tmp_path / "b").folders == {"png_ready": 4}
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    write_packed(tmp_path / "down/more.tar", {f"png/{name}": picture(99) for name in files})
    done = run(tmp_path / "down", tmp_path / "c")  # more.tar comes before png.zip
    assert (done.written, done.repeated) == (4, 4) and done.complete
    assert len(set(tree(tmp_path / "c").values())) == 2  # one picture, and the mark


def test_the_other_data_sets_have_their_layouts(tmp_path):
    image = picture()
    sources = {
        "sketchy": ["256x256/photo/tx_000000000000/a/1.jpg", "256x256/sketch/tx_000000000000/a/1-1.png",
                    "256x256/sketch/tx_000100000000/a/1-1.png", "EXTEND_image_sketchy/a/ext_1.jpg"],
        "quickdraw": ["QuickDraw_sketches_final/palm tree/1.png", "QuickDraw_images_final/palm tree/1.jpg"],
        "folder": ["photo/a/1.jpg", "sketch/a/1.png"],
        "TUBerlin": ["png/a/1.png", "ImageResized/a/1.JPEG"],
        "annotations": ["data/mine/photos/a/1.jpg", "data/mine/sketches/a/1.png", "data/other/photos/a/2.jpg"],
    }  # fmt: skip
    expected = {
        "sketchy": ["256x256/photo/tx_000000000000_ready/a/1.jpg", "256x256/sketch/tx_000000000000_ready/a/1-1.png",
                    "EXTEND_image_sketchy_ready/a/ext_1.jpg"],
        "quickdraw": ["images/palm tree/1.jpg", "sketches/palm tree/1.png"],
        "folder": ["photo/a/1.jpg", "sketch/a/1.png"],
        "TUBerlin": ["photos/a/1.JPEG", "sketches/a/1.png"],
        "annotations": ["photos/a/1.jpg", "sketches/a/1.png"],
    }  # fmt: skip
    lists = {"sketchy": "zeroshot1/x.txt", "quickdraw": "zeroshot/x.txt", "annotations": "anno/mine_sketch.json"}
    for key, names in sources.items():
        extra = {lists[key]: b"[]", "anno/other_photo.json": b"[]"} if key in lists else {}
        write_loose(tmp_path / key / "down", {name: image for name in names} | extra)
        root = tmp_path / key / {"TUBerlin": "TUBerlin", "annotations": "mine"}.get(key, "out")
        run(tmp_path / key / "down", root, "annotations" if key == "TUBerlin" else key)
        assert sorted(set(tree(root)) - {".prepared.json"}) == sorted([*expected[key], *([lists[key]] if key in lists else [])])


def test_images_of_the_size_wanted_are_copied_unchanged(tmp_path):
    square, wide = picture(size=(16, 16), kind="JPEG"), picture(size=(20, 16))
    assert resized(square, 16, ".jpg") is square and resized(wide, 0, ".png") is wide
    assert Image.open(io.BytesIO(resized(wide, 16, ".png"))).size == (16, 16)
    with pytest.raises(CorruptImage):
        resized(wide[:100], 0, ".png")


def test_transparent_drawings_lie_on_white_paper():
    out = io.BytesIO()
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(out, "PNG")
    assert np.asarray(Image.open(io.BytesIO(resized(out.getvalue(), 16, ".png")))).min() == 255


# ---- runs that break off -----------------------------------------------------------------------------------------------------


def test_a_second_run_makes_only_what_is_missing(tmp_path):
    down = write_loose(tmp_path / "down", tuberlin_files())
    run(down, tmp_path / "out")
    before = tree(tmp_path / "out")
    kept = tmp_path / "out/png_ready/ant/0.png"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "out/png_ready/ant/1.png").unlink()
    (tmp_path / "out/ImageResized_ready/ant/0.JPEG").write_bytes(b"")  # as a power cut can leave it
    (tmp_path / "out/ImageResized_ready/ant/.1.JPEG.part").write_bytes(b"half")  # left by a killed run, and its file missing
    (tmp_path / "out/ImageResized_ready/ant/1.JPEG").unlink()
    done = run(down, tmp_path / "out")
    assert (done.written, done.already) == (3, 5) and tree(tmp_path / "out") == before and kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("stop", [KeyboardInterrupt, None])
def test_interrupted_or_out_of_disk_it_goes_on_where_it_stopped(tmp_path, monkeypatch, stop):
    down = write_packed(tmp_path / "down/all.tar.gz", tuberlin_files(per_class=20)).parent
    run(down, tmp_path / "whole")
    calls, write = [], Path.write_bytes

    def failing(path, data):
        calls.append(path)
        if len(calls) > 30:
            write(path, data[: len(data) // 2])  # half of it fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    def shown(outcomes):
        for number, outcome in enumerate(outcomes):
            if stop and number == 30:
                raise stop
            yield outcome

    if stop is None:
        monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(
        stop or InputError, match=None if stop else r"root='.*out' cannot be written: No space left.*goes on from"
    ):
        run(down, tmp_path / "out", progress=shown)
    monkeypatch.undo()
    part = tree(tmp_path / "out")
    whole = tree(tmp_path / "whole")
    assert 20 < len(part) < len(whole) and part.items() <= whole.items()  # nothing half written
    assert run(down, tmp_path / "out").already == len(part) - 1
    assert tree(tmp_path / "out") == whole


def test_a_root_has_one_size_and_one_process(tmp_path):
    down = write_loose(tmp_path / "down", tuberlin_files())
    run(down, tmp_path / "out")
    with pytest.raises(InputError, match=r"root='.*out' holds images of size 16, not 24"):
        run(down, tmp_path / "out", size=24)
    (tmp_path / "out/.prepared.json").write_text("[]")
    with pytest.raises(InputError, match=r".prepared.json' is damaged; delete it"):
        run(down, tmp_path / "out")
    (tmp_path / "out/.prepared.json").unlink()
    with (
        prepare._held(tmp_path / "out", 16),
        pytest.raises(InputError, match=r"root='.*out' is being filled by another process"),
    ):
        run(down, tmp_path / "out")
    assert json.loads((tmp_path / "out/.prepared.json").read_text()) == {"size": 16}


# ---- bad input ---------------------------------------------------------------------------------------------------------------


def test_corrupt_images_are_listed_and_left_out(tmp_path):
    files = tuberlin_files()
    files["png/ant/0.png"] = files["png/ant/0.png"][:60]
    files["ImageResized/ant/1.JPEG"] = b"<html>not found</html>"
    done = run(write_loose(tmp_path / "down", files), tmp_path / "out")
    assert not done.complete and done.written == 6
    assert sorted(entry["file"].partition("down: ")[2] for entry in done.corrupt) == ["ImageResized/ant/1.JPEG", "png/ant/0.png"]
    assert all(entry["reason"] for entry in done.corrupt) and not (tmp_path / "out/png_ready/ant/0.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tuberlinn"}, r"name 'tuberlinn' is not known; choose from .*did you mean 'tuberlin'"),
        ({"name": "synthetic"}, r"name 'synthetic' is not known"),
        ({"size": -1}, r"size=-1 must be 1 or more"),
        ({"workers": 0}, r"workers=0 must be 1 or more"),
        ({"downloads": "nowhere"}, r"nowhere' is not there"),
        ({"downloads": "down/notes.txt"}, r"notes.txt' is neither a folder nor an archive"),
        (
            {"downloads": "empty"},
            r"empty' holds no images of tuberlin: expected are folders of class folders called png, png_ready",
        ),
        ({"downloads": "seven"}, r"holds no images of tuberlin.*png.7z has to be unpacked first"),
        ({"root": "down/out"}, r"root='.*down/out' lies in the folder of the downloads"),
        ({"root": "file/x"}, r"root='.*file/x' cannot be written: Not a directory"),
    ],
)
def test_bad_values(tmp_path, options, message):
    write_loose(tmp_path, {"down/notes.txt": b"", "empty/a.txt": b"", "seven/png.7z": b"7z", "file": b""})
    write_loose(tmp_path / "down", tuberlin_files())
    paths = {key: tmp_path / options.get(key, default) for key, default in (("downloads", "down"), ("root", "out"))}
    with pytest.raises(InputError, match=message):
        run(**{**options, **paths})
    with pytest.raises(TypeError, match="size must be an int, got float"):
        run(tmp_path / "down", tmp_path / "out", size=1.5)
