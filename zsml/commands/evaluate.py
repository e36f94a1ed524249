"""`zsml evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zsml.commands._common import writable
from zsml.commands.inference import Inference
from zsml.engine.tables import results_table
from zsml.errors import InputError


@dataclass
class Evaluate(Inference):
    """Measure retrieval among the unseen classes and write a report with examples.

    Example: zsml evaluate runs/x --bits 64
    """

    bits: int | None = None
    """Also evaluate binary codes of this length (ITQ), by Hamming distance."""
    itq_fit: Literal["gallery", "query", "train"] | None = None
    """Embeddings ITQ is fitted on: the gallery's, the queries', or the training photos'; default: as the system's code does."""
    itq_center: Literal["fit", "own"] | None = None
    """Mean subtracted before coding: that of the fitted embeddings, or each set's own; default: as the system's code does."""
    itq_update: Literal["procrustes", "released"] | None = None
    """Rotation update: ITQ's, or the one in the published codes; default: that of the run's --variant."""
    protocol: Literal["mathm", "sake", "dsn", "mems", "sbka", "zse"] | None = None
    """Whose definitions of the metrics to use; default: those of the system trained."""
    out: Path | None = None
    """Folder of the report; default: RUN/report."""
    examples: int = 12
    """Example queries shown in the report."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.evaluate import BinaryOptions, evaluate
        from zsml.engine.report import write_run_report
        from zsml.systems import find_system

        if self.bits is not None:
            BinaryOptions(self.bits)  # before the work
        opened, device = self.open()
        system, binary = find_system(opened.config.system), None
        if self.bits is not None:
            given = {"fit": self.itq_fit, "center": self.itq_center, "update": self.itq_update}
            given = {name: value for name, value in given.items() if value is not None}
            binary = BinaryOptions(self.bits, **{**system.binary_for(opened.config.variant), **given})
        out = self.out or self.folder / "report"
        with writable(out):  # before the work whose result it is to take
            out.mkdir(parents=True, exist_ok=True)
        if self.bits is not None and self.bits > opened.config.embedding_dim:
            raise InputError(
                f"--bits {self.bits} is more than the {opened.config.embedding_dim} dimensions of this model's embeddings"
            )
        preset = self.protocol or system.protocol
        evaluation = evaluate(
            opened.model, opened.config, device=device, preset=preset, binary=binary, batch_size=self.batch_size
        )
        with writable(out):
            page = write_run_report(out, opened, evaluation, binary, examples=self.examples)
        return {"run": str(self.folder), "step": opened.step, **evaluation.to_dict(), "report": str(page)}

    def text(self, result: dict[str, Any]) -> str:
        skipped = f"\n{len(result['skipped_images'])} corrupt images skipped" if result["skipped_images"] else ""
        return f"{results_table(result['results'])}{skipped}\nreport: {result['report']}"
