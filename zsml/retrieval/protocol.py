"""What exactly an evaluation computes: the choices that differ between published systems, under one name
each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from zsml.errors import InputError

CHOICES: dict[str, tuple[Any, ...]] = {
    "distance": ("euclidean", "cosine", "hamming"),
    "interpolation": ("voc", None),
    "ties": ("index", "expected"),
    "truncated_denominator": ("min_k_r", "hits"),
    "precision_cutoff": ("k", "min_k_r"),
    "average": ("query", "class"),
    "normalize": (True, False),
    "mirror": ("none", "min", "mean"),
}


def _cutoffs(name: str, values: Any) -> tuple[int, ...]:
    if isinstance(values, int) and not isinstance(values, bool):
        values = (values,)
    if not isinstance(values, (tuple, list)) or any(isinstance(k, bool) or not isinstance(k, int) for k in values):
        raise TypeError(f"{name} must be a tuple of ints, got {values!r}")
    if any(k < 1 for k in values):
        raise InputError(f"{name} must hold cut-offs of at least 1, got {tuple(values)}")
    return tuple(dict.fromkeys(values))


@dataclass(frozen=True)
class Protocol:
    """One definition of the numbers. R is the number of relevant gallery items of a query, N the size of the
    gallery.

    distance: "euclidean" | "cosine" | "hamming".
    precision_at, map_at: the cut-offs k of P@k and AP@k.
    interpolation: "voc" replaces the precision at each rank by the largest at that or any later rank; None leaves it.
    ties: order of equally distant items: "index" lowest gallery index first, "expected" the mean over all orders.
    truncated_denominator: AP@k divides by min(k, R) ("min_k_r") or by the relevant items among the first k ("hits").
    precision_cutoff: P@k looks at the first min(k, N) items ("k") or at the first min(k, R) ("min_k_r").
    average: which mean is the headline: over "query" (micro) or over "class" of class means (macro).
    name: the preset, if any.
    described: the distance in words where the caller computed it; then distance is "given".

    Two more say which embeddings it is published for; whoever makes the embeddings reads them, the metrics take what comes:

    normalize: L2-normalised.
    mirror: "none" one embedding per image; "min" that of the image and that of its mirror image, two images being as far apart
        as the nearest of the four combinations; "mean" the mean of the two.

    >>> Protocol(map_at=()).sentence()
    'Euclidean distance, equal distances in gallery order; AP interpolated (VOC), mean over queries; P@100 over 100 items.'
    """

    distance: str = "euclidean"
    precision_at: tuple[int, ...] = (100,)
    map_at: tuple[int, ...] = (200,)
    interpolation: str | None = "voc"
    ties: str = "index"
    truncated_denominator: str = "min_k_r"
    precision_cutoff: str = "k"
    average: str = "query"
    name: str | None = None
    normalize: bool = True
    mirror: str = "none"
    described: str | None = None

    def __post_init__(self) -> None:
        for field, accepted in CHOICES.items():
            value = getattr(self, field)
            if value not in accepted and not (field == "distance" and value == "given" and self.described):
                raise InputError(f"{field} must be one of {', '.join(map(repr, accepted))}, got {value!r}")
        for field in ("precision_at", "map_at"):
            object.__setattr__(self, field, _cutoffs(field, getattr(self, field)))
        if self.ties == "expected" and self.interpolation is not None:
            raise InputError(
                "ties='expected' has a closed form only for AP without interpolation; "
                "pass interpolation=None with it, or ties='index' to keep interpolation='voc'"
            )

    def sentence(self) -> str:
        """The definition in one sentence, to print beside every number."""
        ties = "in gallery order" if self.ties == "index" else "averaged over all orders"
        kind = "AP interpolated (VOC)" if self.interpolation == "voc" else "AP not interpolated"
        mean = "mean over queries" if self.average == "query" else "mean over queries of a class, then over classes"
        distance = self.described or f"{self.distance} distance"
        parts = [f"{distance[0].upper()}{distance[1:]}, equal distances {ties}", f"{kind}, {mean}"]
        over = "min({k}, R)" if self.truncated_denominator == "min_k_r" else "the hits in the first {k}"
        parts += [f"AP@{k} divided by {over.format(k=k)}" for k in self.map_at]
        items = "{k}" if self.precision_cutoff == "k" else "min({k}, R)"
        parts += [f"P@{k} over {items.format(k=k)} items" for k in self.precision_at]
        prefix = f"Protocol {self.name}: " if self.name else ""
        return prefix + "; ".join(parts) + "."


# The published evaluation scripts. All of them L2-normalise the embeddings first except MEMS, whose released
# script takes the smallest squared distance over an image and its mirror image (zsml.retrieval.mirror). None
# defines an order of equal distances (they sort unstably): gallery order stands in for it. AP@200 of SAKE, DSN
# and MATHM is what their common helper gives, though none of the three scripts asks for it. ZSE cuts P@k at
# min(k, R) items. "torchmetrics" is what that library's retrieval_average_precision and retrieval_precision give
# of positive scores with their top_k, by which CLIP systems are measured: AP@k is divided by what was found, and
# so is larger.
PRESETS: dict[str, Protocol] = {
    "mathm": Protocol(name="mathm"),
    "sake": Protocol(name="sake", average="class"),
    "dsn": Protocol(name="dsn", average="class"),
    "mems": Protocol(name="mems", interpolation=None, precision_at=(), map_at=(), normalize=False, mirror="min"),
    "sbka": Protocol(name="sbka", average="class", precision_at=(100, 200)),
    "zse": Protocol(name="zse", precision_cutoff="min_k_r", precision_at=(100, 200)),
    "torchmetrics": Protocol(name="torchmetrics", interpolation=None, truncated_denominator="hits", precision_at=(100, 200)),
}


def make_protocol(preset: str | None, **changes: Any) -> Protocol:
    """The preset (or the defaults) with ``changes``; a preset that was changed says so in its name.

    Hamming distance is no change: it is what these systems compare codes with (or a distance of the same order).

    >>> make_protocol("sake", distance="cosine").name
    'sake (changed: distance)'
    """
    if preset is not None and preset not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)} or None, got {preset!r}")
    base = PRESETS[preset] if preset is not None else Protocol()
    made = replace(base, **changes)
    changed = [name for name in changes if getattr(made, name) not in (getattr(base, name), "hamming")]
    return replace(made, name=f"{preset} (changed: {', '.join(changed)})") if preset and changed else made
