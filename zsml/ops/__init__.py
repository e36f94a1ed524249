"""The kernels as functions. Each module holds one op: its schema, plain-torch reference, gradient and public function."""

from __future__ import annotations

import torch

from . import modality_triplet, rank_relevant  # noqa: F401  (modules that register the ops of losses and metrics)
from .hamming import hamming_distance, hamming_rank, hamming_topk, pack_bits, unpack_bits
from .hardest_pairs import CROSS_NEG, CROSS_POS, WITHIN_NEG, WITHIN_POS, HardestPairs, hardest_pairs
from .margin_softmax import MarginSoftmax, margin_softmax
from .supcon import SupCon, supcon

# What zsml.info() asks of the binaries.
torch.library.define("zsml::cpu_isa", "() -> int")
torch.library.define("zsml::cuda_architectures", "() -> str")

__all__ = [
    "CROSS_NEG",
    "CROSS_POS",
    "WITHIN_NEG",
    "WITHIN_POS",
    "HardestPairs",
    "MarginSoftmax",
    "SupCon",
    "hamming_distance",
    "hamming_rank",
    "hamming_topk",
    "hardest_pairs",
    "margin_softmax",
    "pack_bits",
    "supcon",
    "unpack_bits",
]
