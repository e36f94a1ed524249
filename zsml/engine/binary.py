"""Binary codes in an evaluation: how they are made, and from what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import torch
from safetensors import SafetensorError, safe_open

from zsml.errors import InputError
from zsml.quantize import ITQ, CentreHash
from zsml.retrieval.quantize import SEEDS

CENTERS = "centers"  # how the name of an objective's class centres ends


@dataclass
class BinaryOptions:
    """How embeddings become codes.

    fit: the embeddings ITQ is fitted on: the gallery's (as MATHM's code does), the queries' (as DSN's) or those of the training
        photos, the only one of the three that has seen nothing of the test; or "centers": a hash map learned from the class
        centres of the objective instead of ITQ (as MEMS's code does), to which the other options have nothing to say.
    center: "own" subtracts from queries and gallery their own mean each (as the published codes do), "fit" the mean of the
        fitted embeddings.
    update: "procrustes", or "released" for the update rule of the published code, from its random start.
    """

    bits: int
    fit: Literal["gallery", "query", "train", "centers"] = "gallery"
    center: Literal["own", "fit"] = "fit"
    update: Literal["procrustes", "released"] = "procrustes"

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise InputError(f"--bits must be 1 or more, got {self.bits}")
        for name in ("fit", "center", "update"):
            accepted = get_args(get_type_hints(BinaryOptions)[name])
            if getattr(self, name) not in accepted:
                raise InputError(f"--itq-{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")

    def describe(self) -> str:
        """In words, to stand beside the numbers.

        >>> BinaryOptions(64, fit="centers").describe()
        '64 bits, a hash map learned from the class centres'
        """
        if self.fit == "centers":
            return f"{self.bits} bits, a hash map learned from the class centres"
        mean = "own" if self.center == "own" else "fitted"
        return f"ITQ, {self.bits} bits, fitted on the {self.fit} embeddings, {self.update} update, {mean} mean subtracted"


class Coder:
    """Makes the codes of one direction after the other.

    Args:
        options: how.
        train: [n, D] with fit="train", the embeddings of the training photos; centers: [C, D] with fit="centers".
        cosine: compare directions, not lengths: normalises the centres.

    Raises:
        InputError: fit="centers" without centres.
    """

    def __init__(self, options: BinaryOptions, *, train: torch.Tensor | None, centers: torch.Tensor | None, cosine: bool = False):
        self.options, self.train, self.hash_map = options, train, None
        if options.fit == "centers":
            if centers is None:
                raise InputError("--itq-fit centers needs class centres, and this model's objective has none; choose another")
            centers = torch.nn.functional.normalize(centers) if cosine else centers
            self.hash_map = CentreHash(bits=options.bits).fit(centers)

    def __call__(self, query: torch.Tensor, gallery: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed codes uint8 [Q, W] and [N, W] of embeddings [Q, D] and [N, D]."""
        if self.hash_map is not None:
            return tuple(self.hash_map.transform(x) for x in (query, gallery))
        fit, center = self.options.fit, self.options.center
        basis = self.train if fit == "train" else query if fit == "query" else gallery
        update = self.options.update
        quantizer = ITQ(bits=self.options.bits, seed=SEEDS[update], update=update).fit(basis.cpu())
        return tuple(quantizer.transform(x.cpu(), center=center).to(query.device) for x in (query, gallery))


def class_centers(checkpoint: Path) -> torch.Tensor | None:
    """The class centres [C, D] that the objective of a checkpoint learned; None if it learns none.

    Raises:
        InputError: the checkpoint is damaged, or its objective has several sets of centres.
    """
    path = checkpoint / "training.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("objective.") and name.endswith(CENTERS)]  # noqa: SIM118
            found = [tensor for name in names if (tensor := file.get_tensor(name)).dim() == 2]
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint {str(checkpoint)!r} cannot be read: {error}") from error
    if len(found) > 1:
        raise InputError(
            f"--itq-fit centers: the objective of {str(checkpoint)!r} has {len(found)} sets of class centres: {names}"
        )
    return found[0].float() if found else None
