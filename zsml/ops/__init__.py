"""The kernels as functions. Each module holds one op: its schema, plain-torch reference, gradient and public function."""

from __future__ import annotations

import torch

from . import rank_relevant
from .hamming import hamming_distance, hamming_rank, hamming_topk, pack_bits, unpack_bits
from .hardest_pairs import CROSS_NEG, CROSS_POS, WITHIN_NEG, WITHIN_POS, HardestPairs, hardest_pairs

# What zsml.info() asks of the binaries.
torch.library.define("zsml::cpu_isa", "() -> int")
torch.library.define("zsml::cuda_architectures", "() -> str")

__all__ = [
    "CROSS_NEG",
    "CROSS_POS",
    "WITHIN_NEG",
    "WITHIN_POS",
    "HardestPairs",
    "hamming_distance",
    "hamming_rank",
    "hamming_topk",
    "hardest_pairs",
    "pack_bits",
    "rank_relevant",
    "unpack_bits",
]
