"""`zsml serve`."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zsml.commands._common import Json
from zsml.errors import InputError


@dataclass
class Serve:
    """Open a page to draw on, whose drawings are searched for in an index; and the same as a JSON API.

    The API is described at /openapi.json; /health and /metrics are for who looks after it. Ctrl-C ends it.

    Example: zsml serve --index photos.index --port 8000
    """

    index: Path
    """Folder that `zsml index` wrote."""
    host: str = "127.0.0.1"
    """Address to listen on. The default can be reached from this machine alone; 0.0.0.0 from everywhere, so use --token."""
    port: int = 8000
    """Port to listen on; 0: any that is free."""
    token: str | None = None
    """What clients must know, better given as the environment variable ZSML_TOKEN, which other users cannot see:
    printable ASCII without spaces."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where queries are embedded."""
    rate: float = 50.0
    """Requests a second each client may make on average; 0: any number, as behind a proxy."""
    running: int = 2
    """Searches at one time; more wait for their turn."""
    json: Json = False
    """Print the result as JSON once the server has ended."""

    def run(self) -> dict[str, Any]:
        from zsml.engine.device import resolve_device
        from zsml.engine.log import say
        from zsml.retrieval.index import Index
        from zsml.serve import Limits, create_app
        from zsml.serve.guard import LOOPBACK
        from zsml.serve.listen import bind, names, run, url

        token = self.token if self.token is not None else os.environ.get("ZSML_TOKEN", "").rstrip("\r\n") or None
        try:
            limits = Limits(rate=self.rate, burst=max(1.0, 4 * self.rate), running=self.running)
        except InputError as error:
            raise InputError(f"--{error}") from error
        device = resolve_device(self.device)
        with bind(self.host, self.port) as sock:  # before anything is loaded: it is what goes wrong most often
            index = Index.open(self.index)
            app = create_app(index, token=token, limits=limits, device=device, hosts=names(self.host))
            if not len(index):
                raise InputError(f"index {str(self.index)!r} is empty; `zsml index` adds images to it")
            if token is None and self.host not in LOOPBACK:
                say(f"anybody who can reach {self.host} can search and see these images; --token asks for a password")
            say(f"{len(index):,} images on {url(sock)} (Ctrl-C ends it)")
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a service manager sends ends it as Ctrl-C does
            with suppress(KeyboardInterrupt):
                run(app, sock, limits.seconds)
        return {"index": str(self.index), "searches": app.state.meter.seconds["search"].total}

    def text(self, result: dict[str, Any]) -> str:
        return f"ended after {result['searches']} searches"
