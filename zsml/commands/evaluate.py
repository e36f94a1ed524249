"""`zsml evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import FlagCreatePairsOff

from zsml.commands._common import writable
from zsml.commands.inference import Inference
from zsml.engine.tables import results_table, sweep_table
from zsml.errors import InputError

if TYPE_CHECKING:
    import torch

    from zsml.engine.embed import Run


@dataclass
class Evaluate(Inference):
    """Measure retrieval among the unseen classes and write a report with examples.

    Example: zsml evaluate runs/x --bits 64
    """

    bits: int | None = None
    """Also evaluate binary codes of this length (ITQ), by Hamming distance."""
    itq_fit: Literal["gallery", "query", "train", "centers"] | None = None
    """Embeddings ITQ is fitted on: the gallery's, the queries', or the training photos'; centers: no ITQ, but a hash map
    learned from the objective's class centres. Default: as the system's code does."""
    itq_center: Literal["fit", "own"] | None = None
    """Mean subtracted before coding: that of the fitted embeddings, or each set's own; default: as the system's code does."""
    itq_update: Literal["procrustes", "released"] | None = None
    """Rotation update: ITQ's, or the one in the published codes; default: that of the run's --variant."""
    protocol: Literal["mathm", "sake", "dsn", "mems", "sbka", "zse", "torchmetrics"] | None = None
    """Whose definitions of the metrics to use; default: those of the system trained."""
    distance: Literal["euclidean", "cosine"] | None = None
    """How embeddings are compared; default: as the system and its protocol do."""
    generalised: FlagCreatePairsOff[bool] = False
    """Also search sketch->photo among the photos of the seen classes and the unseen ones together."""
    cluster: str | None = None
    """Also match sketch->photo by clusters of the gallery: M,K (blocks, clusters of each), or M alone: K without labels."""
    cluster_model: Literal["gmm_full", "gmm_diag", "gmm_spherical", "kmeans"] | None = None
    """What finds the clusters; default: gmm_full."""
    cluster_fuse: float | None = None
    """Share of the distance to the photo itself, 0 to 1; default: 0.2."""
    sweep: tuple[str, ...] = ()
    """Also show a grid of clusters, such as 2,22-28 4,25; its best cell is chosen on the test set, and marked so."""
    out: Path | None = None
    """Folder of the report; default: RUN/report."""
    examples: int = 12
    """Example queries shown in the report."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.binary import BinaryOptions
        from zsml.engine.clusters import cluster_options
        from zsml.engine.evaluate import evaluate
        from zsml.engine.report import write_run_report
        from zsml.systems import find_system

        if self.bits is not None:
            BinaryOptions(self.bits)  # before the work
        elif self.itq_fit or self.itq_center or self.itq_update:
            raise InputError("--itq-fit, --itq-center and --itq-update need --bits, the length of the codes")
        cluster = cluster_options(self.cluster, self.cluster_model, self.cluster_fuse, self.sweep)
        opened, device = self.open()
        system, binary = find_system(opened.config.system), None
        if self.bits is not None:
            given = {"fit": self.itq_fit, "center": self.itq_center, "update": self.itq_update}
            given = {name: value for name, value in given.items() if value is not None}
            binary = BinaryOptions(self.bits, **{**system.binary_for(opened.config.variant), **given})
            if binary.fit == "centers" and (self.itq_center or self.itq_update):
                raise InputError(
                    "--itq-center and --itq-update have no meaning with --itq-fit centers, which is no ITQ; leave them out"
                )
        out = self.out or self.folder / "report"
        with writable(out):  # before the work whose result it is to take
            out.mkdir(parents=True, exist_ok=True)
        centers = self._centers(opened) if binary is not None and binary.fit == "centers" else None
        if binary is not None and centers is None and self.bits > opened.config.embedding_dim:
            raise InputError(
                f"--bits {self.bits} is more than the {opened.config.embedding_dim} dimensions of this model's embeddings"
            )
        preset = self.protocol or system.protocol
        evaluation = evaluate(
            opened.model,
            opened.config,
            device=device,
            preset=preset,
            distance=self.distance or (system.distance_for(opened.config) if self.protocol is None else None),
            binary=binary,
            cluster=cluster,
            generalised=self.generalised,
            centers=centers,
            batch_size=self.batch_size,
        )
        with writable(out):
            page = write_run_report(out, opened, evaluation, binary, examples=self.examples)
        return {
            "run": str(self.folder),
            "step": opened.step,
            "classes": opened.tested(evaluation.directions[0].query.dataset.classes),
            **evaluation.to_dict(),
            "report": str(page),
        }

    def _centers(self, opened: Run) -> torch.Tensor:
        """The class centres that were trained with this very model."""
        from zsml.engine.binary import class_centers

        if opened.checkpoint is None:
            raise InputError(
                f"--itq-fit centers needs the class centres of the training, which are kept with the last model of a run "
                f"only; this is {opened.what}. Choose gallery, query or train, or --weights last"
            )
        centers = class_centers(opened.checkpoint)
        if centers is None:
            raise InputError(
                f"--itq-fit centers: the objective of {opened.config.system} has no class centres; choose gallery, query or train"
            )
        return centers

    def text(self, result: dict[str, Any]) -> str:
        skipped = f"\n{len(result['skipped_images'])} corrupt images skipped" if result["skipped_images"] else ""
        sweep = f"\n{sweep_table(result['sweep'])}" if "sweep" in result else ""
        return f"{results_table(result['results'], result['classes'])}{sweep}{skipped}\nreport: {result['report']}"
