"""Hostile and damaged archives: nothing leaves the root, links are not followed, and the sound part is used."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from downloads import picture, run, tree, tuberlin_files, write_loose, write_packed

from zsml.data.archives import BadArchive, archive_stem, entries, safe_parts
from zsml.errors import InputError

OUTSIDE = ("../png/ant/1.png", "png/ant/../../../1.png", "/png/ant/1.png", "//png/ant/1.png", "png/ant/..", "..\\png\\ant\\1.png",
           "\\png\\ant\\1.png", "C:/png/ant/1.png", "C:\\png\\ant\\1.png", "./../png/ant/1.png")  # fmt: skip


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ---- names that lead out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["evil.zip", "evil.tar.gz"])
def test_an_archive_with_a_name_that_leads_out_is_refused(tmp_path, name, kind):
    files = {**{f"png/ant/{i}.png": picture(i) for i in range(3)}, name: picture(9)}
    write_packed(tmp_path / "in/down" / kind, files)
    write_loose(tmp_path / "in/down", {"png/bee/1.png": picture()})
    before = everything(tmp_path)
    done = run(tmp_path / "in/down", tmp_path / "out/root")
    assert not done.complete and len(done.damaged) == 1
    assert f"{kind}' is refused: it holds the name {name!r}, which leads out of its folder" in done.damaged[0]
    new = everything(tmp_path) - before
    assert all(path == "out" or path.startswith("out/root") for path in new)
    placed = set(tree(tmp_path / "out/root")) - {".prepared.json"}
    assert placed == {"png_ready/bee/1.png"} | (set() if kind.endswith("zip") else {f"png_ready/ant/{i}.png" for i in range(3)})


def test_plain_names_stay(tmp_path):
    source = Path("a.zip")
    assert safe_parts(source, "png//ant/./1.png") == ("png", "ant", "1.png")
    assert safe_parts(source, "png\\hot air balloon\\1..png") == ("png", "hot air balloon", "1..png")
    assert safe_parts(source, "./") == ()
    with pytest.raises(BadArchive, match="leads out"):
        safe_parts(source, "png/\0/1.png")


# ---- links -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_not_followed(tmp_path, kind):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(77))
    path = tmp_path / "down/x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for name, target in (("png/ant/1.png", str(secret)), ("png/bee", str(tmp_path))):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        member = tarfile.TarInfo("png/bee/2.png")  # through the link just made, for a reader that unpacks
        member.size = len(picture(2))
        archive.addfile(member, io.BytesIO(picture(2)))
        fifo = tarfile.TarInfo("png/ant/3.png")
        fifo.type = tarfile.FIFOTYPE
        archive.addfile(fifo)
    done = run(tmp_path / "down", tmp_path / "out")
    assert [link.partition("x.tar: ")[2] for link in done.links] == ["png/ant/1.png", "png/bee"] and not done.complete
    assert set(tree(tmp_path / "out")) == {".prepared.json", "png_ready/bee/2.png"}
    assert not (tmp_path / "2.png").exists()


def test_links_in_a_zip_are_not_followed(tmp_path):
    path = tmp_path / "down/x.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("png/ant/1.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret.png"))
        archive.writestr("png/ant/2.png", picture(2))
    done = run(tmp_path / "down", tmp_path / "out")
    assert len(done.links) == 1 and set(tree(tmp_path / "out")) == {".prepared.json", "png_ready/ant/2.png"}


def test_links_in_a_folder_are_not_followed(tmp_path):
    write_loose(tmp_path / "elsewhere", tuberlin_files())
    write_loose(tmp_path / "down", {"png/ant/2.png": picture(2)})
    (tmp_path / "down/png/ant/1.png").symlink_to(tmp_path / "elsewhere/png/ant/1.png")
    (tmp_path / "down/ImageResized").symlink_to(tmp_path / "elsewhere/ImageResized")
    (tmp_path / "down/png/loop").symlink_to(tmp_path / "down")
    done = run(tmp_path / "down", tmp_path / "out")
    assert [link.partition("down: ")[2] for link in done.links] == ["ImageResized", "png/loop", "png/ant/1.png"]
    assert set(tree(tmp_path / "out")) == {".prepared.json", "png_ready/ant/2.png"}
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")  # the folder named by the user may be one
    assert run(tmp_path / "link", tmp_path / "out").complete
    (tmp_path / "down/png/ant/2.png").unlink()
    with pytest.raises(InputError, match=r"holds no images of tuberlin: .*ImageResized is a link, and not followed"):
        run(tmp_path / "down", tmp_path / "out2")


# ---- damage ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_truncated_archives_are_named_and_their_sound_part_is_used(tmp_path, kind):
    files = tuberlin_files(per_class=4)
    path = write_packed(tmp_path / "down" / kind, files)
    write_loose(tmp_path / "down", {"png/cow/1.png": picture()})
    whole = run(tmp_path / "down", tmp_path / "whole", size=0)
    assert whole.complete and whole.written == 17
    data, most = path.read_bytes(), 0
    # of a plain tar, whatever ends after the first block of zeros is whole
    end = len(data) if kind != "x.tar" else max(i for i, byte in enumerate(data) if byte) + 1
    for number, length in enumerate([0, 1, 100, end // 4, end // 2, 3 * end // 4, end - 700, end - 1]):
        path.write_bytes(data[:length])
        done = run(tmp_path / "down", tmp_path / str(number), size=0)
        assert len(done.damaged) == 1 and f"{kind}' cannot be read to its end" in done.damaged[0], length
        part = tree(tmp_path / str(number))
        assert part.items() <= tree(tmp_path / "whole").items() and "png_ready/cow/1.png" in part and not done.corrupt
        most = max(most, len(part))
    assert most > 5 or kind in (
        "x.zip",
        "x.tar.bz2",
        "x.tar.xz",
    )  # a zip has its names at the end, bz2 and xz come in large blocks
    path.write_bytes(data)
    assert run(tmp_path / "down", tmp_path / "2", size=0).complete and tree(tmp_path / "2") == tree(tmp_path / "whole")


def test_a_tar_cut_between_two_files_is_noticed(tmp_path):
    path = write_packed(tmp_path / "down/x.tar", tuberlin_files())
    with tarfile.open(path) as archive:
        third = archive.getmembers()[3].offset
    path.write_bytes(path.read_bytes()[:third])
    done = run(tmp_path / "down", tmp_path / "out")
    assert done.written == 3 and "cannot be read to its end (it ends early)" in done.damaged[0]


def test_a_damaged_file_in_a_zip_costs_no_other(tmp_path):
    path = write_packed(tmp_path / "down/x.zip", tuberlin_files())
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[1]
    data = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    data[start + 100 : start + 200] = bytes(100)
    path.write_bytes(data)
    done = run(tmp_path / "down", tmp_path / "out")
    assert done.written == 7 and not done.damaged
    assert len(done.corrupt) == 1 and done.corrupt[0]["file"].endswith(f"x.zip: {info.filename}") and done.corrupt[0]["reason"]


def test_encrypted_zips_and_other_files_under_the_name_of_an_archive(tmp_path):
    path = write_packed(tmp_path / "down/x.zip", tuberlin_files())
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02") + 8  # the flags in the first entry of the directory
    path.write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    write_loose(tmp_path / "down", {"fake.tar.gz": b"<html>404</html>", "fake.zip": b"", "png/a/1.png": picture()})
    (tmp_path / "down/folder.zip").mkdir()
    done = run(tmp_path / "down", tmp_path / "out")
    assert done.written == 1 and [Path(problem.split("'")[1]).name for problem in done.damaged] == [
        "fake.tar.gz",
        "fake.zip",
        "x.zip",
    ]
    assert "is encrypted; unpack it" in done.damaged[2]


def test_no_file_is_read_beyond_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("zsml.data.archives.LARGEST", 5000)
    huge = b"\0" * 10_000_000  # ten kilobytes in the archive
    for kind in ("x.zip", "x.tar.gz", "loose"):
        files = {"png/ant/1.png": huge, "png/ant/2.png": picture(2, (8, 8))}
        if kind == "loose":
            write_loose(tmp_path / kind, files)
        else:
            write_packed(tmp_path / kind / kind, files)
        done = run(tmp_path / kind, tmp_path / f"out {kind}")
        assert done.written == 1 and [entry["reason"] for entry in done.corrupt] == ["larger than 0 MiB"]


def test_names_that_are_no_text_can_be_printed(tmp_path):
    path = write_packed(tmp_path / "down/x.tar", {"png/ant/\udcff.png": b"no image", "png/ant/1.png": picture()})
    done = run(tmp_path / "down", tmp_path / "out")
    assert done.written == 1 and done.corrupt[0]["file"].encode() and "udcff" in done.corrupt[0]["file"]
    assert [entry.parts[-1] for entry in entries(path)] == ["\udcff.png", "1.png"]


def test_endings_of_archives():
    assert [archive_stem(Path(name)) for name in ("a.b.tar.XZ", "a.tgz", "a.zip.part", "zip")] == ["a.b", "a", None, None]
