"""From embeddings to results: distances, exact metrics, binary codes, one-to-many matching, reports."""

from __future__ import annotations

from zsml.retrieval.cluster import ClusterMatcher

__all__ = ["ClusterMatcher"]
