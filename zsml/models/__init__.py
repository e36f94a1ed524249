"""Networks that map sketches and photos to one embedding space, and the files they come from and go to."""

from zsml.models.create import create_model
from zsml.models.io import load_model, save_model
from zsml.models.model import EmbeddingModel, ModelOutput
from zsml.models.preprocessing import Preprocessing
from zsml.models.pretrained import pixel_statistics
from zsml.models.released import load_released

__all__ = [
    "EmbeddingModel", "ModelOutput", "Preprocessing", "create_model", "load_model", "load_released", "pixel_statistics",
    "save_model",
]  # fmt: skip
