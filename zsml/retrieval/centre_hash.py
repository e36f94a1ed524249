"""Binary codes from class centres: a spectrally normalised affine map that pushes the codes of the classes apart."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize
from tqdm import tqdm

from zsml.errors import InputError
from zsml.ops.hamming import pack_bits
from zsml.retrieval.checks import check_embeddings
from zsml.retrieval.fitted_file import check_fitted, read_fitted, write_fitted

__all__ = ["CentreHash"]

KIND = "zsml.centre_hash"  # marks the file
MOST = 2**32 - 1
EPS = 1e-8  # keeps the sign step finite at 0
LR_EVERY = 100  # steps between updates of the learning rate
ROWS = 1 << 14  # rows encoded at a time


class CentreHash:
    """An affine map u(x) = (W / sigma(W)) x + a whose signs differ as much as possible between class centres.

    From the centres c_1 .. c_C alone, Adam minimises the mean inner product of the codes of two different classes,

        L = 1 / (C (C - 1)) * sum_{i != j} h_i . h_j,      h_i = u(c_i) / (|u(c_i)| + 1e-8),

    with |u| in the denominator held constant in the gradient: h is the sign of u, and the gradient passes it scaled by 1/|u|.
    sigma(W) = p^T W q is the running estimate of the largest singular value: each forward does one power iteration
    q = W^T p / |W^T p|, p = W q / |W q| and keeps p; the gradient takes p and q for constants. The learning rate falls linearly,
    lr (1 - t / steps), every 100 steps. The code of x is u(x) > 0, packed.

    L is least, -b / (C - 1) for an even C and -b / C for an odd one, when every bit splits the classes in half. For cosine
    retrieval, normalise centres and embeddings first.

    This is the hash map published with MEMS (repository SBIR-DASE-MEMS). There the power iteration goes on while encoding, so
    that a code depends on what was encoded before it; here sigma is what the first forward after training gives, and stays.
    All arithmetic is float64 on the device of the data; random numbers come from a generator of its own. Training amplifies
    rounding, so a seed gives the same map only on the same kind of machine and number of threads: keep the file of a map.

    Args:
        bits: b >= 1.
        steps: of Adam, >= 0; with 0 the map stays random.
        lr: initial learning rate, finite and above 0.
        seed: of the initial map, 0 to 2^32 - 1.

    Attributes (after ``fit`` or ``load``):
        weight: float64 [b, D], W / sigma(W); bias: float64 [b], a.
        loss: L before each step.

    Raises:
        TypeError, InputError: a value outside what is listed above.

    >>> centres = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    >>> hasher = CentreHash(bits=12, steps=50).fit(centres)
    >>> hasher.transform(centres).shape
    torch.Size([10, 2])
    """

    def __init__(self, bits: int = 64, steps: int = 10_000, lr: float = 1e-3, seed: int = 0):
        for name, value, low in (("bits", bits, 1), ("steps", steps, 0), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r}")
            if not low <= value <= MOST:
                raise InputError(f"{name} must be {low} to {MOST}, got {value}")
        if isinstance(lr, bool) or not isinstance(lr, (int, float)):
            raise TypeError(f"lr must be a float, got {lr!r}")
        if not 0 < lr < math.inf:
            raise InputError(f"lr must be finite and above 0, got {lr}")
        self.bits = bits
        self.steps = steps
        self.lr = lr
        self.seed = seed
        self.loss: list[float] = []
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def __repr__(self) -> str:
        return f"CentreHash(bits={self.bits}, steps={self.steps}, lr={self.lr}, seed={self.seed})"

    @torch.inference_mode(False)  # trains whatever mode the caller is in
    def fit(self, centres: Tensor) -> CentreHash:
        """Train the map; progress shows on a terminal.

        Args:
            centres: real-valued [C, D], C >= 2, one row per class.

        Returns:
            self.

        Raises:
            TypeError: not a real-valued tensor.
            InputError: wrong rank, fewer than two rows, NaN or infinite rows, identical rows only, training that diverged.
        """
        x = check_embeddings("centres", centres, least=2).to(torch.float64, copy=True)
        if (x == x[0]).all():
            raise InputError("centres has identical rows only: there is nothing to push apart")
        generator = torch.Generator().manual_seed(self.seed)
        bound = x.shape[1] ** -0.5  # the usual start of a linear layer
        weight = torch.empty(self.bits, x.shape[1], dtype=x.dtype).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(self.bits, dtype=x.dtype).uniform_(-bound, bound, generator=generator)
        p = torch.empty(self.bits, dtype=x.dtype).normal_(generator=generator)
        weight, bias, p = (t.to(x.device) for t in (weight, bias, p))
        adam = torch.optim.Adam([weight.requires_grad_(), bias.requires_grad_()], lr=self.lr)
        losses = []
        for step in tqdm(range(self.steps), desc=f"hash map, {self.bits} bits", unit="step", disable=None):
            normalised, p = _spectral_norm(weight, p)
            loss = _mean_inner_product(_sign_step(linear(x, normalised, bias)))
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
            if (step + 1) % LR_EVERY == 0:
                adam.param_groups[0]["lr"] = self.lr * (1 - step / self.steps)
        normalised = _spectral_norm(weight, p)[0].detach()
        if not (torch.isfinite(normalised).all() and torch.isfinite(bias).all() and all(map(math.isfinite, losses))):
            raise InputError(
                f"training diverged with lr={self.lr} on centres up to {x.abs().max().item():g}: scale them or lower lr"
            )
        self.weight, self.bias, self.loss = normalised, bias.detach(), losses
        return self

    @torch.no_grad()
    def transform(self, X: Tensor) -> Tensor:
        """Encode.

        Args:
            X: real-valued [N, D], any device; a tensor, or an array with ``__dlpack__`` (NumPy, CuPy), which is not copied.

        Returns:
            uint8 [N, ceil(bits / 8)] packed codes on X's device.

        Raises:
            TypeError: not a real-valued tensor.
            InputError: not fitted, wrong rank or width, no rows, NaN or infinite rows.
        """
        weight, bias = self._fitted("transform")
        X = check_embeddings("X", X)
        if X.shape[1] != weight.shape[1]:
            raise InputError(f"X must have the {weight.shape[1]} columns this CentreHash was fitted on, got {X.shape[1]}")
        weight, bias = weight.to(X.device), bias.to(X.device)
        return torch.cat([pack_bits(linear(part.to(weight.dtype), weight, bias) > 0) for part in X.split(ROWS)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; an existing one is replaced only once the new one is complete on disk.

        Raises:
            InputError: not fitted.
            OSError: the disk is full, the folder is missing or not writable; the old file stays as it was.
        """
        weight, bias = self._fitted("save")
        tensors = {"weight": weight, "bias": bias, "loss": torch.tensor(self.loss, dtype=torch.float64)}
        write_fitted(Path(path), KIND, tensors, {name: getattr(self, name) for name in ("bits", "steps", "lr", "seed")})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CentreHash:
        """Read what :meth:`save` wrote, on the CPU.

        Raises:
            InputError: no such file, another kind of file, or contents that do not fit together.
        """
        path = Path(path)
        tensors, settings = read_fitted(path, KIND, "CentreHash")
        try:
            hasher = cls(**json.loads(settings))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} has unusable settings ({error!r})") from error
        width = tensors["weight"].shape[1] if "weight" in tensors and tensors["weight"].dim() == 2 else "D"
        check_fitted(path, tensors, {"weight": [hasher.bits, width], "bias": [hasher.bits], "loss": [hasher.steps]})
        hasher.weight, hasher.bias, hasher.loss = tensors["weight"], tensors["bias"], tensors["loss"].tolist()
        return hasher

    def _fitted(self, call: str) -> tuple[Tensor, Tensor]:
        if self.weight is None or self.bias is None:
            raise InputError(f"{call} needs a fitted CentreHash: call fit(centres) first, or CentreHash.load(path)")
        return self.weight, self.bias


def _spectral_norm(weight: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """(W / sigma, p) after one power iteration."""
    with torch.no_grad():
        q = normalize(weight.T @ p, dim=0)
        p = normalize(weight @ q, dim=0)
    return weight / (p @ weight @ q), p


def _sign_step(u: Tensor) -> Tensor:
    """sign(u), with the gradient of u scaled by 1/|u|."""
    return u / (u.detach().abs() + EPS)


def _mean_inner_product(codes: Tensor) -> Tensor:
    """Mean of h_i . h_j over i != j, by (|sum_i h_i|^2 - sum_i |h_i|^2) / (C (C - 1)): no C x C matrix."""
    rows = codes.shape[0]
    return (codes.sum(dim=0).square().sum() - codes.square().sum()) / (rows * (rows - 1))
