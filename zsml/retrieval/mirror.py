"""Distances between images that have two embeddings each: their own and that of their mirror image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from zsml.errors import InputError
from zsml.ops._arrays import as_tensor
from zsml.retrieval.checks import check_embeddings
from zsml.retrieval.squared import SquaredDistances

__all__ = ["MirrorDistances", "mirror_distances"]

DISTANCES = ("euclidean", "cosine")


class MirrorDistances:
    """The least of the distances between the V embeddings of a query and the V embeddings of a gallery item,

        "euclidean":  d(q, g) = min_{i, j} ||q_i - g_j||^2           (squared, not normalised)
        "cosine":     d(q, g) = min_{i, j} arccos(cos(q_i, g_j))     (the angle; the cosine is clamped to -1 ... 1)

    with V = 2, image and mirror image: the four combinations that the published code of MEMS (repository SBIR-DASE-MEMS) takes
    the minimum of, the angle for embeddings trained with a softmax of cosines. An embedding of zeros is at a right angle to all.

    Args:
        gallery: real-valued [N, V, D]; a float64 copy of it is held.
        distance: "euclidean" | "cosine".

    Raises:
        TypeError: not a real-valued tensor.
        InputError: wrong rank, nothing in it, NaN or infinite rows, unknown distance.

    >>> photos = torch.tensor([[[0.0, 3.0], [3.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    >>> MirrorDistances(photos)(torch.tensor([[[3.0, 0.0], [2.0, 2.0]]]))
    tensor([[0., 2.]])
    """

    def __init__(self, gallery: Tensor, distance: str = "euclidean"):
        if distance not in DISTANCES:
            raise InputError(f"distance must be one of {', '.join(map(repr, DISTANCES))}, got {distance!r}")
        gallery = _checked("gallery", gallery)
        self.distance, self.shape, self.dtype, self.device = distance, gallery.shape, gallery.dtype, gallery.device
        rows = gallery.flatten(0, 1).double()
        if distance == "cosine":
            self._unit = normalize(rows, eps=0).nan_to_num_()  # [N V, D]
        else:
            self._squared = SquaredDistances(rows)

    def describe(self) -> str:
        """The distance in words, to stand beside numbers."""
        kind = "angle" if self.distance == "cosine" else "squared Euclidean distance"
        return f"{kind}, the least over image and mirror image of both sides"

    def __call__(self, query: Tensor) -> Tensor:
        """[q, N], float32 (float64 if queries or gallery are), for real-valued [q, V, D] on the gallery's device.

        Raises:
            TypeError, InputError: as above; another V, D or device than the gallery's.
        """
        query = _checked("query", query)
        size, views, width = self.shape
        if query.shape[1:] != self.shape[1:]:
            raise InputError(f"query must have shape [q, {views}, {width}] as the gallery's items, got {list(query.shape)}")
        if query.device != self.device:
            raise InputError(f"query must be on the gallery's device, {self.device}, got {query.device}")
        rows = query.flatten(0, 1).double()  # [q V, D]
        if self.distance == "cosine":
            pairs = (normalize(rows, eps=0).nan_to_num_() @ self._unit.T).clamp_(-1, 1).acos_()
        else:
            pairs = self._squared(rows)
        least = pairs.reshape(len(query), views, size, views).amin(dim=(1, 3))
        return least.to(torch.promote_types(torch.promote_types(query.dtype, self.dtype), torch.float32))


@torch.no_grad()
def mirror_distances(query: Tensor, gallery: Tensor, distance: str = "euclidean") -> Tensor:
    """All distances at once, [Q, N]; for large sets hand blocks of queries to :class:`MirrorDistances`.

    Args, Raises: as there.

    >>> sketches, photos = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[-2.0, 0.0], [0.0, -2.0]]])
    >>> round(float(mirror_distances(sketches, photos, "cosine")), 4)  # a right angle is the least of the four
    1.5708
    """
    return MirrorDistances(gallery, distance)(query)


def _checked(name: str, x: Tensor) -> Tensor:
    x = as_tensor(x, name)
    if isinstance(x, Tensor) and (x.dim() != 3 or 0 in x.shape):
        raise InputError(f"{name} must have shape [rows, V, D] with nothing empty, got {list(x.shape)}")
    check_embeddings(name, x.flatten(1) if isinstance(x, Tensor) else x)
    return x.detach()
