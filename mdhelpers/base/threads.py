"""A process: how many threads compute in it, and how it is asked to stop.

Sums that are shared out among threads differ in their last bits. So whatever decides a result is
computed on one thread, and work is spread over models, targets or images instead, each of which is
the same wherever it is done.

Ctrl-C, SIGTERM and a terminal that is closed are one thing here: `Stopped`. The command line reads
this file first, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from mdhelpers.base.places import cores, keep_freed_memory

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that processes do not crowd one another and bits do not change.

    No result depends then on the cores that this process may use.
    """
    import torch
    from threadpoolctl import threadpool_limits

    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with environment(dict.fromkeys(THREADS, "1")), threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def spread(
    work: Callable[[Any], Any], items: Iterable[Any], *, at_once: int = 0, at_most: int = 0
) -> Iterator[Any]:
    """Results of `work` in the order of `items`, several at once, each on one thread.

    Parameters
    ----------
    work
        Safe to run in several threads, such as a network in evaluation mode.
    items
        What it is given, one after the other.
    at_once
        Items at a time; 0: one per core, and no more than ``at_most`` where that is given.
    """
    n = at_once or min(cores(), at_most or cores())
    import torch

    # every thread has a number of threads of its own to share out work to
    with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(work, items)


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
        (handle or _raise_stopped)(number)

    heeded = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, called) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_stopped(number: int) -> None:
    raise Stopped(number)
