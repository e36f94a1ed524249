"""Downloads of a data set as archives and folders, for tests."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from zsml.data.prepare import Prepared, prepare_dataset


def picture(number=0, size=(40, 30), kind="PNG") -> bytes:
    out = io.BytesIO()
    pixels = np.random.RandomState(number).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def tuberlin_files(classes=("ant", "hot air balloon"), per_class=2) -> dict[str, bytes]:
    """Names as in the official archives -> bytes."""
    names = [("png", "png", "PNG"), ("ImageResized", "JPEG", "JPEG")]
    return {
        f"{folder}/{name}/{i}.{ending}": picture(i + 10 * k, kind=kind)
        for folder, ending, kind in names for k, name in enumerate(classes) for i in range(per_class)
    }  # fmt: skip


def write_loose(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_packed(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:" + {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def run(downloads: Path, root: Path, name="tuberlin", **options) -> Prepared:
    return prepare_dataset(name, downloads, root, **{"size": 16, "workers": 2, **options})
