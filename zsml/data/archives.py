"""The files of a download, loose in folders or packed in .zip and .tar archives: read one after the other, never unpacked."""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from zsml.errors import InputError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
UNREADABLE = (".7z", ".rar")  # no reader in the standard library
LARGEST = 256 * 2**20  # bytes of one file; no image of these data sets comes near
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, NotImplementedError)


class BadArchive(InputError):
    """An archive that is damaged or not to be trusted; what was read of it before is sound."""


class BadEntry(InputError):
    """A file that cannot be read, while others of the same source can."""


@dataclass(frozen=True)
class Entry:
    """A file of a download.

    ``read()`` gives its bytes, as long as the next entry was not asked for; it raises BadEntry or BadArchive.
    """

    source: Path  # the folder or the archive
    parts: tuple[str, ...]  # name of the source without its ending, folders, file name
    link: bool  # symbolic and hard links, which are not followed
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """Where it is, for people; safe to print."""
        return f"{self.source}: {'/'.join(self.parts[1:])}".encode("utf-8", "backslashreplace").decode()


def find_sources(downloads: Path) -> tuple[list[Path], list[Path]]:
    """What to read (an archive, or a folder and the archives in it by name), and the archives that nothing here can read."""
    if downloads.is_file():
        found = [downloads]
    elif downloads.is_dir():
        found = sorted(path for path in downloads.rglob("*") if path.is_file() and not path.is_symlink())
    else:
        raise InputError(f"--from {str(downloads)!r} is not there; name the folder of the downloads, or one archive")
    archives = [path for path in found if archive_stem(path) is not None]
    unreadable = [path for path in found if path.suffix.lower() in UNREADABLE]
    if downloads.is_file() and not archives and not unreadable:
        raise InputError(f"--from {str(downloads)!r} is neither a folder nor an archive ({', '.join(ARCHIVES)})")
    return ([downloads] if downloads.is_dir() else []) + archives, unreadable


def archive_stem(path: Path) -> str | None:
    """The name of an archive without its ending; None if it is no archive.

    >>> archive_stem(Path("a/png.tar.gz")), archive_stem(Path("a.txt"))
    ('png', None)
    """
    endings = [ending for ending in ARCHIVES if path.name.lower().endswith(ending)]
    return path.name[: -len(max(endings, key=len))] if endings else None


def entries(source: Path) -> Iterator[Entry]:
    """The files of a folder (without the archives in it) or of an archive.

    Raises:
        BadArchive: a name that leads out of the archive's folder, an encrypted, truncated or damaged archive.
    """
    read = _folder if source.is_dir() else _zip if source.name.lower().endswith(".zip") else _tar
    try:
        yield from read(source)
    except InputError:
        raise
    except DAMAGE as error:
        raise _damaged(source, error) from error


def _damaged(source: Path, error: Exception) -> BadArchive:
    reason = str(error) or type(error).__name__
    return BadArchive(f"{str(source)!r} cannot be read to its end ({reason}): damaged or not complete; what was read of it stays")


def safe_parts(source: Path, name: str) -> tuple[str, ...]:
    """A name inside an archive as folders and file name, if it stays inside.

    >>> safe_parts(Path("a.zip"), "./png/ant/1.png")
    ('png', 'ant', '1.png')
    """
    plain = name.replace("\\", "/")  # as archives made on Windows may have it
    parts = tuple(part for part in plain.split("/") if part not in ("", "."))
    if plain.startswith("/") or ".." in parts or "\0" in plain or (parts and parts[0][1:2] == ":"):
        raise BadArchive(f"{str(source)!r} is refused: it holds the name {name!r}, which leads out of its folder")
    return parts


def _folder(source: Path) -> Iterator[Entry]:
    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(source, onerror=fail):
        folders.sort()
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]  # os.walk does not enter them
        for path in (here / name for name in sorted([*names, *links])):
            if path.is_symlink() or (path.is_file() and archive_stem(path) is None):
                parts = (source.resolve().name, *path.relative_to(source).parts)
                yield Entry(source, parts, path.is_symlink(), partial(_read, path.open, "rb"))


def _zip(source: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(source) as archive:
        members = [(info, safe_parts(source, info.filename)) for info in archive.infolist()]  # all, before the first is read
        if any(info.flag_bits & 1 for info, _ in members):
            raise BadArchive(f"{str(source)!r} is encrypted; unpack it, and name the folder")
        for info, parts in members:
            if parts and not info.is_dir():
                link = stat.S_ISLNK(info.external_attr >> 16)
                yield Entry(source, (archive_stem(source) or "", *parts), link, partial(_read, archive.open, info))


def _tar(source: Path) -> Iterator[Entry]:
    with tarfile.open(source) as archive:
        while (member := archive.next()) is not None:
            parts = safe_parts(source, member.name)
            link = member.issym() or member.islnk()
            if parts and (member.isfile() or link):
                yield Entry(source, (archive_stem(source) or "", *parts), link, partial(_read_member, archive, member))
            archive.members = []  # it would keep all of them
        archive.fileobj.seek(archive.offset)  # where it stopped: a whole archive has a block of zeros there
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends early")
        while archive.fileobj.read(2**20):  # to the end, where a compressed archive has its checksum
            pass


def _read(opener: Callable[..., IO[bytes]], *arguments: Any) -> bytes:
    """All of a file that stands by itself."""
    try:
        with opener(*arguments) as file:
            return _bounded(file.read(LARGEST + 1))
    except DAMAGE as error:
        raise BadEntry(str(error) or type(error).__name__) from error


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """All of a file in a stream: if it ends early, so does the stream."""
    source = Path(os.fsdecode(archive.name))
    try:
        data = archive.extractfile(member).read(LARGEST + 1)
    except DAMAGE as error:
        raise _damaged(source, error) from error
    if len(data) < min(member.size, LARGEST):
        raise _damaged(source, tarfile.ReadError("unexpected end of data"))
    return _bounded(data)


def _bounded(data: bytes) -> bytes:
    if len(data) > LARGEST:
        raise BadEntry(f"larger than {LARGEST // 2**20} MiB")
    return data
