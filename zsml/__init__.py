"""zsml: metric learning and zero-shot sketch-based image retrieval on PyTorch."""

from __future__ import annotations

__version__ = "0.1.0"
