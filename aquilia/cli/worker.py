"""One worker of `aq serve --workers`: how it is started, and the line between it and the process that has it."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

__all__ = ["OF_A_TERMINAL", "Line", "Worker", "child"]

logger = logging.getLogger("aquilia.workers")

OF_A_TERMINAL = frozenset({signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)})
"""The signals that it sends to all processes that run in it."""
BEAT = 1.0
"""Seconds between two signs of a worker that its event loop turns, at most."""
LAST_WORDS = 5.0
"""Seconds from a signal that should end a worker to one that does."""
_spawn = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """A terminal's signals are for us: a child that is about to start would die of them, with a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_A_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def child(target: Callable[..., None], *args: Any) -> SpawnProcess:
    """Start a process of its own for this; it takes no notice of Ctrl-C until it says otherwise."""
    process = _spawn.Process(target=_begin, args=(target, args))
    resource_tracker.ensure_running()  # who starts it unblocks SIGINT
    with _deaf():
        process.start()
    return process


def _begin(target: Callable[..., None], args: Sequence[Any]) -> None:
    for each in OF_A_TERMINAL:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_A_TERMINAL)
    target(*args)


# In the worker


@dataclass(frozen=True, slots=True)
class Line:
    """What connects a worker with the process that has started it: the worker's end."""

    told: Connection
    orders: Connection
    patience: float
    """Seconds that the worker may take to end by itself."""
    silence: float
    """Seconds without a sign of its event loop after which the worker is ended; 0: it may be silent."""

    def serving(self) -> None:
        """Tell that clients can connect; from then on, that the event loop turns, in which this is called."""
        if self.silence:
            faulthandler.enable()  # what it shows on SIGABRT says where the loop stands
            os.set_blocking(self.told.fileno(), False)  # a sign that nobody takes is not waited for
            self._beat(asyncio.get_running_loop(), min(BEAT, self.silence / 4))
        else:
            self._tell()

    def _beat(self, loop: asyncio.AbstractEventLoop, interval: float) -> None:
        self._tell()
        loop.call_later(interval, self._beat, loop, interval)

    def _tell(self) -> None:
        with contextlib.suppress(OSError):
            self.told.send_bytes(b"%f" % time.monotonic())

    def follow(self) -> Callable[[], bool]:
        """End this process when it is told to, or when the other has ended, whatever happened to that.

        What it returns tells whether others go on serving on the same sockets.
        """
        relieved = threading.Event()
        threading.Thread(target=self._follow, args=(relieved,), name="aquilia worker", daemon=True).start()
        return relieved.is_set

    def _follow(self, relieved: threading.Event) -> None:
        with contextlib.suppress(EOFError, OSError):
            self.orders.recv_bytes()
            relieved.set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self.patience)
        os.kill(os.getpid(), signal.SIGKILL)


# In the process that has them


class Worker:
    """One that was started, as the process that has it sees it."""

    def __init__(
        self,
        target: Callable[[list[socket.socket], Line], None],
        sockets: list[socket.socket],
        patience: float,
        silence: float,
    ) -> None:
        self.told, told = _spawn.Pipe(duplex=False)
        orders, self._orders = _spawn.Pipe(duplex=False)
        self.process = child(target, sockets, Line(told, orders, patience, silence))
        told.close()
        orders.close()
        self.since: float | None = None
        """When it began to serve."""
        self._patience = patience
        self._silence = silence
        self._turned = 0.0
        """When its event loop last turned, as far as is known."""
        self._ends_by: float | None = None
        """When it is killed: it was told to end."""

    def hear(self) -> None:
        """Take in what it has told: the times at which its event loop turned, by the clock of all processes."""
        with contextlib.suppress(EOFError, OSError):
            while self.told.poll():
                self._turned = max(self._turned, float(self.told.recv_bytes()))
                if self.since is None:
                    self.since = time.monotonic()

    def excuse(self) -> None:
        """Nobody has listened to it, or it was stopped as well: its time begins anew."""
        now = self._turned = time.monotonic()
        if self._ends_by is not None:
            self._ends_by = max(self._ends_by, now + LAST_WORDS)

    @property
    def overdue_at(self) -> float | None:
        """When it has been silent for too long, or should have ended."""
        if self._ends_by is not None:
            return self._ends_by
        return self._turned + self._silence if self._silence and self.since is not None else None

    def end_overdue(self) -> None:
        """End it, if its time is up: with its stacks in the log at first, and a signal that nobody escapes next."""
        now, at = time.monotonic(), self.overdue_at
        if at is None or now < at or self.process.exitcode is not None:
            return
        if self._ends_by is not None:
            logger.error("%s did not end, and is killed", self)
            self.send(signal.SIGKILL)
            self._ends_by = now + LAST_WORDS
            return
        logger.error(
            "%s is ended: its event loop has not turned for %.0f s; where it stands follows",
            self,
            now - self._turned,
        )
        self.send(signal.SIGABRT)
        self._ends_by = now + LAST_WORDS

    def leave(self) -> None:
        """Others serve, and it is to end, which it sees to by itself, unless nothing in it runs any more."""
        self._ends_by = time.monotonic() + self._patience + LAST_WORDS
        with contextlib.suppress(OSError):
            self._orders.send_bytes(b"leave")

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.process.exitcode is None:
            os.kill(self._pid(), number)

    def _pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def close(self) -> None:
        """It has ended."""
        self.process.join()
        self.told.close()
        self._orders.close()

    def __str__(self) -> str:
        return f"process {self.process.pid}"

    def ended(self) -> str:
        """Who ended, and how, in words."""
        code = self.process.exitcode or 0
        return f"{self} ended ({f'signal {-code}' if code < 0 else f'status {code}'})"
