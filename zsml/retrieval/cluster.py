"""One-to-many matching: a query meets the cluster of a photo, not only the photo."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.retrieval.checks import check_embeddings
from zsml.retrieval.cluster_fit import MODELS, check_codewords, fit_codewords
from zsml.retrieval.fitted_file import check_fitted, read_fitted, write_fitted
from zsml.retrieval.squared import SquaredDistances, squares_between

__all__ = ["ClusterMatcher"]

KIND = "zsml.cluster_matcher"  # marks the file
GIVEN = "codewords"  # the model of a matcher whose codewords were not fitted here
MOST = 2**32 - 1
BLOCK = 1 << 22  # distances computed at a time, about 40 bytes each


class ClusterMatcher:
    """Distance of a query to a photo's clusters, mixed with that to the photo itself.

    The D coordinates are cut into M equal blocks. In block m a mixture of K Gaussians is fitted to the gallery, whose means are
    the codewords w_{m,1} ... w_{m,K}; photo p has the codes c_m(p) = argmin_k ||p_m - w_{m,k}||, and

        d(q, p) = (1 - fuse) sum_m ||q_m - w_{m, c_m(p)}||^2  +  fuse ||q - p||

    (the second term is not squared). Equal distances, of which there are many where fuse is 0, are ordered by ||q - p||, then by
    gallery index: see :meth:`rank`.

    This is the matching published with SBKA (K near the number of classes, M 2 or 4, fuse 0.2); with ``model="kmeans"`` that of
    ClusterRetri (arXiv 2301.06685). Both apply it to L2-normalised embeddings; here they are taken as given. It needs the whole
    gallery before the first query: results are transductive. Choosing M or K by scores of the test set is choosing on the test
    set; by default K comes from the gallery alone, by BIC (:func:`zsml.retrieval.cluster_fit.choose_components`: 1 to 128).

    Args:
        n_blocks: M >= 1, a divisor of D.
        n_components: K, 1 to the number of gallery rows; None: chosen on the gallery, without labels.
        model: "gmm_full" | "gmm_diag" | "gmm_spherical" (scikit-learn's mixtures, by their covariance, with its defaults: started
            from k-means, at most 100 iterations) | "kmeans" (best of 10 starts).
        fuse: 0 to 1.
        seed: of the fits, 0 to 2^32 - 1.

    Attributes (after ``fit``, ``from_codewords`` or ``load``):
        codewords: [M, K, D / M], float32 (float64 for a float64 gallery), on the gallery's device; codes: int64 [N, M].
        bic: {K: criterion} if K was chosen, else empty.

    Raises:
        TypeError, InputError: a value outside what is listed above.

    >>> photos = torch.tensor([[0.0, 0.0], [0.2, 0.0], [4.0, 0.0], [4.2, 0.0]])
    >>> matcher = ClusterMatcher(n_blocks=1, n_components=2).fit(photos)
    >>> [round(d, 3) for d in matcher.distances(torch.tensor([[0.0, 0.0]]))[0].tolist()]
    [0.008, 0.048, 14.248, 14.288]
    """

    def __init__(
        self, n_blocks: int = 2, n_components: int | None = None, model: str = "gmm_full", fuse: float = 0.2, seed: int = 123
    ):
        for name, value, low in (("n_blocks", n_blocks, 1), ("n_components", n_components, 1), ("seed", seed, 0)):
            if name == "n_components" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int{' or None' if name == 'n_components' else ''}, got {value!r}")
            if not low <= value <= MOST:
                raise InputError(f"{name} must be {low} to {MOST}, got {value}")
        if model not in MODELS:
            raise InputError(f"model must be one of {', '.join(map(repr, MODELS))}, got {model!r}")
        self.n_blocks = n_blocks
        self.n_components = n_components
        self.model = model
        self.fuse = _checked_fuse(fuse)
        self.seed = seed
        self.bic: dict[int, float] = {}
        self.codewords: Tensor | None = None
        self.codes: Tensor | None = None

    def __repr__(self) -> str:
        settings = ("n_blocks", "n_components", "model", "fuse", "seed")
        return f"ClusterMatcher({', '.join(f'{name}={getattr(self, name)!r}' for name in settings)})"

    def describe(self) -> str:
        """The distance in words, to stand beside numbers.

        >>> ClusterMatcher.from_codewords(torch.zeros(1, 2, 3), torch.ones(4, 3)).describe()
        '0.8 x squared distance to the cluster (M=1, K=2, codewords) + 0.2 x Euclidean distance, ties by Euclidean distance'
        """
        blocks, components, _ = self._fitted("describe")[0].shape
        how = self.model + (", K by BIC" if self.n_components is None else "")
        how += "" if self.model == GIVEN else ", fitted on the whole gallery: transductive"
        return (
            f"{1 - self.fuse:g} x squared distance to the cluster (M={blocks}, K={components}, {how}) "
            f"+ {self.fuse:g} x Euclidean distance, ties by Euclidean distance"
        )

    @torch.no_grad()
    def fit(self, gallery: Tensor) -> ClusterMatcher:
        """Find codewords and codes; progress shows on a terminal.

        Args:
            gallery: real-valued [N, D], any device; a tensor, or an array with ``__dlpack__`` (NumPy, CuPy).

        Returns:
            self.

        Raises:
            TypeError: not a real-valued tensor.
            InputError: wrong rank, NaN or infinite rows, D not a multiple of n_blocks, n_components more than the distinct rows.
        """
        gallery = _wide(check_embeddings("gallery", gallery))
        rows, width = gallery.shape
        if width % self.n_blocks:
            raise InputError(f"n_blocks={self.n_blocks} does not divide the {width} columns of gallery into equal blocks")
        if self.n_components is not None and self.n_components > rows:
            raise InputError(f"n_components={self.n_components} is more than the {rows} rows of gallery")
        x = gallery.to("cpu", torch.float64)
        codewords, self.bic = fit_codewords(x, self.n_blocks, self.n_components, self.model, self.seed)
        self._keep(codewords.to(gallery), gallery)
        return self

    @classmethod
    def from_codewords(cls, codewords: Tensor, gallery: Tensor, fuse: float = 0.2) -> ClusterMatcher:
        """A matcher with codewords from elsewhere.

        Args:
            codewords: real-valued [M, K, D / M]; gallery: real-valued [N, D], on the same device; fuse: 0 to 1.

        Raises:
            TypeError: not real-valued tensors.
            InputError: wrong rank or widths, NaN or infinite values, different devices, fuse out of range.
        """
        gallery = _wide(check_embeddings("gallery", gallery))
        codewords = check_codewords(codewords, gallery)
        blocks, components, _ = codewords.shape
        matcher = cls(blocks, components, fuse=fuse)
        matcher.model = GIVEN
        matcher._keep(codewords.to(torch.promote_types(codewords.dtype, gallery.dtype), copy=True), gallery)
        return matcher

    def _keep(self, codewords: Tensor, gallery: Tensor) -> None:
        self.codewords, self._gallery, self._squared = codewords, gallery, SquaredDistances(gallery)
        parts = zip(_blocks(self._squared.gallery, codewords), codewords.double(), strict=True)
        self.codes = torch.stack([squares_between(part, words).argmin(dim=1) for part, words in parts], dim=1)

    @torch.no_grad()
    def distances(self, query: Tensor) -> Tensor:
        """d(q, p) of every query to every photo.

        Args:
            query: real-valued [Q, D], on the gallery's device.

        Returns:
            [Q, N], float32 (float64 if queries or gallery are float64), as a whole: for large sets hand :meth:`keys` to
            :func:`zsml.metrics.evaluate_distances`, or ask :meth:`rank` for the nearest.

        Raises:
            TypeError: not a real-valued tensor.
            InputError: not fitted, wrong rank or width or device, no rows, NaN or infinite rows.
        """
        query, dtype = self._checked(query, "distances")
        found = torch.empty(len(query), len(self._gallery), dtype=dtype, device=query.device)
        step = max(1, BLOCK // len(self._gallery))
        for first in range(0, len(query), step):
            found[first : first + step] = self._pair(query[first : first + step])[0]
        return found

    def keys(self, query: Tensor) -> Callable[[int, int], tuple[Tensor, Tensor]]:
        """What :func:`zsml.metrics.evaluate_distances` takes: (start, stop) -> d(q, p) and ||q - p|| [stop - start, N].

        Args, Raises: as :meth:`distances`.

        >>> photos = torch.eye(4)
        >>> keys = ClusterMatcher.from_codewords(torch.zeros(2, 1, 2), photos).keys(torch.zeros(3, 4))
        >>> [tuple(block.shape) for block in keys(0, 2)]
        [(2, 4), (2, 4)]
        """
        query, dtype = self._checked(query, "keys")
        return torch.no_grad()(lambda start, stop: tuple(x.to(dtype) for x in self._pair(query[start:stop])))

    @torch.no_grad()
    def rank(self, query: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
        """The k nearest photos (all of them if None): distance [Q, k] and index int64 [Q, k], by (d, ||q - p||, index).

        Args:
            query: as :meth:`distances`.
            k: 1 to N.

        Raises:
            TypeError, InputError: as :meth:`distances`; k out of range.

        >>> photos = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0]])
        >>> ClusterMatcher.from_codewords(torch.zeros(1, 1, 2), photos, fuse=0).rank(torch.zeros(1, 2))[1]
        tensor([[0, 2, 1]])
        """
        query, dtype = self._checked(query, "rank")
        size = len(self._gallery)
        k = size if k is None else k
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"k must be an int or None, got {k!r}")
        if not 1 <= k <= size:
            raise InputError(f"k must be 1 to the {size} rows of gallery, got {k}")
        distance = torch.empty(len(query), k, dtype=dtype, device=query.device)
        index = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
        step = max(1, BLOCK // size)
        for first in range(0, len(query), step):
            d, euclidean = (x.to(dtype) for x in self._pair(query[first : first + step]))
            order = euclidean.argsort(dim=1, stable=True)
            by_distance = d.gather(1, order).sort(dim=1, stable=True)
            distance[first : first + step] = by_distance.values[:, :k]
            index[first : first + step] = order.gather(1, by_distance.indices)[:, :k]
        return distance, index

    def _pair(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """float64 [q, N]: d and ||q - p||."""
        parts = _blocks(query.double(), self.codewords)
        clusters = torch.zeros(len(query), len(self._gallery), dtype=torch.float64, device=query.device)
        for part, words, codes in zip(parts, self.codewords.double(), self.codes.T, strict=True):
            clusters += squares_between(part, words).index_select(1, codes)  # [q, K] -> [q, N]
        euclidean = self._squared(query).sqrt_()
        return clusters.mul_(1 - self.fuse).add_(euclidean, alpha=self.fuse), euclidean

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codewords and gallery as a safetensors file; an existing one is replaced only by a complete one.

        Raises:
            InputError: not fitted.
            OSError: the disk is full, the folder is missing or not writable; the old file stays as it was.
        """
        codewords, gallery = self._fitted("save")
        settings = {name: getattr(self, name) for name in ("n_components", "model", "fuse", "seed", "bic")}
        tensors = {"codewords": codewords.double().contiguous(), "gallery": gallery.double().contiguous()}
        dtypes = {"dtypes": [str(x.dtype).removeprefix("torch.") for x in (codewords, gallery)]}
        write_fitted(Path(path), KIND, tensors, settings | dtypes)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClusterMatcher:
        """Read what :meth:`save` wrote, on the CPU.

        Raises:
            InputError: no such file, another kind of file, or contents that do not fit together.
        """
        path = Path(path)
        tensors, text = read_fitted(path, KIND, "ClusterMatcher")
        words, photos = (list(tensors[name].shape) if name in tensors else [] for name in ("codewords", "gallery"))
        if not (len(words) == 3 and len(photos) == 2 and words[0] * words[2] == photos[1] and 0 not in (*words, *photos)):
            words, photos = ["M", "K", "D / M"], ["N", "D"]
        check_fitted(path, tensors, {"codewords": words, "gallery": photos})
        try:
            settings = json.loads(text)
            dtypes = [{"float32": torch.float32, "float64": torch.float64}[name] for name in settings.pop("dtypes")]
            bic = {int(k): float(value) for k, value in settings.pop("bic").items()}
            model = settings.pop("model")
            matcher = cls(words[0], model=MODELS[0] if model == GIVEN else model, **settings)
            codewords, gallery = (tensors[name].to(d) for name, d in zip(("codewords", "gallery"), dtypes, strict=True))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} has unusable settings ({error!r})") from error
        matcher.model, matcher.bic = model, bic
        matcher._keep(codewords, gallery)
        return matcher

    def _fitted(self, call: str) -> tuple[Tensor, Tensor]:
        if self.codewords is None:
            raise InputError(f"{call} needs a fitted ClusterMatcher: call fit(gallery) first, or from_codewords, or load(path)")
        return self.codewords, self._gallery

    def _checked(self, query: Tensor, call: str) -> tuple[Tensor, torch.dtype]:
        """The query, and the dtype of its distances."""
        gallery = self._fitted(call)[1]
        query = check_embeddings("query", query)
        if query.shape[1] != gallery.shape[1]:
            raise InputError(f"query must have the {gallery.shape[1]} columns of the gallery, got {query.shape[1]}")
        if query.device != gallery.device:
            raise InputError(f"query must be on the gallery's device, {gallery.device}, got {query.device}")
        return query, torch.promote_types(query.dtype, gallery.dtype)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)


def _blocks(x: Tensor, codewords: Tensor) -> tuple[Tensor, ...]:
    """The M blocks of x [n, D], each [n, D / M]."""
    return x.reshape(len(x), len(codewords), -1).unbind(dim=1)


def _checked_fuse(fuse: float) -> float:
    if isinstance(fuse, bool) or not isinstance(fuse, (int, float)):
        raise TypeError(f"fuse must be a float, got {fuse!r}")
    if not (math.isfinite(fuse) and 0 <= fuse <= 1):
        raise InputError(f"fuse must be 0 to 1, got {fuse}")
    return float(fuse)
