"""Asked to stop, by Ctrl-C, SIGTERM or a terminal that is closed: one word for all of it.

Nothing here imports more than Python's own, since the command line reads it first.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop; `code` is what a shell expects of it then."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return stop.code if isinstance(stop, Stopped) else 128 + signal.SIGINT


@contextmanager
def stoppable(handle: Callable[[int], None] | None = None) -> Iterator[None]:
    """For a while, call `handle` with the number of a signal that asks this process to stop.

    By default it raises `Stopped`, so that what is open is closed. Signals that were ignored, as
    `nohup` leaves SIGHUP, stay so. In other threads than the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def called(number: int, frame: Any) -> None:  # noqa: ARG001
        (handle or _stop)(number)

    heeded = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, called) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int) -> None:
    raise Stopped(number)
