"""From embeddings to results: distances, exact metrics, binary codes, one-to-many matching, indexes, reports."""

from __future__ import annotations

from zsml.retrieval.cluster import ClusterMatcher
from zsml.retrieval.index import Hits, Index

__all__ = ["ClusterMatcher", "Hits", "Index"]
