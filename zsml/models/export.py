"""A model as one file that runs without this package: by torch alone (torch.export), or by any ONNX runtime."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zsml
from zsml.errors import InputError, not_known
from zsml.models.io import weights_sha256
from zsml.models.model import EmbeddingModel

FORMATS = ("onnx", "torch-export")
TOLERANCE = 1e-4  # of the largest number in the embeddings: how far an exported file may be from the model
LARGEST_ONNX = 2_000_000_000  # bytes of weights; one ONNX file holds 2 GiB
META = "zsml.json"


class ExportedEncoder(nn.Module):
    """Images as they come from a file, to embeddings: (x - mean) / std, then the network without its classifiers.

    images: float32 [B, 3, S, S], RGB from 0 to 1; modality: int64 [B], for conditional models only -> float32 [B, D].
    """

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model, known = model, model.preprocessing
        mean, std = (known.mean, known.std) if known.mean is not None else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("pixel_mean", torch.tensor(mean)[:, None, None])  # [3, 1, 1]
        self.register_buffer("pixel_std", torch.tensor(std)[:, None, None])
        model.classifier = model.imagenet_classifier = None
        self.requires_grad_(False)

    def forward(self, images: Tensor, modality: Tensor | None = None) -> Tensor:
        return self.model((images - self.pixel_mean) / self.pixel_std, modality).embedding


def export_model(model: EmbeddingModel, path: str | os.PathLike[str], format: str = "onnx") -> dict[str, Any]:
    """Write the encoder and its normalisation of pixels to one file, for batches of any size.

        images: float32 [B, 3, S, S], RGB from 0 to 1, resized;  modality: int64 [B], if the model is conditional
        -> embedding: float32 [B, D], not normalised

    format: "onnx" (needs `pip install 'zsml[export]'`) or "torch-export" (torch.export.load reads it). A value of modality
    other than 0 and 1 makes NaN of its row. What one needs to know is in the file: of "onnx" in its metadata under "zsml", of
    "torch-export" in the extra file zsml.json.

    The file is run on batches of 1 and 3 random images before it is put in its place, and must give what the model gives,
    within 1e-4 of the largest number in the embeddings. The model itself stays as it is.

    Returns: path, format, bytes, largest_error (relative to that largest number), tolerance, inputs, and what is in the file.

    Raises:
        InputError: the format is not known, the model does not say how images are prepared, its network cannot be exported,
            the file cannot be written or would give other embeddings, or onnx and onnxruntime are missing.
        TypeError: the model is no `EmbeddingModel`.

    >>> from zsml.models import Preprocessing, create_model
    >>> model = create_model("resnet18", num_classes=0, embedding_dim=8)
    >>> model.preprocessing = Preprocessing(image_size=32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_model(model, f"{folder}/encoder.pt2", "torch-export")["inputs"]
    {'images': ['B', 3, 32, 32]}
    """
    if not isinstance(model, EmbeddingModel):
        raise TypeError(f"model must be what zsml.models.create_model returns, got {type(model).__name__}")
    if format not in FORMATS:
        raise InputError(f"format {not_known(format, FORMATS)}")
    if model.preprocessing is None:
        raise InputError("model.preprocessing is None: set it to a zsml.models.Preprocessing, which says how images are prepared")
    write, run = (_write_onnx, _run_onnx) if format == "onnx" else (_write_torch, _run_torch)
    if format == "onnx":
        _check_onnx(model)
    about, path = _about(model), Path(path)
    encoder = ExportedEncoder(copy.deepcopy(model).to("cpu", torch.float32, memory_format=torch.contiguous_format)).eval()
    exported = _trace(encoder, about)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            made = Path(folder) / "encoder.pt2"
            write(exported, made, about)
            error = _largest_error(encoder, run(made), about)
            made.replace(path)
    except OSError as problem:
        raise InputError(f"file {str(path)!r} cannot be written: {problem.strerror or problem}") from problem
    found = {"path": str(path), "format": format, "bytes": path.stat().st_size}
    return {**found, "largest_error": error, "tolerance": TOLERANCE, **about}


def _about(model: EmbeddingModel) -> dict[str, Any]:
    size = model.preprocessing.image_size
    modality = {"modality": ["B"]} if model.conditional else {}
    return {
        "inputs": {"images": ["B", 3, size, size], **modality},
        "embedding_dim": model.embedding_dim,
        "arch": model.arch,
        "preprocessing": model.preprocessing.to_dict(),
        "normalisation": "mean and std are applied inside; images come as RGB from 0 to 1",
        "weights_sha256": weights_sha256(model),
        "zsml": zsml.__version__,
    }


def _inputs(about: dict[str, Any], batch: int) -> tuple[Tensor, ...]:
    """Random images [B, 3, S, S], and modality [B] of both kinds where it is wanted."""
    images = torch.rand(batch, *about["inputs"]["images"][1:], generator=torch.Generator().manual_seed(batch))
    return (images, torch.arange(batch) % 2) if "modality" in about["inputs"] else (images,)


def _trace(encoder: nn.Module, about: dict[str, Any]) -> torch.export.ExportedProgram:
    inputs, batch = _inputs(about, 2), torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            return torch.export.export(encoder, inputs, dynamic_shapes=({0: batch},) * len(inputs))
    except InputError:
        raise  # of the model: image size, shapes
    except Exception as error:
        raise InputError(f"{about['arch']} cannot be exported by torch.export: {_first_line(error)}") from error


def _write_torch(exported: torch.export.ExportedProgram, path: Path, about: dict[str, Any]) -> None:
    torch.export.save(exported, path, extra_files={META: json.dumps(about)})


def _run_torch(path: Path) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own buffers
        return torch.export.load(path).module()


def _check_onnx(model: EmbeddingModel) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"format 'onnx' needs {error.name}: pip install 'zsml[export]', or choose torch-export") from error
    size = sum(value.numel() * 4 for value in model.state_dict().values())
    if size > LARGEST_ONNX:
        raise InputError(f"format 'onnx' holds up to 2 GiB in a file, and {model.arch} has {size:,} bytes; choose torch-export")


def _write_onnx(exported: torch.export.ExportedProgram, path: Path, about: dict[str, Any]) -> None:
    names = {"input_names": list(about["inputs"]), "output_names": ["embedding"]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(exported, _inputs(about, 2), dynamo=True, verbose=False, **names)
    except Exception as error:
        raise InputError(f"{about['arch']} cannot be exported to ONNX: {_first_line(error)}") from error
    program.model.metadata_props["zsml"] = json.dumps(about)
    program.save(path, external_data=False)


def _run_onnx(path: Path) -> Callable[..., Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *inputs: torch.from_numpy(
        session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})[0]
    )


@torch.no_grad()
def _largest_error(encoder: nn.Module, run: Callable[..., Tensor], about: dict[str, Any]) -> float:
    """Of the file against the model, relative to the largest number of the embeddings."""
    worst = 0.0
    for batch in (1, 3):
        inputs = _inputs(about, batch)
        wanted, found = encoder(*inputs), run(*inputs)  # [B, D]
        worst = max(worst, ((found - wanted).abs().max() / wanted.abs().max()).item())
    if not worst <= TOLERANCE:  # NaN too
        raise InputError(
            f"{about['arch']}: the exported file differs from the model by {worst:.2g} of its largest number, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    return worst


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
