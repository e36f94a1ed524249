"""The clusters of a gallery: where they are, by scikit-learn, and how many there are, without labels."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from tqdm import tqdm

from zsml.errors import InputError
from zsml.ops._arrays import as_tensor
from zsml.retrieval.checks import check_embeddings

__all__ = ["MODELS", "RANGE", "check_codewords", "choose_components", "fit_codewords"]

MODELS = ("gmm_full", "gmm_diag", "gmm_spherical", "kmeans")
RESTARTS = 10  # of k-means; the mixtures start once, from k-means, as published
RANGE = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 48, 56, 64, 80, 96, 128)  # numbers tried
FEWEST, MOST = 8, 16  # principal components that the criterion sees, one more for every
ROWS_PER_DIRECTION = 500
ROWS_AT_LEAST = 8  # for each of them, in galleries of a few rows
ROWS = 4000  # gallery rows that it sees, drawn at random
ROWS_PER_UNKNOWN = 2  # rows a component must have for each of its mean's coordinates


def choose_components(gallery: Tensor, seed: int) -> tuple[int, dict[int, float]]:
    """The number of components of a Gaussian mixture over the gallery, and the criterion of every number tried (least wins).

    With V the projection of the gallery (of at most 4,000 of its rows, drawn with ``seed``) onto its leading principal components
    and a full-covariance mixture of K components fitted to V by maximum likelihood L_K (Schwarz, "Estimating the dimension of a
    model", 1978),

        BIC(K) = -2 log L_K + p_K log n,    p_K = K (d + d (d + 1) / 2) + K - 1,
        V [n, d],                           d = min(8 + floor(n / 500), 16, n / 8, D).

    In all coordinates of an embedding p_K is so large that BIC would nearly always say 1; with diagonal or spherical covariances
    it says far too many, because classes are not round. K ranges over :data:`RANGE` as far as n allows (n >= 2 d K), whatever
    model and number of blocks the matching itself then uses.

    Args:
        gallery: float64 [N, D], finite, on the CPU.

    >>> centres = 9 * torch.eye(4, dtype=torch.float64).repeat_interleave(30, dim=0)
    >>> spread = torch.randn(120, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> choose_components(centres + spread, seed=0)[0]
    4
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    generator = torch.Generator().manual_seed(seed)
    if len(gallery) > ROWS:
        gallery = gallery[torch.randperm(len(gallery), generator=generator)[:ROWS].sort().values]
    centred = gallery - gallery.mean(dim=0)
    most = min(MOST, FEWEST + len(gallery) // ROWS_PER_DIRECTION, max(1, len(gallery) // ROWS_AT_LEAST))
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :most]
    projected = centred @ directions  # [n, d]
    scale = projected.square().mean().sqrt()
    projected = (projected / scale if scale > 0 else projected).numpy()  # the fit's own constants suppose lengths around 1
    candidates = [k for k in RANGE if k == 1 or ROWS_PER_UNKNOWN * projected.shape[1] * k <= len(projected)]
    if len(candidates) == 1:
        return 1, {}
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough to compare
        for k in tqdm(candidates, desc="number of clusters", unit="fit", disable=None, leave=False):
            found[k] = float(GaussianMixture(k, random_state=seed).fit(projected).bic(projected))
    return min(found, key=found.__getitem__), found


def fit_codewords(x: Tensor, blocks: int, components: int | None, model: str, seed: int) -> tuple[Tensor, dict[int, float]]:
    """float64 [M, K, D / M], the means of a mixture (the centres of k-means) in each block of coordinates, and how K was chosen.

    Args:
        x: float64 [N, D], finite, on the CPU; D a multiple of ``blocks``.
        components: K; None: by :func:`choose_components`, but not more than there are distinct rows.
        model: of :data:`MODELS`.

    Raises:
        InputError: fewer than K distinct rows in a block.

    >>> x = torch.tensor([[0.0], [0.2], [5.0], [5.2]], dtype=torch.float64)
    >>> fit_codewords(x, 1, 2, "kmeans", seed=0)[0].sort(dim=1).values.round(decimals=6).tolist()
    [[[0.1], [5.1]]]
    """
    found: dict[int, float] = {}
    wanted = components
    if wanted is None:
        wanted, found = choose_components(x, seed)
    parts = x.reshape(len(x), blocks, -1).unbind(dim=1)  # M times [N, D / M]
    for number, part in enumerate(parts if wanted > 1 else ()):
        distinct = len(part.unique(dim=0))
        if components is None:
            wanted = min(wanted, distinct)
        elif wanted > distinct:
            raise InputError(
                f"n_components={wanted} is more than the {distinct} distinct rows of gallery in block {number} of {blocks}"
            )
    bar = tqdm(parts, desc=f"clusters, {wanted} per block", unit="block", disable=None)
    return torch.stack([_means(part, wanted, model, seed) for part in bar]), found


def _means(x: Tensor, components: int, model: str, seed: int) -> Tensor:
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    if components == 1:
        return x.mean(dim=0, keepdim=True)
    if model == "kmeans":
        return torch.from_numpy(KMeans(components, n_init=RESTARTS, random_state=seed).fit(x.numpy()).cluster_centers_)
    mixture = GaussianMixture(components, covariance_type=model.removeprefix("gmm_"), random_state=seed)
    return torch.from_numpy(mixture.fit(x.numpy()).means_)


def check_codewords(codewords: Tensor, gallery: Tensor) -> Tensor:
    """``codewords``, if they are finite, real and [M, K, D / M] for the gallery's D columns, on its device."""
    codewords = as_tensor(codewords, "codewords")
    if not isinstance(codewords, Tensor):
        raise TypeError(f"codewords must be a torch tensor of shape [M, K, D / M], got {type(codewords).__name__}")
    if codewords.dim() != 3 or 0 in codewords.shape:
        raise InputError(f"codewords must have shape [M, K, D / M] with nothing empty, got {list(codewords.shape)}")
    if codewords.device != gallery.device:
        raise InputError(f"codewords and gallery must be on one device, got {codewords.device} and {gallery.device}")
    blocks, _, width = codewords.shape
    check_embeddings("codewords", codewords.reshape(-1, width))
    if blocks * width != gallery.shape[1]:
        raise InputError(
            f"codewords must have shape [M, K, D / M] with the {gallery.shape[1]} columns of gallery in M blocks, "
            f"got {list(codewords.shape)}: {blocks} * {width} = {blocks * width}"
        )
    return codewords.detach()
