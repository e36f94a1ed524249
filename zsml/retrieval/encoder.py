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

from zsml.errors import InputError
from zsml.models import EmbeddingModel, Preprocessing, load_model
from zsml.models.io import CONFIG, WEIGHTS, read_preprocessing
from zsml.retrieval.index_files import sha256_of

BATCH = 64  # images embedded together


class Encoder:
    """PIL images and their modality -> embeddings h, or h / ||h|| with `l2`.

    Args:
        model: what embeds prepared images; it is moved to `device` and put in eval mode.
        preprocessing: how images are prepared.
    """

    def __init__(
        self, model: EmbeddingModel, preprocessing: Preprocessing, *, l2: bool = True, device: torch.device | str = "cpu"
    ):
        self.model, self.device, self.l2 = model.to(device, memory_format=torch.channels_last).eval(), torch.device(device), l2
        self.preprocessing, self.width = preprocessing, model.embedding_dim

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], modality: str) -> Tensor:
        """Embeddings float32 [n, D] on the CPU.

        Raises:
            TypeError: something else than PIL images.
            InputError: no image, or another modality than "sketch" and "photo".
        """
        parts = [images[start : start + BATCH] for start in range(0, max(1, len(images)), BATCH)]
        return torch.cat([self.embed(*self.preprocessing(part, modality)) for part in parts])

    @torch.inference_mode()
    def embed(self, images: Tensor, modality: Tensor) -> Tensor:
        """Embeddings float32 [B, D] on the CPU of prepared images float32 [B, 3, S, S], modality int64 [B]."""
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        embedding = self.model(images, modality.to(self.device, non_blocking=True)).embedding.float()
        return (F.normalize(embedding, dim=1) if self.l2 else embedding).cpu()


def describe(folder: Path | str, *, preprocessing: Preprocessing | None = None, l2: bool = True) -> dict[str, Any]:
    """What `Index.create` takes as `model`: a folder that `save_model` wrote, and how images are prepared for it.

    Args:
        preprocessing: None: the one kept with the model.
        l2: embeddings are scaled to length 1.

    Raises:
        InputError: there is no model in the folder, or it does not say how images are prepared.
    """
    folder = Path(folder)
    preprocessing = preprocessing or read_preprocessing(folder)
    if preprocessing is None:
        raise InputError(f"the model in {str(folder)!r} does not say how its images are prepared; pass preprocessing")
    about = {"sha256": sha256_of(folder / WEIGHTS), "l2": bool(l2), "preprocessing": preprocessing.to_dict()}
    return {"folder": str(folder), **about}


def take_in(model: dict[str, Any], into: Path, width: int) -> dict[str, Any]:
    """Copy the model of `describe` into an index, and return what its manifest says of it."""
    if not isinstance(model, dict) or not {"folder", "sha256", "l2", "preprocessing"} <= model.keys():
        raise TypeError(f"model must be the dict of zsml.retrieval.encoder.describe, or None, got {type(model).__name__}")
    source, about = Path(model["folder"]), {name: value for name, value in model.items() if name != "folder"}
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
    preprocessing = Preprocessing.from_dict(about.get("preprocessing"))
    return Encoder(load_model(folder), preprocessing, l2=bool(about.get("l2", True)), device=device)
