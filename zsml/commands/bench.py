"""`zsml bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from zsml.commands._common import Json


@dataclass
class Bench:
    """Time the ops against the other ways to the same answer; nothing is timed before its answer was checked.

    Example: zsml bench hamming_topk --sizes sketchy --threads 1 2 --save bench/results && zsml bench report
    """

    ops: Positional[tuple[str, ...]]
    """hardest_pairs, supcon, margin_softmax, hamming_topk, hamming_rank, evaluate, evaluate_codes or all; or report, which times
    nothing."""
    sizes: tuple[str, ...] = ()
    """Sets (sketchy, tuberlin, quickdraw, tiny); of hardest_pairs and supcon batch sizes, of margin_softmax numbers of classes;
    default: the usual ones."""
    queries: int | Literal["all"] = 1024
    """Queries used of a set; slow peers get 64 and are compared per query."""
    threads: tuple[int, ...] = ()
    """Numbers of threads to time with, one after the other; default: as many as torch would use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""
    budget: float = 5.0
    """Seconds of timing per provider and case; each gets at least 3 samples."""
    save: Path | None = None
    """Folder to save the rows in, as <op>.<device>.json; renewed comparisons replace those there."""
    results: Path = Path("bench/results")
    """report: folder of saved rows; the plots are put beside them."""
    readme: Path = Path("README.md")
    """report: file whose marked section is made anew from the rows."""
    json: Json = False
    """Print the rows as JSON."""

    def run(self) -> dict[str, Any]:
        if self.ops == ("report",):
            from zsml.bench.report import report

            return report(self.results, self.readme)
        from zsml.bench.session import bench

        queries = None if self.queries == "all" else self.queries
        return bench(self.ops, self.sizes, queries, self.threads, self.device, self.budget, self.save)

    def text(self, result: dict[str, Any]) -> str:
        if "readme" in result:
            return "\n".join(["renewed:", result["readme"], *result["plots"]])
        from zsml.bench.rows import rows_table

        return "\n".join([rows_table(result["rows"]), *(f"saved: {path}" for path in result["saved"])])
