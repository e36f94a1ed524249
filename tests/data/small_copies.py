"""Small copies of published data sets, with their lists, for tests."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from zsml.data.quickdraw import ZEROSHOT

CLASSES = ("beer-mug", "giraffe", "ant")  # not in alphabetical order, as published
SPELT = {"giraffe": "griaffe"}  # among the photos


def write_annotations(root: Path, folder: Path, *, images: bool = True, **changes: object) -> Path:
    """Two train and one test sketch of each class, three photos that are both; `changes` replace lists."""
    sketches = {name: [[f"sketches/{c}/{i}.png", k] for k, c in enumerate(CLASSES) for i in numbers]
                for name, numbers in (("train", (0, 1)), ("test", (2,)))}  # fmt: skip
    photos = [[f"photos/{SPELT.get(c, c)}/{i}.jpg", k] for k, c in enumerate(CLASSES) for i in range(3)]
    folder.mkdir(parents=True, exist_ok=True)
    for kind, lists in (("sketch", sketches), ("photo", {"train": photos, "test": photos})):
        changed = {part: changes.get(f"{kind}_{part}", rows) for part, rows in lists.items()}
        (folder / f"{root.name}_{kind}.json").write_text(json.dumps(changed))
    for path, label in [*sketches["train"], *sketches["test"], *photos] if images else ():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (80 * label, 0, 0)).save(root / path)
    root.mkdir(parents=True, exist_ok=True)
    return root


FOLDERS = {"sketch": "sketches", "photo": "images"}


def write_quickdraw(root: Path, *, middle: str = "_filelist", seen: int = 3, unseen: int = 2, images: bool = True) -> Path:
    """Classes c0.. seen and u0.. unseen, class k with k + 1 images of each modality; labels of the lists count them."""
    (root / "zeroshot").mkdir(parents=True)
    for suffix, number, prefix in (("train", seen, "c"), ("zero", unseen, "palm tree ")):
        names = [f"{prefix}{k}" for k in range(number)]
        text = "".join(f"{name} {k}\n" for k, name in enumerate(names))
        (root / "zeroshot" / f"cname_cid{'_zero' if suffix == 'zero' else ''}.txt").write_text(text)
        for modality, stem in ZEROSHOT.stems.items():
            paths = [(f"{FOLDERS[modality]}/{name}/{i}.png", k) for k, name in enumerate(names) for i in range(k + 1)]
            (root / "zeroshot" / f"{stem}{middle}_{suffix}.txt").write_text("".join(f"{path} {k}\n" for path, k in paths))
            for path, _ in paths if images else ():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), "white").save(root / path)
    return root
