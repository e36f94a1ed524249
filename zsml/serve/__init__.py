"""The web page to draw on, and its server: `zsml serve --index DIR`, or `create_app` in a server of your own.

It needs FastAPI and uvicorn: pip install 'zsml[serve]'.
"""

from __future__ import annotations

from typing import Any

from zsml.serve.limits import Limits
from zsml.serve.rasterise import rasterise

__all__ = ["Limits", "create_app", "rasterise"]


def __getattr__(name: str) -> Any:
    if name == "create_app":  # only this needs the extra packages
        from zsml.serve.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
