"""Retrieval metrics: the public names. The work is in :mod:`zsml.retrieval`."""

from __future__ import annotations

from zsml.retrieval.evaluator import RetrievalEvaluator
from zsml.retrieval.metrics import RetrievalResult, chance_map, evaluate_retrieval
from zsml.retrieval.protocol import PRESETS, Protocol
from zsml.retrieval.ranking import evaluate_distances

__all__ = [
    "PRESETS",
    "Protocol",
    "RetrievalEvaluator",
    "RetrievalResult",
    "chance_map",
    "evaluate_distances",
    "evaluate_retrieval",
]
