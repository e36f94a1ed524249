"""Batches for training and for evaluation, the same whatever the number of loading processes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from zsml.data import ClassModalityBatchSampler, SkipCorrupt, collate_skip, load_dataset
from zsml.engine.config import TrainConfig
from zsml.engine.interrupt import leave_signals_to_parent
from zsml.errors import InputError


class SeededBatches(Sampler[list[tuple[int, int]]]):
    """Gives every index of a batch the seed its augmentation is drawn with.

    The seed depends on the run's seed, the epoch and the place in it, so an image looks the same whichever process loads it
    and wherever a resumed run starts.
    """

    def __init__(self, batches: ClassModalityBatchSampler, seed: int):
        self.batches, self.seed = batches, seed
        self.epoch, self.first = 0, 0

    def start_at(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch, and the batch in it to begin with."""
        self.batches.set_epoch(epoch)
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return len(self.batches) - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step, batch in enumerate(self.batches):
            if step >= self.first:
                yield [(index, self._item_seed(step, place)) for place, index in enumerate(batch)]

    def _item_seed(self, step: int, place: int) -> int:
        key = f"{self.seed}/{self.epoch}/{step}/{place}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")


class SeededItems(Dataset):
    """Loads item `index` of `(index, seed)` with the generators that transforms draw from set to the seed."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> Any:
        index, seed = item
        torch_state, python_state = torch.get_rng_state(), random.getstate()
        try:
            torch.default_generator.manual_seed(seed)  # the CPU's alone; torch.manual_seed would reseed GPUs as well
            random.seed(seed)
            return self.dataset[index]
        finally:  # without workers these are the training loop's own generators
            torch.set_rng_state(torch_state)
            random.setstate(python_state)


def training_loader(
    config: TrainConfig, device: torch.device, *, rank: int = 0, world_size: int = 1
) -> tuple[DataLoader, SeededBatches, list[str]]:
    """The batches to train on, the handle that chooses the epoch, and the names of the seen classes.

    Each batch is `(images float32 [B, 3, S, S], labels int64 [B], modality int64 [B], positions kept)`.

    Raises:
        InputError: the data set cannot be read, or a label is out of range.
    """
    parts = [
        load_dataset(config.data, config.root, "train", modality, transform=config.transform, **config.dataset_options())
        for modality in ("sketch", "photo")
    ]
    classes = parts[0].classes
    labels = torch.cat([part.labels for part in parts])  # [N]
    modality = torch.cat([torch.full_like(part.labels, part.modality) for part in parts])  # [N]
    check_labels(labels, len(classes), f"the training part of --data {config.data}")
    sampler = ClassModalityBatchSampler(
        labels,
        modality,
        classes_per_batch=config.classes_per_batch,
        samples_per_modality=config.samples_per_modality,
        batches_per_epoch=config.batches_per_epoch,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
    )
    batches = SeededBatches(sampler, config.seed)
    loader = DataLoader(
        SeededItems(SkipCorrupt(ConcatDataset(parts))),
        batch_sampler=batches,
        persistent_workers=config.num_workers > 0,
        **_common_options(config.num_workers, device),
    )
    return loader, batches, classes


def evaluation_loader(dataset: Dataset, *, batch_size: int, workers: int, device: torch.device) -> DataLoader:
    """The items of a data set in order, corrupt ones left out of their batch."""
    return DataLoader(SkipCorrupt(dataset), batch_size=batch_size, **_common_options(workers, device))


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


def _common_options(workers: int, device: torch.device) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "collate_fn": collate_skip,
        "worker_init_fn": leave_signals_to_parent,
        "pin_memory": device.type == "cuda",
        "generator": torch.Generator(),  # or the loader would draw from, and so shift, the global one
    }
