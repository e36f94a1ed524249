"""What is done to an image before a network sees it: kept with the model, so that its folder is all others need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zsml.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

WHAT = "preprocessing"


@dataclass(frozen=True)
class Preprocessing:
    """From images of any size and mode to what a model takes: by the named transform to S x S, then

        x = (image / 255 - mean) / std

    image_size: S, pixels. transform: a name of `zsml.data.build_transform`, "test" (a plain resize) for most. mean, std: of
    red, green and blue, for values from 0 to 1; both None: these values as they are.

    Raises InputError for a transform or size that does not exist, or numbers that are not three each, finite, std above 0.

    >>> from PIL import Image
    >>> images, modality = Preprocessing(image_size=32)([Image.new("L", (50, 20))], "sketch")
    >>> images.shape, modality
    (torch.Size([1, 3, 32, 32]), tensor([0]))
    """

    image_size: int = 224
    transform: str = "test"
    mean: tuple[float, float, float] | None = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] | None = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise InputError(f"{WHAT} must have both mean and std, or neither; got mean {self.mean} and std {self.std}")
        if self.mean is not None:
            for name in ("mean", "std"):
                value = getattr(self, name)
                if not isinstance(value, (tuple, list)):
                    raise InputError(f"{WHAT}: {name} must be three numbers, got {value!r}")
                object.__setattr__(self, name, tuple(value))
        self.transform_for("photo")

    def transform_for(self, modality: str | int) -> Callable[[Image.Image], Tensor]:
        """The function from a PIL RGB image to float32 [3, S, S], for one modality ("sketch" or 0, "photo" or 1)."""
        from zsml.data import build_transform

        return build_transform(self.transform, modality, self.image_size, normalize=self.normalize)

    @property
    def normalize(self) -> Any:
        """Mean and std in the form that `build_transform` and `load_dataset` take."""
        return "none" if self.mean is None else (self.mean, self.std)

    def __call__(self, images: Sequence[Image.Image], modality: str | int) -> tuple[Tensor, Tensor]:
        """Prepare PIL images (any mode: upright, grey replicated, transparency on white) of one modality.

        Returns (images float32 [B, 3, S, S], modality int64 [B]), the arguments of the model. Raises InputError for no image
        or another modality, TypeError for what is no PIL image.
        """
        from PIL import Image

        from zsml.data.decode import as_rgb
        from zsml.data.transforms import modality_number

        number, transform = modality_number(modality), self.transform_for(modality)
        if isinstance(images, Image.Image) or not isinstance(images, Sequence):
            raise TypeError(f"images must be a list of PIL images, got {type(images).__name__}")
        if not images:
            raise InputError("images must hold at least one image, got none")
        for place, image in enumerate(images):
            if not isinstance(image, Image.Image):
                raise TypeError(f"images must be PIL images, got {type(image).__name__} at place {place}")
        return torch.stack([transform(as_rgb(image)) for image in images]), torch.full((len(images),), number)

    def sentence(self) -> str:
        """In words, for people.

        >>> Preprocessing(image_size=64, mean=None, std=None).sentence()
        'RGB, resized to 64 x 64 pixels, values from 0 to 1'
        """
        moved = f"resized to {self.image_size} x {self.image_size} pixels"
        if self.transform != "test":
            moved += f" (transform {self.transform})"
        if self.mean is None:
            return f"RGB, {moved}, values from 0 to 1"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"RGB, {moved}, values from 0 to 1 less the mean ({mean}), divided by ({std})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what `from_dict` takes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any) -> Preprocessing:
        """What `to_dict` gave. Raises InputError for anything else.

        >>> Preprocessing.from_dict(Preprocessing(image_size=96).to_dict()).image_size
        96
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or set(values) != set(names):
            raise InputError(f"{WHAT} must be a dict of {', '.join(names)}, got {values!r}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{WHAT} cannot be used: {error}") from None
