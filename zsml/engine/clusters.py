"""One-to-many matching in an evaluation: `--cluster` and `--sweep`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zsml.errors import InputError
from zsml.metrics import RetrievalResult, evaluate_distances
from zsml.retrieval import ClusterMatcher

CHOSEN_ON_TEST = "chosen on test"  # stands beside every number of a sweep


@dataclass
class ClusterOptions:
    """Blocks M and clusters per block K (None: found on the gallery), as ClusterMatcher takes them.

    sweep: more (M, K), measured side by side; the best of them is chosen on the test set, and said to be.
    """

    blocks: int = 2
    components: int | None = None
    model: str = "gmm_full"
    fuse: float = 0.2
    sweep: tuple[tuple[int, int], ...] = ()

    def check(self, width: int) -> None:
        """Raise InputError, before the work, for what cannot be done to embeddings of that width."""
        for blocks, components in ((self.blocks, self.components), *self.sweep):
            ClusterMatcher(blocks, components, self.model, self.fuse)
            if width % blocks:
                flag = "--cluster" if (blocks, components) == (self.blocks, self.components) else "--sweep"
                raise InputError(f"{flag}: {blocks} blocks do not divide the {width} dimensions of this model's embeddings")

    def measure(self, query: torch.Tensor, gallery: torch.Tensor, *labels: torch.Tensor, **options: Any) -> RetrievalResult:
        """By the cell fixed beforehand; query [Q, D], gallery [N, D], then the labels of both."""
        return self._measure(self.blocks, self.components, query, gallery, *labels, **options)

    def measure_sweep(self, *data: torch.Tensor, **options: Any) -> Iterator[tuple[str, RetrievalResult]]:
        """By each cell of the sweep, ("M=2, K=25", result); arguments as of `measure`."""
        for blocks, components in self.sweep:
            yield f"M={blocks}, K={components}", self._measure(blocks, components, *data, note=CHOSEN_ON_TEST, **options)

    def _measure(self, blocks, components, query, gallery, query_labels, gallery_labels, note: str = "", **options):
        matcher = ClusterMatcher(blocks, components, self.model, self.fuse).fit(gallery)
        described = matcher.describe() + (f" ({note})" if note else "")
        return evaluate_distances(matcher.keys(query), query_labels, gallery_labels, described=described, **options)


def parse_cells(texts: Sequence[str], flag: str) -> list[tuple[int, int | None]]:
    """(M, K) of "M,K", of every K of "M,K-K"; K is None in "M".

    >>> parse_cells(["2,24-26", "4"], "--sweep")
    [(2, 24), (2, 25), (2, 26), (4, None)]
    """
    cells: list[tuple[int, int | None]] = []
    for text in texts:
        match = re.fullmatch(r"(\d+)(?:,(\d+)(?:-(\d+))?)?", text)
        blocks, first, last = (None if n is None else int(n) for n in match.groups()) if match else (0, 0, 0)
        last = first if last is None else last
        if not blocks or first == 0 or (first is not None and last < first):
            raise InputError(f"{flag} must be M,K (blocks, clusters of each), M,K-K or M, of numbers from 1, got {text!r}")
        cells += [(blocks, None)] if first is None else [(blocks, k) for k in range(first, last + 1)]
    return cells


def cluster_options(cluster: str | None, model: str | None, fuse: float | None, sweep: Sequence[str]) -> ClusterOptions | None:
    """What the flags ask for; None if they ask for no clusters. A sweep comes beside the cell fixed beforehand.

    Raises:
        InputError: values that do not say what is wanted; names the flag.
    """
    if cluster is None and not sweep:
        for flag, value in (("--cluster-model", model), ("--cluster-fuse", fuse)):
            if value is not None:
                raise InputError(f"{flag} has no meaning without --cluster or --sweep; give one of them, or leave it out")
        return None
    cells = parse_cells([] if cluster is None else [cluster], "--cluster") or [(2, None)]
    grid = parse_cells(sweep, "--sweep")
    if len(cells) > 1:
        raise InputError(f"--cluster must be one M,K or M, got {cluster!r}; --sweep takes several")
    if any(k is None for _, k in grid):
        raise InputError(f"--sweep must name K in every cell (M,K or M,K-K), got {' '.join(sweep)}")
    options = {} if fuse is None else {"fuse": fuse}
    return ClusterOptions(*cells[0], model=model or "gmm_full", sweep=tuple(dict.fromkeys(grid)), **options)
