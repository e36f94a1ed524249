"""`zsml data prepare`: from the official downloads to the folders that the readers expect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from zsml.commands._common import Json
from zsml.engine.tables import table


@dataclass
class DataPrepare:
    """Resize the official downloads of a data set and lay them out for training. Run it again to go on after a break.

    Archives (.zip, .tar, .tar.gz, ...) are read as they are. Exit status 1 if something in the downloads could not be used.

    Example: zsml data prepare sketchy --from downloads --root dataset/Sketchy
    """

    data: Positional[str]
    """sketchy, sketchy2, tuberlin, quickdraw, annotations (with a root called TUBerlin or sketchy) or folder."""
    from_: Annotated[Path, arg(name="from")]
    """Folder of the downloads, with archives or class folders at any depth, or one archive."""
    root: Path
    """Folder to fill; not inside that of the downloads."""
    size: int = 256
    """Side of the square images, pixels; 0 copies the files as they are."""
    workers: int | None = None
    """Images resized at once; default: one per core."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.data.prepare import prepare_dataset
        from zsml.engine.log import progress
        from zsml.engine.stopping import Interrupted

        try:
            done = prepare_dataset(
                self.data, self.from_, self.root, size=self.size, workers=self.workers,
                progress=lambda files: progress(files, unit="file"),
            )  # fmt: skip
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted; what is in {self.root} stays, and the same command goes on from there") from error
        return {**asdict(done), "complete": done.complete}

    def text(self, result: dict[str, Any]) -> str:
        rows = sorted(result["folders"].items())
        counts = f"{result['written']:,} files written, {result['already']:,} were there"
        lines = [table(["folder", "files"], [[name, f"{count:,}"] for name, count in rows]), counts]
        if result["repeated"]:
            lines.append(f"{result['repeated']:,} further copies of the same files left out")
        lines += [f"cannot be read here, unpack it if its images are not there yet: {path}" for path in result["unread"]]
        lines += [f"corrupt: {entry['file']} ({entry['reason']})" for entry in result["corrupt"]]
        lines += [f"link, not followed: {link}" for link in result["links"]]
        lines += result["damaged"]
        return "\n".join([*lines, f"now: zsml data check {result['data']} --root {result['root']}"])

    def status(self, result: dict[str, Any]) -> int:
        return 0 if result["complete"] else 1
