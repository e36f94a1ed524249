"""The data set every reader returns, and how corrupt images are skipped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, default_collate

from zsml.data.keys import stable_hash
from zsml.errors import CorruptImage, InputError

Transform = Callable[[Image.Image], Any]

MODALITIES = ("sketch", "photo")  # the position is the number
PARTS = ("train", "val", "test")


class ImageDataset(Dataset, ABC):
    """One modality of one part of a data set: item i is ``(image, label, modality)``.

    Labels run from 0 over ``classes``; train and val share the seen classes, test has the unseen ones, from 0 again.
    Without a transform the image is a PIL RGB image, with a named one a float32 tensor [3, S, S].

    Random transforms draw from torch's global generator. Once :meth:`set_epoch` was called, that generator is seeded for every
    item, so that the augmented item is a function of (seed, epoch, modality, index) alone: the same in every process, with any
    number of workers, after any resume. (A transform with randomness from elsewhere, such as numpy's global generator, is not
    covered.)

    Attributes:
        name, part: which data set this is; part is "train", "val" or "test".
        modality: 0 sketch, 1 photo.
        labels: int64 [N].
        classes: C class names.
        paths: N file names (for generated images, ids).
        strict: a corrupt image is an error also for :class:`SkipCorrupt`.
    """

    def __init__(
        self, name: str, part: str, modality: int, labels: Sequence[int] | Tensor, classes: Sequence[str], paths: Sequence[str],
        *, transform: Transform | None = None, seed: int = 0, strict: bool = False,
    ):  # fmt: skip
        self.name, self.part, self.modality = name, part, modality
        self.labels = torch.as_tensor(labels, dtype=torch.int64)  # [N]
        self.classes, self.paths = list(classes), list(paths)
        self.transform, self.seed, self.strict = transform, seed, strict
        # In shared memory, because workers that outlive an epoch hold a copy of the data set from before it.
        self._epoch = torch.full((), -1, dtype=torch.int64).share_memory_()

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Image number index as it is stored or generated, RGB.

        Raises:
            CorruptImage: the file cannot be decoded.
        """

    def set_epoch(self, epoch: int) -> None:
        """Make the augmentation of item i a function of (seed, epoch, modality, i); call it before each epoch.

        It reaches running worker processes, too (``persistent_workers=True``), from the next item they load.
        """
        if epoch < 0:
            raise InputError(f"epoch={epoch} must be 0 or more")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index = int(index) % len(self)
        image: Any = self.load(index)
        if self.transform is not None:
            with _seeded(self.seed, int(self._epoch), self.modality, index):
                image = self.transform(image)
        return image, int(self.labels[index]), self.modality

    def __repr__(self) -> str:
        kind = MODALITIES[self.modality]
        return f"{type(self).__name__}({self.name} {self.part} {kind}: {len(self)} images, {len(self.classes)} classes)"


@contextmanager
def _seeded(seed: int, epoch: int, modality: int, index: int) -> Iterator[None]:
    """Torch's CPU generator seeded by the key, and put back afterwards; epoch -1 leaves it alone."""
    if epoch < 0:
        yield
        return
    generator = torch.default_generator  # the CPU's alone: torch.manual_seed would reseed the GPUs as well
    state = generator.get_state()
    generator.manual_seed(stable_hash("augment", seed, epoch, modality, index))
    try:
        yield
    finally:
        generator.set_state(state)


class SketchPhotoDataset(ConcatDataset):
    """Data sets end to end, usually the sketches and the photos of one part, for :class:`ClassModalityBatchSampler`.

    Attributes: labels int64 [N], modality int64 [N], classes.

    Raises:
        InputError: the data sets do not have the same classes in the same order.
    """

    def __init__(self, *datasets: ImageDataset):
        if not datasets:
            raise InputError("datasets is empty; give at least one data set")
        for other in datasets[1:]:
            if other.classes != datasets[0].classes:
                a, b = next(
                    ((a, b) for a, b in zip(datasets[0].classes, other.classes, strict=False) if a != b), ("the end", "the end")
                )
                raise InputError(
                    f"{datasets[0]!r} and {other!r} do not agree on the classes: they differ first at {a!r} and {b!r}; "
                    "read both with the same root, seed and options"
                )
        super().__init__(datasets)
        self.classes = datasets[0].classes
        self.labels = torch.cat([d.labels for d in datasets])  # [N]
        self.modality = torch.cat([torch.full_like(d.labels, d.modality) for d in datasets])  # [N]

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`ImageDataset.set_epoch`."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)


class SkipCorrupt(Dataset):
    """A data set whose corrupt images are None instead of an error; ``strict`` ones still raise CorruptImage.

    :func:`collate_skip` leaves the Nones out of a batch and tells which items it kept.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.strict = any(getattr(part, "strict", False) for part in getattr(dataset, "datasets", [dataset]))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except CorruptImage:
            if self.strict:
                raise
            return None


def collate_skip(batch: Sequence[Any]) -> tuple[Any, Tensor, Tensor, Tensor]:
    """Batch items that may be None: ``(images, labels [B], modality [B], kept [B])``, kept being the positions of the batch that
    have an image. If none has, all four are empty.

    >>> images, labels, modality, kept = collate_skip([(torch.zeros(3, 2, 2), 7, 1), None, (torch.ones(3, 2, 2), 4, 0)])
    >>> images.shape, labels.tolist(), modality.tolist(), kept.tolist()
    (torch.Size([2, 3, 2, 2]), [7, 4], [1, 0], [0, 2])
    """
    kept = [position for position, item in enumerate(batch) if item is not None]
    positions = torch.tensor(kept, dtype=torch.int64)
    if not kept:
        return torch.empty(0), positions, positions.clone(), positions.clone()
    items = [batch[position] for position in kept]
    if isinstance(items[0][0], Image.Image):  # no transform: nothing to stack
        images: Any = [image for image, _, _ in items]
    else:
        images = default_collate([image for image, _, _ in items])
    labels, modality = (torch.tensor([item[k] for item in items], dtype=torch.int64) for k in (1, 2))
    return images, labels, modality, positions
