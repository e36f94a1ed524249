"""What each command of `zsml` takes, does and says: one dataclass each, whose fields are its flags.

`run()` does the work and returns what --json prints; `text()` says the same to people. Torch and what needs it is imported
where a command starts to work, so that `zsml --help` is quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from zsml.engine.config import TrainConfig, flag
from zsml.engine.tables import demo_table, info_table, results_table, split_table
from zsml.errors import InputError

if TYPE_CHECKING:
    import torch

    from zsml.engine.embed import Run

Json = FlagCreatePairsOff[bool]


@dataclass
class Train:
    settings: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    config: Path | None = None
    """TOML file with any of these settings; flags win over it."""
    resume: Path | None = None
    """Run to go on with, from its newest checkpoint and with its settings."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.train import train
        from zsml.systems import find_system

        if self.resume is not None and self.settings.out != self.resume:
            raise InputError(f"--out {self.settings.out} and --resume {self.resume} are two folders; leave --out away")
        return train(self.settings, find_system(self.settings.system), resume=self.resume is not None)

    def text(self, result: dict[str, Any]) -> str:
        return f"{result['epochs']} epochs, {result['steps']} steps\nnow: zsml evaluate {result['run']}"


@dataclass
class Inference:
    """What the commands that use a trained model have in common."""

    folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder that `zsml train --out` wrote, or one of its checkpoints."""
    root: Path | None = None
    """Folder of the images, if not where it was in training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "off"
    """Mixed precision."""
    workers: int | None = None
    """Image-loading processes; default: one per core, on a CPU one per 4 cores, at most 8."""
    batch_size: int = 64
    """Images embedded at once."""
    strict_images: FlagCreatePairsOff[bool] = False
    """Stop at an image that cannot be decoded instead of skipping and counting it."""
    json: Json = False
    """Print the result as JSON."""

    def open(self) -> tuple[Run, torch.device]:
        from zsml.engine.device import resolve_amp, resolve_device
        from zsml.engine.embed import open_run

        for name, least in {"batch_size": 1, "workers": 0, "examples": 0}.items():
            value = getattr(self, name, None)
            if value is not None and value < least:
                raise InputError(f"{flag(name)} must be {least} or more, got {value}")
        device = resolve_device(self.device)
        resolve_amp(self.amp, device)
        opened = open_run(self.folder, device)
        changes = {"amp": self.amp, "workers": self.workers, "strict_images": self.strict_images}
        if self.root is not None:
            changes["root"] = self.root
        opened.config = replace(opened.config, **changes)
        return opened, device


@dataclass
class Evaluate(Inference):
    bits: int | None = None
    """Also evaluate binary codes of this length (ITQ), by Hamming distance."""
    itq_fit: Literal["gallery", "query", "train"] = "gallery"
    """Embeddings ITQ is fitted on: the gallery's (as MATHM's code), the queries' (DSN's), or the training photos'."""
    itq_center: Literal["fit", "own"] = "fit"
    """Mean subtracted before coding: that of the fitted embeddings, or each set's own (the published codes)."""
    itq_update: Literal["procrustes", "released"] = "procrustes"
    """Rotation update: ITQ's, or the one in the published codes."""
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

        binary = None
        if self.bits is not None:
            binary = BinaryOptions(self.bits, fit=self.itq_fit, center=self.itq_center, update=self.itq_update)
        opened, device = self.open()
        out = self.out or self.folder / "report"
        with writable(out):  # before the work whose result it is to take
            out.mkdir(parents=True, exist_ok=True)
        if self.bits is not None and self.bits > opened.config.embedding_dim:
            raise InputError(
                f"--bits {self.bits} is more than the {opened.config.embedding_dim} dimensions of this model's embeddings"
            )
        preset = self.protocol or find_system(opened.config.system).protocol
        evaluation = evaluate(
            opened.model, opened.config, device=device, preset=preset, binary=binary, batch_size=self.batch_size
        )
        with writable(out):
            page = write_run_report(out, opened, evaluation, binary, examples=self.examples)
        return {"run": str(self.folder), "step": opened.step, **evaluation.to_dict(), "report": str(page)}

    def text(self, result: dict[str, Any]) -> str:
        skipped = f"\n{len(result['skipped_images'])} corrupt images skipped" if result["skipped_images"] else ""
        return f"{results_table(result['results'])}{skipped}\nreport: {result['report']}"


@dataclass
class Embed(Inference):
    part: Literal["train", "val", "test"] = "test"
    """Part of the data; test holds the unseen classes."""
    modality: Literal["sketch", "photo", "both"] = "both"
    """Which images."""
    out: Path | None = None
    """Folder to write to; default: RUN/embeddings."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.device import resolve_amp
        from zsml.engine.embed import embed, load_part, write_embeddings

        opened, device = self.open()
        kinds = ("sketch", "photo") if self.modality == "both" else (self.modality,)
        parts = [
            embed(
                opened.model,
                load_part(opened.config, self.part, kind),
                device=device,
                batch_size=self.batch_size,
                workers=opened.config.num_workers,
                amp=resolve_amp(self.amp, device),
            )
            for kind in kinds
        ]
        with writable(out := self.out or self.folder / "embeddings"):
            return write_embeddings(out, parts)

    def text(self, result: dict[str, Any]) -> str:
        skipped = f", {len(result['skipped_images'])} corrupt images skipped" if result["skipped_images"] else ""
        files = f"{result['embeddings']}\n{result['items']}"
        return f"{result['rows']} embeddings of width {result['width']}{skipped}\n{files}"


@dataclass
class Data:
    data: Positional[str]
    """folder, synthetic, sketchy, sketchy2 or tuberlin."""
    root: Path | None = None
    """Folder that holds the images (synthetic needs none)."""
    lists: Path | None = None
    """Folder that holds the published list files; default: under --root."""
    unseen: tuple[str, ...] = ()
    """Classes to test on: their names, or one number of classes to draw (folder, synthetic)."""
    split_seed: int = 0
    """Seed of that draw."""
    sheet: Path | None = None
    """Also write a contact sheet of example images to this PNG file."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.describe import describe

        config = TrainConfig(data=self.data, root=self.root, lists=self.lists, unseen=self.unseen, split_seed=self.split_seed)
        config.validate()
        return describe(config, self.sheet)

    def text(self, result: dict[str, Any]) -> str:
        return split_table(result) + (f"\ncontact sheet: {result['sheet']}" if result["sheet"] else "")


@dataclass
class Info:
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        import zsml

        return zsml.info()

    def text(self, result: dict[str, Any]) -> str:
        return info_table(result)


@dataclass
class Demo:
    out: Path | None = None
    """Folder of the run and the report; default: runs/demo, or the next free name."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.demo import demo

        return demo(self.out, device=self.device)

    def text(self, result: dict[str, Any]) -> str:
        return demo_table(result)


@dataclass
class Bench:
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


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Names --out where a result cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from error
