"""Where the files of the official downloads go: the folders that the readers of each data set expect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zsml.data.decode import EXTENSIONS


@dataclass(frozen=True)
class Layout:
    """Where the files of the downloads go.

    images: last folders before <class>/<file> in a download -> folder of the class folders under the root.
    lists: folders whose list files are copied, under the same name.
    """

    images: dict[tuple[str, ...], str]
    lists: tuple[str, ...] = ()
    list_files: tuple[str, str] = ("", ".txt")  # how their names begin and end

    def place(self, parts: tuple[str, ...]) -> str | None:
        """Where under the root a file goes; None: it is none of the data set's.

        >>> Layout({("png",): "png_ready"}, ("zeroshot",)).place(("downloads", "png", "ant", "1.png"))
        'png_ready/ant/1.png'
        """
        *folders, name = parts
        if name.startswith(".") or "__MACOSX" in folders or not folders:
            return None
        first, last = self.list_files
        if folders[-1] in self.lists and name.startswith(first) and name.endswith(last):
            return f"{folders[-1]}/{name}"
        if Path(name).suffix.lower() not in EXTENSIONS:
            return None
        for ending, target in self.images.items():
            if tuple(folders[-1 - len(ending) : -1]) == ending and folders[-1] != ending[-1]:
                return f"{target}/{folders[-1]}/{name}"
        return None


SKETCHY = Layout(
    {
        ("photo", "tx_000000000000"): "256x256/photo/tx_000000000000_ready",
        ("photo", "tx_000000000000_ready"): "256x256/photo/tx_000000000000_ready",
        ("sketch", "tx_000000000000"): "256x256/sketch/tx_000000000000_ready",
        ("sketch", "tx_000000000000_ready"): "256x256/sketch/tx_000000000000_ready",
        ("EXTEND_image_sketchy",): "EXTEND_image_sketchy_ready",
        ("EXTEND_image_sketchy_ready",): "EXTEND_image_sketchy_ready",
    },
    ("zeroshot1", "zeroshot2", "zeroshot0"),
)
TUBERLIN = Layout(
    {
        ("png",): "png_ready",
        ("png_ready",): "png_ready",
        ("ImageResized",): "ImageResized_ready",
        ("ImageResized_ready",): "ImageResized_ready",
    },
    ("zeroshot",),
)
QUICKDRAW = Layout(
    {
        ("QuickDraw_sketches_final",): "sketches",
        ("sketches",): "sketches",
        ("QuickDraw_images_final",): "images",
        ("images",): "images",
    },
    ("zeroshot",),
)
LAYOUTS: dict[str, Callable[[str], Layout]] = {  # of the name of the root, which for annotations says which data set it is
    "sketchy": lambda root: SKETCHY,
    "sketchy2": lambda root: SKETCHY,
    "tuberlin": lambda root: TUBERLIN,
    "quickdraw": lambda root: QUICKDRAW,
    "annotations": lambda root: _annotations(root),
    "folder": lambda root: Layout({("photo",): "photo", ("sketch",): "sketch"}),
}


def _annotations(root: str) -> Layout:
    images = {(root, "photos"): "photos", (root, "sketches"): "sketches"}
    if root == "TUBerlin":
        images |= {("ImageResized",): "photos", ("png",): "sketches"}
    if root == "sketchy":
        images |= {("EXTEND_image_sketchy",): "photos", ("sketch", "tx_000100000000"): "sketches"}
    return Layout(images, ("anno",), (f"{root}_", ".json"))
