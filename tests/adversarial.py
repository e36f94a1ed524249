"""Batches that kernels go wrong on: odd shapes, ties, near duplicates, magnitudes, what is not finite, layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Embeddings with their ids; the last four are None where the candidates are ``x`` itself."""

    x: Tensor  # [B, D]
    labels: Tensor  # [B]
    modality: Tensor | None  # [B]
    refs: Tensor | None = None  # [M, D]
    ref_labels: Tensor | None = None  # [M]
    ref_modality: Tensor | None = None  # [M]
    exclude: Tensor | None = None  # [B]

    @property
    def options(self) -> dict[str, Tensor]:
        """The keyword arguments of ``hardest_pairs`` and of losses that take references."""
        return {name: getattr(self, name) for name in Batch._fields[3:] if getattr(self, name) is not None}


@dataclass(frozen=True)
class Case:
    """A batch by description; :meth:`build` draws it, the same one for every dtype, device and layout."""

    name: str
    rows: int = 24
    width: int = 7
    refs: int | None = None  # M; None: the candidates are x
    classes: int | None = 5  # None: no two samples share one
    modalities: int | None = 2  # 1: all alike; None: the argument is left out
    values: str = "normal"
    layout: str = "contiguous"
    exclude: bool = False

    @property
    def exact(self) -> bool:
        """Squared distances are integers that float32 holds, so that ties are ties for everybody."""
        return self.values in ("ties", "far ties", "duplicates")

    def build(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        sets = []
        for count in (self.rows, self.refs):
            if count is None:
                sets.append((None, None, None))
                continue
            rows = _lay_out(_draw(self.values, count, self.width, generator).to(dtype).to(device), self.layout)
            if self.classes is None:
                labels = torch.arange(count)
            else:
                labels = torch.randint(0, self.classes, (count,), generator=generator)
            modality = None if self.modalities is None else torch.randint(0, self.modalities, (count,), generator=generator)
            ids = [None if t is None else _lay_out(t.to(device)[:, None], self.layout)[:, 0] for t in (labels, modality)]
            sets.append((rows, *ids))
        exclude = None
        if self.exclude:
            exclude = torch.randint(-1, self.refs, (self.rows,), generator=generator).to(device)
        return Batch(*sets[0], *sets[1], exclude)


def _draw(values: str, rows: int, width: int, generator: torch.Generator) -> Tensor:
    """float64 [rows, width]"""
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    if values == "ties":
        return torch.randint(-2, 3, (rows, width), generator=generator).double()
    if values == "far ties":
        return torch.randint(250, 253, (rows, width), generator=generator).double()
    if values == "duplicates":
        few = torch.randint(-9, 10, (3, width), generator=generator).double()
        return few[torch.randint(0, 3, (rows,), generator=generator)]
    if values == "near":  # near-duplicates a long way from the origin
        return 100 + 0.01 * x
    if values == "clusters":  # as above, on both sides of it
        return 100 * (torch.arange(rows, dtype=torch.float64) % 2 * 2 - 1)[:, None] + 0.01 * x
    if values == "outlier":  # beside 1e20, a float32 square of 1 is nothing; float16 makes an infinity of it
        x[rows // 2] = 1e20
    elif values == "tiny":
        x *= 1e-30
    elif values == "huge":
        x *= 1e30
    elif values == "poisoned":
        for row, value in enumerate((float("nan"), float("inf"), -float("inf"))):
            x[row::7, row % width] = value
    elif values != "normal":
        raise ValueError(f"unknown values {values!r}")
    return x


def _lay_out(t: Tensor, layout: str) -> Tensor:
    """The same values, elsewhere in memory."""
    if layout == "strided":  # every other row and column of a larger matrix
        larger = t.new_full((2 * t.shape[0], 2 * t.shape[1]), 77)
        larger[::2, ::2] = t
        return larger[::2, ::2]
    if layout == "offset":  # neither begins nor ends where an allocation does
        larger = t.new_full((t.shape[0] + 2, t.shape[1]), 77)
        larger[1:-1] = t
        return larger[1:-1]
    if layout == "transposed":
        return t.T.contiguous().T
    return t


ADVERSARIAL = (
    *(Case(f"{rows}x{width}", rows, width) for rows in (1, 2, 127, 128, 129) for width in (1, 3, 123, 512)),
    Case("one class", classes=1),
    Case("all singletons", classes=None),
    Case("one class, one modality", classes=1, modalities=1),
    Case("one modality missing", modalities=1),
    Case("no modality", modalities=None),
    Case("three modalities", rows=40, modalities=3),
    Case("ties", rows=129, width=3, values="ties"),
    Case("ties, wide", rows=60, width=123, values="ties"),
    Case("ties far from the origin", rows=60, values="far ties"),
    Case("duplicate rows", rows=60, values="duplicates"),
    Case("near-duplicates far from the origin", rows=60, width=123, values="near"),
    Case("near-duplicates in two clusters", rows=60, width=123, values="clusters"),
    Case("an outlier", values="outlier"),
    Case("tiny", values="tiny"),
    Case("huge", values="huge"),
    Case("poisoned rows", values="poisoned"),
    Case("nothing but poison", rows=3, width=1, values="poisoned"),
    Case("strided", layout="strided"),
    Case("offset", width=5, layout="offset"),
    Case("transposed", layout="transposed"),
    Case("refs: none", refs=0),
    Case("refs: one", refs=1),
    Case("refs: fewer", rows=129, width=33, refs=10),
    Case("refs: many more", rows=3, width=5, refs=3000),
    Case("refs: excluded", refs=9, exclude=True),
    Case("refs: the only one excluded", refs=1, exclude=True),
    Case("refs: no modality", refs=50, modalities=None, exclude=True),
    Case("refs: ties", rows=50, width=3, refs=200, values="ties", exclude=True),
    Case("refs: far ties", rows=50, width=3, refs=70, values="far ties"),
    Case("refs: poisoned", refs=50, values="poisoned"),
    Case("refs: an outlier", refs=50, values="outlier"),
    Case("refs: strided", refs=30, layout="strided", exclude=True),
    Case("refs: transposed", refs=30, layout="transposed"),
)  # fmt: skip
