"""`zsml data check`: is a copy of a data set what was published?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import FlagCreatePairsOff, Positional

from zsml.commands._common import Json
from zsml.engine.tables import table


@dataclass
class DataCheck:
    """Compare a copy of a data set with what was published, and name what is missing. Exit status 1 if anything is wrong.

    Example: zsml data check sketchy --root dataset/Sketchy
    """

    data: Positional[str]
    """sketchy, sketchy2, tuberlin, quickdraw, annotations or folder."""
    root: Path
    """Folder that holds the images."""
    lists: Path | None = None
    """Folder that holds the published list files; default: under --root."""
    decode: FlagCreatePairsOff[bool] = False
    """Also decode every image, which takes a while."""
    json: Json = False
    """Print the result as JSON, with the path of every missing image."""

    def run(self) -> dict[str, Any]:
        from zsml.data.check import check_dataset
        from zsml.engine.log import progress

        return check_dataset(
            self.data, self.root, self.lists, decode_images=self.decode, progress=lambda images: progress(images, unit="image")
        )

    def text(self, result: dict[str, Any]) -> str:
        header = ["list", "rows", "published", "classes", "published", "content", "missing", "corrupt"]
        rows = [
            [
                f"{row['part']} {row['modality']}",
                f"{row['rows']:,}",
                " or ".join(f"{number:,}" for number in row["expected_rows"]) or "-",
                row["classes"],
                "-" if row["expected_classes"] is None else row["expected_classes"],
                row["content"],
                f"{len(row['missing']):,}",
                f"{len(row['corrupt']):,}" if self.decode else "-",
            ]
            for row in result["lists"]
        ]
        notes = [
            f"{row['file']}: {row['labels_not_used']:,} labels are not those of the classes; the folders say which they are"
            for row in result["lists"]
            if row["labels_not_used"]
        ]
        number = len(result["problems"])
        verdict = "complete" if result["ok"] else f"{number} problem{'s' * (number > 1)}"
        problems = [f"- {problem}" for problem in result["problems"]]
        return "\n".join([*([table(header, rows)] if rows else []), *notes, f"{result['data']}: {verdict}", *problems])

    def status(self, result: dict[str, Any]) -> int:
        return 0 if result["ok"] else 1
