"""Binary codes from real embeddings: the public names. The work is in :mod:`zsml.retrieval`."""

from __future__ import annotations

from zsml.retrieval.centre_hash import CentreHash
from zsml.retrieval.quantize import ITQ

__all__ = ["ITQ", "CentreHash"]
