"""Drop-in losses: ``loss(embeddings, labels, modality=None)`` returns a scalar."""

from __future__ import annotations

from .memory import CrossBatchMemory
from .triplet import MATHMLoss, ModalityTripletLoss

__all__ = ["CrossBatchMemory", "MATHMLoss", "ModalityTripletLoss"]
