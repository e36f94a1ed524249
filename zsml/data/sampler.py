"""Which samples make a batch: P classes with K samples of each modality, or sketches and photos at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from zsml.data.keys import torch_stream
from zsml.errors import InputError


class EpochSampler(Sampler[list[int]]):
    """Batches that are a function of the epoch chosen, as many in each."""

    batches_per_epoch: int
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration gives."""
        if epoch < 0:
            raise InputError(f"epoch={epoch} must be 0 or more")
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_epoch


class ClassModalityBatchSampler(EpochSampler):
    """Every batch: P classes drawn without repetition, of each class K samples of each modality that the data has.

    A sample comes twice in a batch only where a class has fewer than K. On several ranks each batch is one draw of
    world_size * P classes, of which each rank gets its own P. Batch b of epoch e is a function of (seed, e, b, rank) alone, so
    training can resume anywhere. Usable as ``batch_sampler`` of a DataLoader.

    Args:
        labels: class of each sample, int64 [N].
        modality: modality of each sample, int64 [N].
        classes_per_batch: P.
        samples_per_modality: K.
        batches_per_epoch: how many batches an epoch has, on each rank.
        seed, rank, world_size: see above.

    Raises:
        InputError: lengths differ, a number is out of range, a class lacks a modality, or there are fewer than
            world_size * P classes.

    >>> labels, modality = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 1, 0, 1])
    >>> sampler = ClassModalityBatchSampler(labels, modality, classes_per_batch=2, samples_per_modality=1, batches_per_epoch=3)
    >>> [len(batch) for batch in sampler]
    [4, 4, 4]
    """

    def __init__(
        self, labels: Tensor | Sequence[int], modality: Tensor | Sequence[int], *, classes_per_batch: int,
        samples_per_modality: int, batches_per_epoch: int, seed: int = 0, rank: int = 0, world_size: int = 1,
    ):  # fmt: skip
        labels, modality = _ids("labels", labels), _ids("modality", modality)
        if len(labels) != len(modality):
            raise InputError(f"labels has {len(labels)} entries, modality {len(modality)}; give one of each per sample")
        least = {"classes_per_batch": 1, "samples_per_modality": 1, "batches_per_epoch": 1, "world_size": 1, "rank": 0, "seed": 0}
        _check_numbers(locals(), least)
        _check_rank(rank, world_size)
        self.members = _members(labels, modality)
        needed = classes_per_batch * world_size
        if len(self.members) < needed:
            ranks = "" if world_size == 1 else f" on each of {world_size} ranks"
            raise InputError(
                f"classes_per_batch={classes_per_batch}{ranks} needs {needed} classes, labels has {len(self.members)}; lower it"
            )
        self.classes_per_batch, self.samples_per_modality = classes_per_batch, samples_per_modality
        self.batches_per_epoch, self.seed = batches_per_epoch, seed
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch  # an iteration under way keeps its epoch
        for number in range(self.batches_per_epoch):
            yield self._batch(epoch, number)

    def places(self, count: int) -> list[int]:
        """Where this rank's `count` samples of a batch stand in that of all ranks."""
        return [self.rank * count + place for place in range(count)]

    def batch_size(self, number: int) -> int:
        """Samples of batch `number`, of all ranks together; where classes lack a modality there are fewer."""
        kinds = len(self.members[0])
        return self.world_size * self.classes_per_batch * self.samples_per_modality * kinds

    def _batch(self, epoch: int, number: int) -> list[int]:
        draw = torch_stream(self.seed, epoch, number)
        first = self.rank * self.classes_per_batch
        classes = torch.randperm(len(self.members), generator=draw)[first : first + self.classes_per_batch]
        batch: list[int] = []
        for c in classes.tolist():
            draw = torch_stream(self.seed, epoch, number, c)  # its own: what other ranks draw must not matter
            for samples in self.members[c]:
                batch += samples[_draw(len(samples), self.samples_per_modality, draw)].tolist()
        return batch


