"""Ending a long job: between two steps when asked to, or because it cannot go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from zsml.errors import InputError


class Interrupted(KeyboardInterrupt):
    """The job was asked to stop (Ctrl-C or SIGTERM), saved its state and stopped; the message says how to go on."""


class TrainingFailed(RuntimeError):
    """The training cannot go on: the loss is not finite."""


class EndedElsewhere(InputError):
    """Another process of the training cannot go on, and says why; the message names it."""


class StopRequest:
    """Becomes `requested` when a signal asks the process to stop."""

    requested = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Within the block the first Ctrl-C or SIGTERM only sets `requested`; a second one interrupts at once."""
    stop = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    if threading.current_thread() is not threading.main_thread():  # signals only reach the main thread
        yield stop
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not set from Python


def leave_signals_to_parent(worker_id: int = 0) -> None:
    """Put a loading process into a group of its own: a signal to the whole job, as Ctrl-C and `timeout` send it, must not end it
    before the parent's step is done. It ends when the parent does."""
    os.setpgid(0, 0)
