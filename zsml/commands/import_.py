"""`zsml import`: a published checkpoint as a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from zsml.commands._common import Json


@dataclass
class Import:
    """Convert a checkpoint that a system's authors published into a model folder, ready for `zsml evaluate`.

    Nothing in the file is run. The folder gets the weights as safetensors, their configuration, and a README.md that says
    where they came from.

    Example: zsml import model_best.pth.tar --system sake --out models/sake
    """

    path: Annotated[Positional[Path], arg(metavar="PATH")]
    """File as torch.save wrote it."""
    system: str
    """Whose checkpoint it is: mathm, sake, dsn, mems or sbka."""
    out: Path
    """Folder to write; a model that is there is replaced only by itself."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.importing import import_released

        return import_released(self.path, self.system, self.out)

    def text(self, result: dict[str, Any]) -> str:
        heads = f"{result['num_classes']} classes" if result["num_classes"] else "no classifier"
        network = f"{result['arch']}, {result['parameters']:,} parameters, embedding {result['embedding_dim']}, {heads}"
        sha256 = f"{result['source']['file']}, sha256 {result['source']['sha256']}"
        return f"{network}\n{sha256}\nnow: zsml evaluate {result['out']} --data NAME --root PATH"
