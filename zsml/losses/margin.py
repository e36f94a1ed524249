"""Softmax losses over learnable class centres with a margin on the target: all in terms of one fused op.

Every loss is ``softplus(others - z(target))``, with the log-sum-exp over the other classes and what was measured to the own
class from :func:`zsml.ops.margin_softmax`; a loss is its measure and its z.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zsml.ops import _check

from ._centers import CentersLoss
from ._settings import between, whole
from .normalise import row_lengths, unit_rows

VARIANTS = {"plain": "distance", "squared": "squared_distance"}


class MEMSLoss(CentersLoss):
    r"""Multiplicative Euclidean margin softmax: the own centre must win although its distance counts m times.

    With :math:`d_j = \|x - c_j\|`, neither side normalised,

    .. math:: L = \frac1B \sum_i -\log \frac{e^{-m_t^2 d_y^2}}{e^{-m_t^2 d_y^2} + \sum_{j \ne y} e^{-d_j^2}}, \qquad
              m_t = 1 + (m - 1) \min(\text{step} / \text{annealing\_steps}, 1)

    The step is the number of training forwards before this one; it is part of the ``state_dict``. ``annealing_steps=0``: the full
    margin from the start. With :math:`m \ge 2 + \sqrt 3` a fit without error has every distance within a class below every
    distance to another class.

    While a margin anneals, do not run its loss under ``torch.utils.checkpoint``: the second run would have the margin of the
    next step, and give wrong gradients. Checkpoint the network, and call the loss outside.

    ``centers`` [num_classes, embedding_dim] start as unit-norm Gaussian rows, and are parameters: give them to the optimiser.
    ``modality`` is accepted, and not used.

    Source: MEMS (arXiv 1812.04275) and its published code.

    Args:
        num_classes: C. Labels are 0 to C - 1.
        embedding_dim: D.
        margin: m, a factor, positive; 1 is no margin.
        annealing_steps: training steps until the margin is m; 0: it is m at once.
        gather: the batches of all ranks of ``torch.distributed`` are one (:mod:`zsml.losses.gather`): every rank returns the loss
            of the whole batch, its rows receive the gradient of that, and centres the part of its rows (sum it over ranks).

    Raises:
        ValueError: a setting that is not such a number.

    >>> loss = MEMSLoss(num_classes=3, embedding_dim=2, margin=2.0)
    >>> _ = loss.centers.data.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)
    3.0487
    """

    measure = "squared_distance"

    def __init__(self, num_classes: int, embedding_dim: int, margin: float = 4.0, annealing_steps: int = 0, gather: bool = False):
        _check.positive(margin, "margin")
        super().__init__(num_classes, embedding_dim, float(margin), annealing_steps, gather)

    def target_logit(self, target: Tensor, embeddings: Tensor, part: Tensor | float) -> Tensor:
        return -((1 + (self.margin - 1) * part) ** 2) * target


class EMSLoss(CentersLoss):
    r"""Euclidean margin softmax: logits are distances, or with ``variant="squared"`` their squares as in :class:`MEMSLoss`.

    .. math:: L = \frac1B \sum_i -\log \frac{e^{-m_t d_y}}{e^{-m_t d_y} + \sum_{j \ne y} e^{-d_j}}, \qquad d_j = \|x - c_j\|

    with :math:`m_t`, ``centers``, ``modality`` and ``gather`` as in :class:`MEMSLoss`. Where a distance is 0 its
    gradient is 0.

    Source: "plain" is what SAKE's published code (ICCV 2019, arXiv 1904.03208) calls EMS; "squared" is the later MEMS
    (arXiv 1812.04275), whose first version bore this name.

    Args:
        num_classes: C. Labels are 0 to C - 1.
        embedding_dim: D.
        margin: m, a factor on the distance, positive; 1 is no margin.
        annealing_steps: training steps until the margin is m; 0: it is m at once.
        variant: "plain" or "squared".

    Raises:
        ValueError: a setting that is not such a number, unknown variant.

    >>> loss = EMSLoss(num_classes=3, embedding_dim=2, margin=2.0)
    >>> _ = loss.centers.data.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)
    1.394
    """

    settings = (*CentersLoss.settings, "variant")

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        margin: float = 4.0,
        annealing_steps: int = 0,
        variant: str = "plain",
        gather: bool = False,
    ):
        _check.positive(margin, "margin")
        _check.choice(variant, "variant", VARIANTS)
        super().__init__(num_classes, embedding_dim, float(margin), annealing_steps, gather)
        self.variant = variant
        self.measure = VARIANTS[variant]

    def target_logit(self, target: Tensor, embeddings: Tensor, part: Tensor | float) -> Tensor:
        margin = 1 + (self.margin - 1) * part
        return -(margin if self.variant == "plain" else margin**2) * target


class CosFaceLoss(CentersLoss):
    r"""Large margin cosine loss: the target's cosine counts m less. Embeddings and centres are L2-normalised.

    .. math:: L = \frac1B \sum_i -\log \frac{e^{s (\cos_y - \alpha m)}}{e^{s (\cos_y - \alpha m)} + \sum_{j \ne y} e^{s \cos_j}},
              \qquad \alpha = \min(\text{step} / \text{annealing\_steps}, 1)

    with the step, ``centers``, ``modality`` and ``gather`` as in :class:`MEMSLoss`. The cosines of a row of zeros are 0.

    Source: CosFace (arXiv 1801.09414), also called LMCL; annealing as in the published code of MEMS (arXiv 1812.04275).

    Args:
        num_classes: C. Labels are 0 to C - 1.
        embedding_dim: D.
        margin: m, a cosine, at least 0.
        scale: s, positive.
        annealing_steps: training steps until the whole margin counts; 0: it does at once.

    Raises:
        ValueError: a setting that is not such a number.

    >>> loss = CosFaceLoss(num_classes=2, embedding_dim=2, margin=0.5, scale=2.0)
    >>> _ = loss.centers.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> round(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
    0.3133
    """

    settings = (*CentersLoss.settings, "scale")

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        margin: float = 0.35,
        scale: float = 32.0,
        annealing_steps: int = 0,
        gather: bool = False,
    ):
        _check.positive(scale, "scale")
        super().__init__(num_classes, embedding_dim, between(margin, "margin", 0), annealing_steps, gather)
        self.scale = float(scale)

    def rows(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return unit_rows(embeddings), unit_rows(self.centers)

    def target_logit(self, target: Tensor, embeddings: Tensor, part: Tensor | float) -> Tensor:
        return self.scale * (target - part * self.margin)


class ArcFaceLoss(CosFaceLoss):
    r"""Additive angular margin loss: the target's angle counts m more. Embeddings and centres are L2-normalised.

    .. math:: L = \frac1B \sum_i -\log \frac{e^{s \psi(\theta_y)}}{e^{s \psi(\theta_y)} + \sum_{j \ne y} e^{s \cos_j}},
              \qquad \psi(\theta) = \begin{cases} \cos(\theta + \alpha m) & \theta \le \pi - \alpha m \\
                                                  \cos\theta - \alpha m \sin(\alpha m) & \text{else} \end{cases}

    The second case keeps :math:`\psi` falling where the angle would pass :math:`\pi`; it is what the authors' code does. At
    :math:`\cos\theta_y = \pm 1`, where the slope of the angle is infinite, the sine counts as constant. :math:`\alpha`,
    ``centers``, ``modality`` and ``gather`` as in :class:`CosFaceLoss`.

    Source: ArcFace (arXiv 1801.07698).

    Args:
        num_classes: C. Labels are 0 to C - 1.
        embedding_dim: D.
        margin: m, radians, 0 to pi.
        scale: s, positive.
        annealing_steps: training steps until the whole margin counts; 0: it does at once.

    Raises:
        ValueError: a setting that is not such a number.

    >>> loss = ArcFaceLoss(num_classes=2, embedding_dim=2, margin=0.5, scale=2.0)
    >>> _ = loss.centers.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> round(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
    0.1595
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        margin: float = 0.5,
        scale: float = 64.0,
        annealing_steps: int = 0,
        gather: bool = False,
    ):
        super().__init__(num_classes, embedding_dim, between(margin, "margin", 0, math.pi), scale, annealing_steps, gather)

    def target_logit(self, target: Tensor, embeddings: Tensor, part: Tensor | float) -> Tensor:
        margin = part * self.margin
        cosine, sine = (margin.cos(), margin.sin()) if isinstance(margin, Tensor) else (math.cos(margin), math.sin(margin))
        squared = 1 - target.square()  # of the sine of theta
        inside = squared > 0  # elsewhere the cosine is 1 or -1, up to rounding
        moved = target * cosine - torch.where(inside, torch.where(inside, squared, 1).sqrt(), 0) * sine  # cos(theta + margin)
        return self.scale * torch.where(target >= -cosine, moved, target - margin * sine)


class ASoftmaxLoss(CentersLoss):
    r"""Angular softmax (SphereFace): the target's angle counts m times. Centres are normalised, embeddings keep their length.

    .. math:: z_j = \|x\| \cos\theta_j, \quad z_y = \|x\| \big((1 - \alpha) \cos\theta_y + \alpha \psi(\theta_y)\big), \quad
              \psi(\theta) = (-1)^k \cos(m \theta) - 2k, \; k = \lfloor m \theta / \pi \rfloor

    and the cross-entropy of these logits, averaged over the batch. :math:`\cos(m \theta)` is the Chebyshev polynomial of
    :math:`\cos\theta`, smooth at its ends as well. :math:`\alpha`, ``centers``, ``modality`` and ``gather`` as in
    :class:`CosFaceLoss`.

    Source: SphereFace (arXiv 1704.08063), eq. 7, blended linearly as in the published code of MEMS (arXiv 1812.04275).

    Args:
        num_classes: C. Labels are 0 to C - 1.
        embedding_dim: D.
        margin: m, a whole factor on the angle, at least 1 (no margin).
        annealing_steps: training steps until the whole margin counts; 0: it does at once.

    Raises:
        ValueError: a setting that is not such a number.

    >>> loss = ASoftmaxLoss(num_classes=2, embedding_dim=2, margin=2)
    >>> _ = loss.centers.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> round(loss(torch.tensor([[1.0, 1.0]]), torch.tensor([0])).item(), 4)
    1.3133
    """

    def __init__(self, num_classes: int, embedding_dim: int, margin: int = 4, annealing_steps: int = 0, gather: bool = False):
        super().__init__(num_classes, embedding_dim, whole(margin, "margin", 1), annealing_steps, gather)

    def rows(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return embeddings, unit_rows(self.centers)

    def target_logit(self, target: Tensor, embeddings: Tensor, part: Tensor | float) -> Tensor:
        length = row_lengths(embeddings).to(target.dtype)  # [B]
        cosine = target / torch.where(length > 0, length, 1)
        angle = cosine.detach().clamp(-1, 1).acos()
        k = (self.margin / math.pi * angle).floor()
        psi = (1 - 2 * (k % 2)) * _chebyshev(cosine, self.margin) - 2 * k
        return length * ((1 - part) * cosine + part * psi)


def _chebyshev(c: Tensor, n: int) -> Tensor:
    """cos(n arccos c), n >= 1."""
    before, now = torch.ones_like(c), c
    for _ in range(n - 1):
        before, now = now, 2 * c * now - before
    return now
