"""Drop-in losses: ``loss(embeddings, labels, modality=None)`` returns a scalar."""

from __future__ import annotations

from .alignment import GaussianAlignmentLoss
from .category_memory import MemoryLoss
from .contrastive import NTXentLoss, SupConLoss
from .distillation import DistillationLoss
from .margin import ArcFaceLoss, ASoftmaxLoss, CosFaceLoss, EMSLoss, MEMSLoss
from .memory import CrossBatchMemory
from .triplet import MATHMLoss, ModalityTripletLoss

__all__ = [
    "ASoftmaxLoss",
    "ArcFaceLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "DistillationLoss",
    "EMSLoss",
    "GaussianAlignmentLoss",
    "MATHMLoss",
    "MEMSLoss",
    "MemoryLoss",
    "ModalityTripletLoss",
    "NTXentLoss",
    "SupConLoss",
]
