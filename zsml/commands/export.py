"""`zsml export`: a trained model in the form that others use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from zsml.commands._common import Json
from zsml.errors import InputError

if TYPE_CHECKING:
    from zsml.models import EmbeddingModel


@dataclass
class Export:
    """Write a trained model in the form that others use: a folder to share, or one file that runs without this package.

    folder: safetensors, config.json and a card with the numbers of the run's report, read by EmbeddingModel.from_pretrained.
    onnx, torch-export: encoder and normalisation of pixels, for images as RGB from 0 to 1; checked against the model first.

    Example: zsml export runs/x --format onnx --out encoder.onnx
    """

    folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder that `zsml train --out` wrote, or a model."""
    format: Literal["folder", "onnx", "torch-export"]
    """What to write."""
    out: Path
    """Folder or file to write."""
    weights: Literal["auto", "best", "last"] = "auto"
    """Which model of a run: the one its --selection chose, or the last; auto: the chosen one if there is any."""
    report: Path | None = None
    """Report of this model by `zsml evaluate`, for the card (--format folder); default: RUN/report, if it is there."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.models.export import export_model
        from zsml.models.sharing import save_pretrained

        if self.format != "folder":
            if self.report is not None:
                raise InputError(f"--report has no meaning with --format {self.format}, which has no card")
            if self.out.is_dir():
                raise InputError(f"--out {str(self.out)!r} is a folder; --format {self.format} writes a file")
            return export_model(self._model(), self.out, self.format)
        if self.out.resolve() == self.folder.resolve():
            raise InputError(f"--out {str(self.out)!r} is what is to be exported; choose another folder")
        model, report = self._model(), self.report
        if report is None and (self.folder / "report" / "metrics.json").is_file():
            report = self.folder / "report"
        files = save_pretrained(model, self.out, report)
        found = {"path": str(self.out), "format": self.format, "files": [str(file) for file in files]}
        return {**found, "measured": report is not None}

    def _model(self) -> EmbeddingModel:
        import torch

        from zsml.engine.embed import open_run
        from zsml.models import load_model

        if (self.folder / "model.safetensors").is_file() and not (self.folder / "state.json").is_file():
            return load_model(self.folder)
        return open_run(self.folder, torch.device("cpu"), self.weights).model

    def text(self, result: dict[str, Any]) -> str:
        if self.format == "folder":
            card = "its card has the numbers of the report" if result["measured"] else "no report: the card has no numbers"
            return f"{result['path']}: {card}\nnow: EmbeddingModel.from_pretrained({result['path']!r})"
        inputs = ", ".join(f"{name} {shape}" for name, shape in result["inputs"].items())
        error = f"differs from the model by {result['largest_error']:.1e} of its largest number"
        return f"{result['path']}: {result['bytes']:,} bytes, {error}\n{inputs} -> embedding [B, {result['embedding_dim']}]"
