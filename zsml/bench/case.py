"""What one benchmark is: data, the right answer, and the providers that race to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


class Disagrees(Exception):
    """A provider's answer is not the right one; the message says by how much."""


class Unable(Exception):
    """A provider cannot take part here; the message says why."""


@dataclass(frozen=True)
class Provider:
    """One way to compute the answer.

    make: takes the case's data and returns the call that is timed. What it does itself (imports, building an index, other layouts
        of the same data) is not timed. It may raise ModuleNotFoundError or Unable: the provider is then left out.
    mode: the part of the work done, if not that of the case; then its time is a yardstick, not a rival's.
    most: queries it is given at most, because it is slow.
    devices: where it runs.
    once: it takes so long that the call that is checked is the only one, and the one that is timed.
    """

    name: str
    make: Callable[[Any], Callable[[], Any]]
    mode: str | None = None
    most: int | None = None
    devices: tuple[str, ...] = ("cpu",)
    once: bool = False


@dataclass(frozen=True)
class Case:
    """One comparison.

    op: the family, as `zsml bench` names it; size: as --sizes names it; name: unique within the op.
    shape: what a row tells of the shape, besides the queries used.
    draw: device -> data, the same every time; data.head(n) are the first n queries where `queries` is given.
    truth: data -> the right answer, computed in another way than any provider does.
    check: (answer, truth, data) -> a remark for the row, or "". Raises Disagrees.
    queries, full_queries: rows drawn, and how many the set has; None where an op has no queries.
    """

    op: str
    size: str
    name: str
    mode: str
    dtype: str
    shape: dict[str, int]
    draw: Callable[[str], Any]
    truth: Callable[[Any], Any]
    check: Callable[[Any, Any, Any], str]
    providers: Sequence[Provider] = field(repr=False)
    queries: int | None = None
    full_queries: int | None = None
