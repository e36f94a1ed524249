"""What one server takes from its clients, and what they are told when it is more."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields

from zsml.errors import InputError

LEAST = {"rate": 0, "waiting": 0, "seconds": 0.01}  # of every other limit 1


@dataclass(frozen=True)
class Limits:
    """The most a server takes; whatever is above is answered with 4xx, and the server goes on.

    >>> Limits(results=50).results
    50
    """

    results: int = 200  # k, and the candidates that are ranked again are at most 50 times as many
    strokes: int = 1000
    points: int = 20_000  # of all strokes together
    upload_bytes: int = 10 << 20
    json_bytes: int = 2 << 20
    pixels: int = 25_000_000  # of an uploaded image, read from its header before it is decoded
    held_bytes: int = 256 << 20  # of all uploads that are in memory at one time
    seconds: float = 10.0  # until the head of a request must be there, and then its body
    rate: float = 50.0  # requests per second and client, on average; 0: any number. A thumbnail counts as a twentieth
    burst: float = 200.0  # requests a client may send at once after a pause
    running: int = 2  # searches at one time
    waiting: int = 256  # searches that wait for their turn

    def __post_init__(self) -> None:
        for field in fields(self):
            value, whole = getattr(self, field.name), field.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise TypeError(f"{field.name} must be {'an int' if whole else 'a number'}, got {type(value).__name__}")
            least = LEAST.get(field.name, 1)
            if not (math.isfinite(value) and value >= least):
                raise InputError(f"{field.name}={value!r} must be {least} or more")


class Refused(Exception):
    """An answer other than what was asked for: a status of HTTP and a sentence that says why.

    >>> Refused(429, "too many requests", {"Retry-After": "1"}).status
    429
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class Rate:
    """Token buckets, one per client: each holds `burst` requests and is refilled with `rate` of them per second.

    Behind a proxy all clients have its address, so there the proxy should limit them and `rate` be 0.

    >>> rate = Rate(rate=1, burst=2, clock=lambda: 0.0)
    >>> [rate.take("a") for _ in range(3)]  # seconds to wait
    [0.0, 0.0, 1.0]
    """

    KEPT = 10_000  # clients; the one not heard of for longest is forgotten first, so memory is bounded

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic):
        self.rate, self.burst, self.clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (requests left, when)

    def take(self, client: str, cost: float = 1.0) -> float:
        """Seconds until this client may ask; 0: now, and it is counted."""
        if not self.rate:
            return 0.0
        now = self.clock()
        left, when = self._buckets.pop(client, (self.burst, now))
        left = min(self.burst, left + (now - when) * self.rate)
        allowed = left >= cost - 1e-9  # who waited as long as told is let in, whatever the rounding
        self._buckets[client] = (left - cost if allowed else left, now)
        if len(self._buckets) > self.KEPT:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (cost - left) / self.rate


class Gate:
    """Lets `running` searches run, `waiting` more wait, and refuses the rest."""

    def __init__(self, running: int, waiting: int):
        self._turn = asyncio.Semaphore(running)
        self.places, self.inside = running + waiting, 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Within the block a search may run.

        Raises:
            Refused: 429, too many wait already.
        """
        if self.inside >= self.places:
            raise Refused(429, "the server is busy: too many searches are waiting; try again", {"Retry-After": "1"})
        self.inside += 1
        try:
            async with self._turn:
                yield
        finally:
            self.inside -= 1
