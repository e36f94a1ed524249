"""The comparisons of losses: forward and backward of a whole loss, against the same loss by other means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zsml.losses
from zsml.bench import measure, peers_contrastive, peers_margin, peers_pairs, truth_losses
from zsml.bench.case import Case, Provider, Unable
from zsml.bench.truth_losses import Batch, Step

WIDTH = 512  # of embeddings
BOTH = ("cpu", "cuda")
WHOLE = "loss, forward + backward"
ALONE = "product alone"
MARGIN_BATCH, MARGIN_WIDTH = 256, 128  # samples, and their width, in the comparison over classes

Make = Callable[[Any], Callable[[], Any]]


def draw_batch(B: int, device: str) -> Batch:
    """Clustered embeddings [B, WIDTH], 8 per class, half sketches half photos: what a class-by-modality sampler yields."""
    generator = torch.Generator().manual_seed(B)
    labels = torch.arange(B) // 8
    centres = torch.randn(int(labels.max()) + 1, WIDTH, generator=generator)
    x = F.normalize(centres[labels] + 0.8 * torch.randn(B, WIDTH, generator=generator), dim=1)
    order = torch.randperm(B, generator=generator)
    return Batch(x[order].to(device), labels[order].to(device), (torch.arange(B) % 2)[order].to(device))


def draw_classes(C: int, device: str) -> Batch:
    """Unit-length centres [C, MARGIN_WIDTH] and samples around those of random classes."""
    generator = torch.Generator().manual_seed(C)
    centers = F.normalize(torch.randn(C, MARGIN_WIDTH, generator=generator), dim=1)
    labels = torch.randint(0, C, (MARGIN_BATCH,), generator=generator)
    noise = F.normalize(torch.randn(MARGIN_BATCH, MARGIN_WIDTH, generator=generator), dim=1)
    return Batch((centers[labels] + 0.8 * noise).to(device), labels.to(device), centers=centers.to(device))


def fits(batch: Batch, bytes_per_pair: int) -> None:
    """Raise Unable where this much for every pair is more than the machine has: the system would end the whole process."""
    needed = bytes_per_pair * len(batch.x) * len(batch.x if batch.centers is None else batch.centers)
    if batch.x.device.type == "cpu" and needed > measure.available_memory():
        raise Unable(f"needs about {needed / 2**30:,.1f} GiB")


def timed(loss: Callable[..., Tensor], bytes_per_pair: int = 0) -> Make:
    """Of a loss(x, labels, modality)."""

    def make(batch: Batch) -> Callable[[], Step]:
        fits(batch, bytes_per_pair)
        return partial(truth_losses.step, loss, batch)

    return make


def timed_with_centers(loss: Callable[..., Tensor], bytes_per_pair: int = 0) -> Make:
    """Of a loss(x, centers, labels)."""

    def make(batch: Batch) -> Callable[[], Step]:
        fits(batch, bytes_per_pair)
        centers = batch.centers.detach().requires_grad_()
        return partial(_step, lambda x, labels: loss(x, centers, labels), centers, batch)

    return make


def _step(loss: Callable[..., Tensor], centers: Tensor, batch: Batch, transposed: bool = False) -> Step:
    """Of a loss(x, labels) that has centres."""
    centers.grad = None
    x = batch.x.detach().requires_grad_()
    value = loss(x, batch.labels)
    value.backward()
    return Step(value.detach(), x.grad, centers.grad.T if transposed else centers.grad)


def product_of(batch: Batch) -> Callable[[], Tensor]:
    return peers_pairs.product(batch.x if batch.centers is None else batch.centers, batch.x)


# ---- the ops -----------------------------------------------------------------------------------------------------------------


def hardest_pairs(sizes: Sequence[str]) -> list[Case]:
    """MATHMLoss of B embeddings."""
    providers = [
        Provider("zsml", timed(zsml.losses.MATHMLoss()), devices=BOTH),
        Provider("published", timed(peers_pairs.published, 40), devices=BOTH),
        Provider("dense", timed(peers_pairs.dense, 50), devices=BOTH),
        Provider("dense-compiled", timed(peers_pairs.compiled_dense, 20), devices=BOTH),
        Provider("chunked-compiled", timed(peers_pairs.chunked_compiled), devices=BOTH),
        Provider("pytorch-metric-learning", _after_import(timed(peers_pairs.metric_learning, 14))),
        Provider("torch-product", product_of, mode=ALONE, devices=BOTH),
    ]
    return [
        Case(
            op="hardest_pairs", size=size, name=f"B = {size}", mode="MATHMLoss, forward + backward", dtype="float32",
            shape={"B": int(size), "D": WIDTH}, draw=partial(draw_batch, int(size)), truth=truth_losses.pairs_by_hand,
            check=partial(truth_losses.check_loss, allowed=truth_losses.SWAPPED_ERROR), providers=providers,
        )
        for size in sizes
    ]  # fmt: skip


def supcon(sizes: Sequence[str]) -> list[Case]:
    """SupConLoss and NTXentLoss of N embeddings."""

    def providers(name: str) -> list[Provider]:
        summed = peers_contrastive.SUMS[name]
        compiled = torch.compile(summed, dynamic=False)
        ours = getattr(zsml.losses, name)(temperature=peers_contrastive.TEMPERATURE)
        return [
            Provider("zsml", timed(ours), devices=BOTH),
            Provider("dense", timed(peers_contrastive.dense(name, summed), 50), devices=BOTH),
            Provider("dense-compiled", timed(peers_contrastive.dense(name, compiled), 12), devices=BOTH),
            Provider("chunked-compiled", timed(peers_contrastive.chunked(name, compiled)), devices=BOTH),
            Provider("pytorch-metric-learning", partial(_contrastive_of_library, name), once=name == "NTXentLoss"),
            Provider("torch-product", product_of, mode=ALONE, devices=BOTH),
        ]

    return [
        Case(
            op="supcon", size=size, name=f"{name}, N = {size}", mode=WHOLE, dtype="float32",
            shape={"N": int(size), "D": WIDTH}, draw=partial(draw_batch, int(size)),
            truth=truth_losses.contrastive_by_hand(name == "NTXentLoss", peers_contrastive.TEMPERATURE),
            check=truth_losses.check_loss, providers=providers(name),
        )
        for size in sizes for name in peers_contrastive.SUMS
    ]  # fmt: skip


def margin_softmax(sizes: Sequence[str]) -> list[Case]:
    """CosFaceLoss and MEMSLoss over C classes."""

    def providers(name: str) -> list[Provider]:
        dense = peers_margin.dense(name)
        found = [
            Provider("zsml", partial(_zsml_with_centers, name), devices=BOTH),
            Provider("dense", timed_with_centers(dense, 24), devices=BOTH),
            Provider("dense-compiled", timed_with_centers(torch.compile(dense, dynamic=False), 16), devices=BOTH),
            Provider("chunked-compiled", timed_with_centers(peers_margin.chunked(name)), devices=BOTH),
            Provider("torch-product", product_of, mode=ALONE, devices=BOTH),
        ]
        if name == "MEMSLoss":
            cdist = timed_with_centers(peers_margin.dense(name, peers_margin.cdist_squared), 24)
            return [*found, Provider("torch.cdist", cdist, devices=BOTH)]
        return [*found, Provider("pytorch-metric-learning", _cosface_of_library)]

    def case(name: str, size: str) -> Case:
        logits, own, unit = peers_margin.LOSSES[name]
        return Case(
            op="margin_softmax", size=size, name=f"{name}, C = {int(size):,}", mode=WHOLE, dtype="float32",
            shape={"B": MARGIN_BATCH, "D": MARGIN_WIDTH, "C": int(size)}, draw=partial(draw_classes, int(size)),
            truth=truth_losses.margin_by_hand(peers_margin.with_margin(logits, own), unit),
            check=truth_losses.check_loss, providers=providers(name),
        )  # fmt: skip

    return [case(name, size) for size in sizes for name in peers_margin.LOSSES]


# ---- providers that are modules ------------------------------------------------------------------------------------------------


def _after_import(make: Make) -> Make:
    """The import is not timed, and its failure leaves the provider out."""

    def made(batch: Batch) -> Callable[[], Any]:
        import pytorch_metric_learning  # noqa: F401

        return make(batch)

    return made


def _contrastive_of_library(name: str, batch: Batch) -> Callable[[], Step]:
    return partial(truth_losses.step, peers_contrastive.metric_learning(name, batch), batch)


def _zsml_with_centers(name: str, batch: Batch) -> Callable[[], Step]:
    if name == "CosFaceLoss":
        options = {"margin": peers_margin.MARGIN, "scale": peers_margin.SCALE}
    else:
        options = {"margin": peers_margin.FACTOR}
    loss = getattr(zsml.losses, name)(*batch.centers.shape, **options)
    loss.centers = nn.Parameter(batch.centers)
    return partial(_step, loss, loss.centers, batch)


def _cosface_of_library(batch: Batch) -> Callable[[], Step]:
    from pytorch_metric_learning.losses import CosFaceLoss

    fits(batch, 24)
    loss = CosFaceLoss(*batch.centers.shape, margin=peers_margin.MARGIN, scale=peers_margin.SCALE)
    loss.W = nn.Parameter(batch.centers.T.contiguous())
    return partial(_step, loss, loss.W, batch, transposed=True)
