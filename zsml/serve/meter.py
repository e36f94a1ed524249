"""What a server has done, in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Histogram:
    """How many durations were at most so long.

    >>> histogram = Histogram()
    >>> histogram.add(0.02)
    >>> histogram.lines("x_seconds")[2:4]
    ['x_seconds_bucket{le="0.025"} 1', 'x_seconds_bucket{le="0.05"} 1']
    """

    def __init__(self) -> None:
        self.counts, self.total, self.sum = [0] * len(BOUNDS), 0, 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.total += 1
        self.sum += seconds
        for number, bound in enumerate(BOUNDS):
            self.counts[number] += seconds <= bound

    def lines(self, name: str) -> list[str]:
        """Its lines, without the one of its type."""
        buckets = [f'{name}_bucket{{le="{bound:g}"}} {n}' for bound, n in zip(BOUNDS, self.counts, strict=True)]
        return [*buckets, f'{name}_bucket{{le="+Inf"}} {self.total}', f"{name}_sum {self.sum:.6f}", f"{name}_count {self.total}"]


class Meter:
    """Counts requests by path and status, and times what searches do; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds = {"encode": Histogram(), "search": Histogram()}

    def request(self, path: str, status: int) -> None:
        """Count an answer. `path` is that of a route, never what a client made up: there must not be ever more of them."""
        with self._lock:
            self.requests[path, status] += 1

    def time(self, step: str, seconds: float) -> None:
        """Time a step of a search, "encode" or "search"."""
        with self._lock:
            self.seconds[step].add(seconds)

    def text(self, **gauges: float) -> str:
        """Everything, and the current values of `gauges`."""
        with self._lock:
            lines = ["# TYPE zsml_requests_total counter"]
            for (path, status), count in sorted(self.requests.items()):
                lines.append(f'zsml_requests_total{{path="{path}",status="{status}"}} {count}')
            for step, histogram in self.seconds.items():
                lines += [f"# TYPE zsml_{step}_seconds histogram", *histogram.lines(f"zsml_{step}_seconds")]
        for name, value in gauges.items():
            lines += [f"# TYPE zsml_{name} gauge", f"zsml_{name} {value:g}"]
        return "\n".join(lines) + "\n"
