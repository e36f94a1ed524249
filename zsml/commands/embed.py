"""`zsml embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zsml.commands._common import writable
from zsml.commands.inference import Inference


@dataclass
class Embed(Inference):
    """Write the embeddings of a part of the data as safetensors, with a table of what each row is.

    Example: zsml embed runs/x --part test --modality photo
    """

    part: Literal["train", "val", "test"] = "test"
    """Part of the data; test holds the unseen classes."""
    modality: Literal["sketch", "photo", "both"] = "both"
    """Which images."""
    out: Path | None = None
    """Folder to write to; default: RUN/embeddings."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.device import resolve_amp
        from zsml.engine.embed import embed, load_part, write_embeddings
        from zsml.retrieval.protocol import make_protocol
        from zsml.systems import find_system

        opened, device = self.open()
        normalize = make_protocol(find_system(opened.config.system).protocol).normalize
        kinds = ("sketch", "photo") if self.modality == "both" else (self.modality,)
        parts = [
            embed(
                opened.model,
                load_part(opened.config, self.part, kind),
                device=device,
                batch_size=self.batch_size,
                workers=opened.config.num_workers,
                amp=resolve_amp(self.amp, device),
                normalize=normalize,
            )
            for kind in kinds
        ]
        with writable(out := self.out or self.folder / "embeddings"):
            return {**write_embeddings(out, parts), "normalized": normalize}

    def text(self, result: dict[str, Any]) -> str:
        skipped = f", {len(result['skipped_images'])} corrupt images skipped" if result["skipped_images"] else ""
        files = f"{result['embeddings']}\n{result['items']}"
        length = "L2-normalised" if result["normalized"] else "of the lengths the network gives them"
        return f"{result['rows']} embeddings of width {result['width']}, {length}{skipped}\n{files}"
