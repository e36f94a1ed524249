"""Batches for training and for evaluation, the same whatever the number of loading processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from zsml.data import (
    ClassModalityBatchSampler,
    SketchPhotoBatchSampler,
    SketchPhotoDataset,
    SkipCorrupt,
    collate_skip,
    load_dataset,
)
from zsml.engine.config import TrainConfig
from zsml.engine.stopping import leave_signals_to_parent
from zsml.errors import InputError


class SeededBatches(Sampler[list[tuple[int, int]]]):
    """Gives every index of a batch the seed its augmentation is drawn with.

    The seed depends on the run's seed, the epoch and the place in it. So an image looks different each time it is drawn, and
    the same whichever process loads it, wherever a resumed run starts, and whether one rank or several share the batch.
    """

    def __init__(self, batches: ClassModalityBatchSampler | SketchPhotoBatchSampler, seed: int, multiple: int = 1):
        self.batches, self.seed = batches, seed
        self.multiple = multiple  # of batches in an epoch; the rest of one that has more is left out
        self.epoch, self.first = 0, 0

    def start_at(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch, and the batch in it to begin with."""
        self.batches.set_epoch(epoch)
        self.epoch, self.first = epoch, first

    @property
    def batches_per_epoch(self) -> int:
        return len(self.batches) // self.multiple * self.multiple

    def batch_size(self, number: int) -> int:
        """Images of a batch, of all ranks together."""
        return self.batches.batch_size(number)

    def __len__(self) -> int:
        return self.batches_per_epoch - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number, batch in enumerate(self.batches):
            if self.first <= number < self.batches_per_epoch:
                places = self.batches.places(len(batch))
                yield [(index, self._item_seed(number, place)) for place, index in zip(places, batch, strict=True)]

    def _item_seed(self, number: int, place: int) -> int:
        key = f"{self.seed}/{self.epoch}/{number}/{place}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")


class Items(Dataset):
    """A data set to be read by loading processes: item `index`, or `(index, seed)`, the generator of transforms set to the seed.

    An InputError is handed over like an item: raised in a loading process it would arrive as another kind of error.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = SkipCorrupt(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: int | tuple[int, int]) -> Any:
        index, seed = item if isinstance(item, tuple) else (item, None)
        state = torch.get_rng_state()
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # the CPU's alone; torch.manual_seed would reseed GPUs as well
        try:
            return self.dataset[index]
        except InputError as error:
            return error
        finally:
            torch.set_rng_state(state)  # without loading processes it is the training loop's own


class Batches:
    """Iterates over `(images float32 [B, 3, S, S], labels int64 [B], modality int64 [B], kept int64 [B])`.

    kept: the positions in the batch of the images that could be decoded; the others are left out.
    """

    def __init__(self, dataset: Dataset, *, workers: int, device: torch.device, **options: Any):
        self.loader = DataLoader(
            Items(dataset),
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=leave_signals_to_parent,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or the loader would draw from, and so shift, the global one
            **options,
        )

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        for batch in self.loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


def training_batches(
    config: TrainConfig, device: torch.device, *, rank: int = 0, world_size: int = 1
) -> tuple[Batches, SeededBatches, list[str]]:
    """The batches to train on, the handle that chooses the epoch, and the names of the seen classes.

    Of several ranks each gets as many of a batch's classes; together they have the batch of one.

    Raises:
        InputError: the data set cannot be read, or a label is out of range.
    """
    options = config.dataset_options()
    sketches, photos = (
        load_dataset(config.data, config.root, "train", modality, transform=config.transform, **options)
        for modality in ("sketch", "photo")
    )
    data = SketchPhotoDataset(sketches, photos)
    check_labels(data.labels, len(data.classes), f"{config.data} train")
    common = {"batches_per_epoch": config.batches_per_epoch, "seed": config.seed, "rank": rank, "world_size": world_size}
    sampler: ClassModalityBatchSampler | SketchPhotoBatchSampler
    if config.batch == "random":
        sampler = SketchPhotoBatchSampler(
            data.modality,
            sketches=config.sketches_per_batch,
            photos=config.photos_per_batch,
            drop_last=config.drop_last,
            **common,
        )
    else:
        sampler = ClassModalityBatchSampler(
            data.labels,
            data.modality,
            classes_per_batch=config.classes_per_batch // world_size,
            samples_per_modality=config.samples_per_modality,
            **common,
        )
    chosen = SeededBatches(sampler, config.seed, config.accumulate)
    workers = config.num_workers
    batches = Batches(data, workers=workers, device=device, batch_sampler=chosen, persistent_workers=workers > 0)
    return batches, chosen, data.classes


def on_device(
    images: torch.Tensor, labels: torch.Tensor, modality: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch where it is computed on: images [B, 3, S, S] channels last, of several views [B, V, 3, S, S]; the others [B]."""
    layout = torch.channels_last if images.ndim == 4 else torch.contiguous_format
    images = images.to(device, non_blocking=True, memory_format=layout)
    return images, labels.to(device, non_blocking=True), modality.to(device, non_blocking=True)


def check_labels(labels: torch.Tensor, num_classes: int, where: str) -> None:
    """Refuse labels that no classifier of `num_classes` outputs can be asked for.

    Raises:
        InputError: naming the first label out of range.

    >>> check_labels(torch.tensor([0, 2]), 2, "here")
    Traceback (most recent call last):
    ...
    zsml.errors.InputError: here: label 2 of item 1 is out of range; 2 classes take labels 0..1
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(wrong):
        item = int(wrong[0])
        raise InputError(
            f"{where}: label {int(labels[item])} of item {item} is out of range; "
            f"{num_classes} classes take labels 0..{num_classes - 1}"
        )


def _collate(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, InputError)), None) or collate_skip(items)
