"""zsml: metric learning and zero-shot sketch-based image retrieval on PyTorch."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def info() -> dict[str, Any]:
    """What runs here and why: the kernel tier, versions and devices, as a JSON-able dict (see :func:`zsml._ext.info`).

    >>> info()["tier"] in ("cuda", "cpu", "torch")
    True
    """
    from . import _ext  # torch is imported on first use, so that `zsml --help` is quick

    return _ext.info()