class SketchPhotoBatchSampler(EpochSampler):
    """Every batch: sketches and photos drawn at random, each modality in an order of its own, whatever their classes.

    Each modality is gone through in random order, without repetition, and begun anew in another order when it is used up. An
    epoch of no given length is one pass: it ends with the modality that is used up first, its last batch having what is left of
    it. On several ranks each gets every world_size-th sample of a batch, and a last batch that is not enough for all is left out.
    Batch b of epoch e is a function of (seed, e, b, rank)
    alone, so training can resume anywhere. Usable as ``batch_sampler`` of a DataLoader.

    Args:
        modality: modality of each sample, int64 [N]: 0 sketch, 1 photo.
        sketches, photos: how many of each in a batch.
        batches_per_epoch: how many batches an epoch has; 0: one pass.
        drop_last: end the pass before a batch that is not full.
        seed, rank, world_size: see above.

    Raises:
        InputError: a number is out of range, a modality has no sample, or a pass has no full batch.

    Source: two independently shuffled loaders side by side, as SAKE (ICCV 2019) and its successors train.

    >>> sampler = SketchPhotoBatchSampler([0, 0, 0, 1, 1, 1, 1], sketches=1, photos=2, batches_per_epoch=0)
    >>> [len(batch) for batch in sampler]  # the photos are used up after two
    [3, 3]
    """

    def __init__(
        self, modality: Tensor | Sequence[int], *, sketches: int, photos: int, batches_per_epoch: int, drop_last: bool = False,
        seed: int = 0, rank: int = 0, world_size: int = 1,
    ):  # fmt: skip
        modality = _ids("modality", modality)
        least = {"sketches": 1, "photos": 1, "batches_per_epoch": 0, "world_size": 1, "rank": 0, "seed": 0}
        _check_numbers(locals(), least)
        _check_rank(rank, world_size)
        self.members = [(modality == kind).nonzero().flatten() for kind in (0, 1)]
        for name, members in zip(("sketch", "photo"), self.members, strict=True):
            if not len(members):
                raise InputError(f"modality has no {name}; a batch needs sketches (0) and photos (1)")
        if world_size > min(sketches, photos):
            raise InputError(f"world_size={world_size} must be at most sketches={sketches} and photos={photos} of a batch")
        self.per_batch = (sketches, photos)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.one_pass = batches_per_epoch == 0
        if self.one_pass:
            rounds = [len(m) // n if drop_last else -(-len(m) // n) for m, n in zip(self.members, self.per_batch, strict=True)]
            batches_per_epoch = min(rounds)
            if batches_per_epoch and self.batch_size(batches_per_epoch - 1) < world_size:
                batches_per_epoch -= 1  # too small a rest for every rank to have a part of it
            if not batches_per_epoch:
                counts = " and ".join(str(len(members)) for members in self.members)
                raise InputError(f"modality: {counts} sketches and photos are too few for one batch of {sketches} and {photos}")
        self.batches_per_epoch = batches_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch
        orders: dict[tuple[int, int], Tensor] = {}  # (modality, round) -> its order
        for number in range(self.batches_per_epoch):
            batch = [self._sample(orders, epoch, kind, place) for kind in (0, 1) for place in self._span(kind, number)]
            yield batch[self.rank :: self.world_size]

    def places(self, count: int) -> list[int]:
        """Where this rank's `count` samples of a batch stand in that of all ranks."""
        return [self.rank + self.world_size * place for place in range(count)]

    def batch_size(self, number: int) -> int:
        """Samples of batch `number`, of all ranks together."""
        return sum(len(self._span(kind, number)) for kind in (0, 1))

    def _span(self, kind: int, number: int) -> range:
        """The places of a batch in the endless order of a modality; a pass ends where it first repeats."""
        first, count = number * self.per_batch[kind], self.per_batch[kind]
        return range(first, min(first + count, len(self.members[kind])) if self.one_pass else first + count)

    def _sample(self, orders: dict[tuple[int, int], Tensor], epoch: int, kind: int, place: int) -> int:
        members = self.members[kind]
        turn, place = divmod(place, len(members))
        if (kind, turn) not in orders:
            orders[kind, turn] = torch.randperm(len(members), generator=torch_stream("random", self.seed, epoch, kind, turn))
        return int(members[orders[kind, turn][place]])


def _check_numbers(values: dict[str, Any], least: dict[str, int]) -> None:
    for name, low in least.items():
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < low:
            raise InputError(f"{name}={value} must be {low} or more")


def _check_rank(rank: int, world_size: int) -> None:
    if rank >= world_size:
        raise InputError(f"rank={rank} must be below world_size={world_size}")


def _draw(size: int, wanted: int, draw: torch.Generator) -> Tensor:
    """`wanted` of 0..size-1, each as often as any other give or take one, -> int64 [wanted]."""
    rounds = -(-wanted // size)
    return torch.cat([torch.randperm(size, generator=draw) for _ in range(rounds)])[:wanted]


def _ids(name: str, value: Tensor | Sequence[int]) -> Tensor:
    value = torch.as_tensor(value)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        if value.numel():
            raise TypeError(f"{name} must hold integers, got {value.dtype}")
        value = value.long()
    if value.ndim != 1 or not len(value):
        raise InputError(f"{name} must be a non-empty vector, got shape {tuple(value.shape)}")
    return value.to("cpu", torch.int64)


def _members(labels: Tensor, modality: Tensor) -> list[list[Tensor]]:
    """The samples of every class, modality by modality: lists of int64 vectors."""
    kinds = modality.unique().tolist()
    members = []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        groups = [own[modality[own] == kind] for kind in kinds]
        for kind, group in zip(kinds, groups, strict=True):
            if not len(group):
                raise InputError(
                    f"labels: class {label} has no sample of modality {kind}, others do; leave the class out or add samples"
                )
        members.append(groups)
    return members
