"""Iterative quantisation (ITQ): real embeddings to binary codes that keep neighbours near."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.ops.hamming import pack_bits
from zsml.retrieval.checks import check_embeddings
from zsml.retrieval.fitted_file import check_fitted, read_fitted, write_fitted

__all__ = ["ITQ"]

KIND = "zsml.itq"  # marks the file
UPDATES = ("procrustes", "released")
SEEDS = {"procrustes": 0, "released": 50}  # of evaluations, by update; the published scripts have 50
MOST = 2**32 - 1  # what the random generator takes as a seed, and more than any other setting needs
ROWS = 1 << 14  # rows encoded at a time


class ITQ:
    """PCA to ``b`` dimensions, then the rotation that brings the points closest to the corners of the cube {-1, 1}^b.

    With V = (X - mean) P, P [D, b] the leading eigenvectors of the covariance, alternate (Gong and Lazebnik, CVPR 2011)

        B = sign(V R)                      (sign(0) = 1)
        R = argmin_R ||B - V R||^2 over orthogonal R:   B^T V = S Omega T^T  ->  R = T S^T

    The code of x is (x - mean) P R > 0, packed. ``update="released"`` repeats what the published evaluation scripts of this
    field do instead: they take the third factor that numpy's svd returns, T^T, for T, so R = T^T S^T. That is orthogonal
    too, but it does not minimise anything and the error does not fall steadily.

    All arithmetic is float64 on the device of the data. The start is numpy's legacy generator with ``seed``, independent of
    any global state; the published scripts use seed 50.

    Args:
        bits: b >= 1.
        iterations: alternations, >= 0; with 0 the rotation stays random.
        seed: of the initial rotation, 0 to 2^32 - 1.
        update: "procrustes" | "released".

    Attributes (after ``fit`` or ``load``):
        mean: float64 [D]; projection: float64 [D, b]; rotation: float64 [b, b].
        quantization_error: mean of (sign(V R) - V R)^2 over all entries, after each iteration.

    Raises:
        TypeError, InputError: a value outside what is listed above.

    >>> x = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    >>> itq = ITQ(bits=12).fit(x)
    >>> itq.transform(x).shape
    torch.Size([100, 2])
    """

    def __init__(self, bits: int = 64, iterations: int = 50, seed: int = 0, update: str = "procrustes"):
        for name, value, low, high in (("bits", bits, 1, MOST), ("iterations", iterations, 0, MOST), ("seed", seed, 0, MOST)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r}")
            if not low <= value <= high:
                raise InputError(f"{name} must be {low} to {high}, got {value}")
        if update not in UPDATES:
            raise InputError(f"update must be one of {', '.join(map(repr, UPDATES))}, got {update!r}")
        self.bits = bits
        self.iterations = iterations
        self.seed = seed
        self.update = update
        self.quantization_error: list[float] = []
        self.mean: Tensor | None = None
        self.projection: Tensor | None = None
        self.rotation: Tensor | None = None

    def __repr__(self) -> str:
        return f"ITQ(bits={self.bits}, iterations={self.iterations}, seed={self.seed}, update={self.update!r})"

    @torch.no_grad()
    def fit(self, X: Tensor) -> ITQ:
        """Find mean, projection and rotation.

        Args:
            X: real-valued [N, D], N >= 2, D >= bits; a tensor, or an array with ``__dlpack__`` (NumPy, CuPy).

        Returns:
            self.

        Raises:
            TypeError: not a real-valued tensor.
            InputError: wrong rank, too few rows or columns, NaN or infinite rows.
        """
        X = check_embeddings("X", X, least=2)
        if X.shape[1] < self.bits:
            raise InputError(f"bits={self.bits} needs embeddings of at least that width, got X with {X.shape[1]} columns")
        x = X.to(torch.float64)
        if (x == x[0]).all():
            raise InputError("X has identical rows only: there is no direction to quantise")
        mean = x.mean(dim=0)
        x = x - mean
        _, directions = torch.linalg.eigh(x.T @ x / x.shape[0])  # ascending
        projection = directions.flip(1)[:, : self.bits]  # [D, b]
        # An eigenvector's sign is arbitrary; fix it, so that library and device do not decide the codes.
        peak = projection.gather(0, projection.abs().argmax(dim=0, keepdim=True))
        projection = (projection * peak.sign()).contiguous()

        v = x @ projection  # [N, b]
        start = np.random.RandomState(self.seed).standard_normal((self.bits, self.bits))
        rotation = torch.linalg.svd(torch.from_numpy(start)).U.to(x.device)
        errors = []
        for _ in range(self.iterations):
            left, _, right_t = torch.linalg.svd(_signs(v @ rotation).T @ v)  # S, Omega, T^T
            rotation = (right_t.T if self.update == "procrustes" else right_t) @ left.T
            rotated = v @ rotation
            errors.append((_signs(rotated) - rotated).square().mean().item())
        self.mean, self.projection, self.rotation = mean, projection, rotation.contiguous()
        self.quantization_error = errors
        return self

    @torch.no_grad()
    def transform(self, X: Tensor, center: str = "fit") -> Tensor:
        """Encode.

        Args:
            X: real-valued [N, D], any device; a tensor, or an array with ``__dlpack__`` (NumPy, CuPy), which is not copied.
            center: "fit" subtracts the mean of the data fitted on; "own" subtracts X's own mean, as the published scripts do
                (each set then needs all its items at once, and a code depends on the others).

        Returns:
            uint8 [N, ceil(bits / 8)] packed codes on X's device.

        Raises:
            TypeError: not a real-valued tensor.
            InputError: not fitted, wrong rank or width, no rows, NaN or infinite rows, unknown ``center``.
        """
        mean, projection, rotation = self._fitted("transform")
        if center not in ("fit", "own"):
            raise InputError(f"center must be 'fit' or 'own', got {center!r}")
        X = check_embeddings("X", X)
        if X.shape[1] != mean.shape[0]:
            raise InputError(f"X must have the {mean.shape[0]} columns this ITQ was fitted on, got {X.shape[1]}")
        mean = X.mean(dim=0, dtype=torch.float64) if center == "own" else mean.to(X.device)
        project = (projection @ rotation).to(X.device)  # [D, b]
        return torch.cat([pack_bits((part - mean) @ project > 0) for part in X.split(ROWS)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; an existing one is replaced only once the new one is complete on disk.

        Raises:
            InputError: not fitted.
            OSError: the disk is full, the folder is missing or not writable; the old file stays as it was.
        """
        mean, projection, rotation = self._fitted("save")
        tensors = {"mean": mean, "projection": projection, "rotation": rotation}
        about = {name: getattr(self, name) for name in ("bits", "iterations", "seed", "update", "quantization_error")}
        write_fitted(Path(path), KIND, tensors, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ITQ:
        """Read what :meth:`save` wrote, on the CPU.

        Raises:
            InputError: no such file, another kind of file, or contents that do not fit together.
        """
        path = Path(path)
        tensors, settings = read_fitted(path, KIND, "ITQ")
        try:
            settings = json.loads(settings)
            errors = [float(error) for error in settings.pop("quantization_error")]
            itq = cls(**settings)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} has unusable settings ({error!r})") from error
        width = tensors["mean"].shape[0] if "mean" in tensors and tensors["mean"].dim() == 1 else "D"
        expected = {"mean": [width], "projection": [width, itq.bits], "rotation": [itq.bits, itq.bits]}
        check_fitted(path, tensors, expected)
        itq.mean, itq.projection, itq.rotation = tensors["mean"], tensors["projection"], tensors["rotation"]
        itq.quantization_error = errors
        return itq

    def _fitted(self, call: str) -> tuple[Tensor, Tensor, Tensor]:
        if self.mean is None or self.projection is None or self.rotation is None:
            raise InputError(f"{call} needs a fitted ITQ: call fit(X) first, or ITQ.load(path)")
        return self.mean, self.projection, self.rotation


def _signs(x: Tensor) -> Tensor:
    """1 where x >= 0, else -1."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
