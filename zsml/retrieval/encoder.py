"""From images to the embeddings of an index: a network, and how its images are prepared."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zsml.data.transforms import Normalize, build_transform, modality_number, normalization
from zsml.errors import InputError
from zsml.models import EmbeddingModel, load_model
from zsml.models.io import CONFIG, WEIGHTS
from zsml.retrieval.index_files import sha256_of

BATCH = 64  # images embedded together


class Encoder:
    """PIL images and their modality -> embeddings: prepared as in evaluation, embedded, and scaled to length 1 if `l2`.

    Args:
        model: in eval mode, on `device`.
        image_size, transform, normalize: as `zsml.data.build_transform` takes them.
        l2: h / ||h||; False leaves h as the network gives it.
    """

    def __init__(
        self, model: EmbeddingModel, image_size: int, transform: str = "test", normalize: Normalize = "imagenet", l2: bool = True,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        self.model, self.device, self.l2 = model.to(device, memory_format=torch.channels_last).eval(), torch.device(device), l2
        self.width = model.embedding_dim
        self.transforms = {
            name: build_transform(transform, name, image_size, normalize=normalize) for name in ("sketch", "photo")
        }

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], modality: str) -> Tensor:
        """Embeddings float32 [n, D] on the CPU.

        Raises:
            TypeError: something else than PIL images.
            InputError: no image, or another modality than "sketch" and "photo".
        """
        number = modality_number(modality)
        for image in images:
            if not isinstance(image, Image.Image):
                raise TypeError(f"images must be PIL images, got {type(image).__name__}")
        if len(images) == 0:
            raise InputError("images is empty; give at least one")
        transform = self.transforms["sketch" if number == 0 else "photo"]
        rows = []
        for start in range(0, len(images), BATCH):
            batch = torch.stack([transform(image.convert("RGB")) for image in images[start : start + BATCH]])  # [B, 3, S, S]
            rows.append(self.embed(batch, torch.full((len(batch),), number)))
        return torch.cat(rows)

    @torch.inference_mode()
    def embed(self, images: Tensor, modality: Tensor) -> Tensor:
        """Embeddings float32 [B, D] on the CPU of prepared images float32 [B, 3, S, S], modality int64 [B]."""
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        embedding = self.model(images, modality.to(self.device, non_blocking=True)).embedding.float()
        return (F.normalize(embedding, dim=1) if self.l2 else embedding).cpu()


def describe(
    folder: Path | str, *, image_size: int, transform: str = "test", normalize: Normalize = "imagenet", l2: bool = True
) -> dict[str, Any]:
    """What `Index.create` takes as `model`: a folder that `save_model` wrote, and how images are prepared for it.

    Raises:
        TypeError, InputError: there is no model in the folder, or images cannot be prepared so.
    """
    build_transform(transform, "sketch", image_size, normalize=normalize)
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise InputError(f"folder {str(folder)!r} holds no {WEIGHTS}; give the folder that zsml.models.save_model wrote")
    values = normalize if isinstance(normalize, str) else [[float(value) for value in values] for values in normalize]
    settings = {"image_size": image_size, "transform": transform, "normalize": values, "l2": bool(l2)}
    return {"folder": str(folder), "sha256": sha256_of(path), **settings}


def take_in(model: dict[str, Any], into: Path, width: int) -> dict[str, Any]:
    """Copy the model of `describe` into an index, and return what its manifest says of it."""
    if not isinstance(model, dict) or "folder" not in model:
        raise TypeError(f"model must be the dict of zsml.retrieval.encoder.describe, or None, got {type(model).__name__}")
    about = {"sha256": "", **{name: value for name, value in model.items() if name != "folder"}}
    source = Path(model["folder"])
    into.mkdir(exist_ok=True)
    for name in (WEIGHTS, CONFIG):
        if (source / name).is_file():
            shutil.copyfile(source / name, into / name)
    encoder = open_encoder(into, about, torch.device("cpu"))
    if encoder.width != width:
        raise InputError(f"the model's embeddings have width {encoder.width}, the index is to have width {width}")
    return {**about, "arch": encoder.model.arch}


def open_encoder(folder: Path, about: dict[str, Any], device: torch.device) -> Encoder:
    """The model of an index as its manifest describes it.

    Raises:
        InputError: it is missing, it is not the one that made the embeddings, or the description cannot be used.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"index {str(folder.parent)!r} has lost its model: there is no {folder.name}/{WEIGHTS}")
    if (found := sha256_of(path)) != about.get("sha256"):
        raise InputError(
            f"{path} is not the model that made the embeddings of this index: its SHA-256 is {found[:12]}..., not "
            f"{str(about.get('sha256'))[:12]}...; put that one back, or build the index anew"
        )
    settings = {name: about[name] for name in ("image_size", "transform", "normalize", "l2") if name in about}
    normalization(settings.get("normalize", "imagenet"))
    try:
        return Encoder(load_model(folder), device=device, **settings)
    except TypeError as error:
        raise InputError(f"index {str(folder.parent)!r} describes its model in a way that cannot be used: {error}") from error
