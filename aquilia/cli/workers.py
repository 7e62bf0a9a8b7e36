"""`aq serve --workers`: one process that has the sockets, and several that serve on them.

All workers accept from the same sockets, which nobody closes as long as the application is served: who is in their
queue when a worker ends, or is killed, is accepted by another. A socket for each worker (SO_REUSEPORT) would spread
connections a little more evenly, and reset those that wait at one that is closed.

The first worker starts ahead of the others, so that what keeps an application from starting is told once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait

from aquilia.cli.worker import OF_A_TERMINAL, Line, Worker

__all__ = ["Workers"]

logger = logging.getLogger("aquilia.workers")

BACKOFF = (0.1, 10.0)
"""Seconds before a worker that ended is started again: the first time, and at most."""
ASLEEP = 2.0
"""Seconds by which this process has to be late to know that it did not run itself."""
STEADY = 10.0
"""Seconds after which a worker that serves counts as healthy, and the backoff begins anew."""


@dataclass(eq=False, slots=True)
class _Post:
    """One of the places that workers fill, one after the other."""

    number: int
    worker: Worker | None = None
    successor: Worker | None = None
    """Is starting, and takes over when it serves."""
    wait: float = BACKOFF[0]
    again_at: float | None = None
    """When a worker is started here: the last one ended."""


class Workers:
    """Runs `target(sockets, line)` in so many processes, and replaces those that end, until SIGTERM or SIGINT.

    On SIGHUP each is replaced, one after the other: the next is told to leave when its successor serves. Each may
    take `patience` seconds to end. One whose event loop does not turn for `silence` seconds is ended, and replaced
    like every other that ends; 0: it may stand. `on_serving` is called when all serve for the first time.
    """

    def __init__(
        self,
        count: int,
        target: Callable[[list[socket.socket], Line], None],
        sockets: list[socket.socket],
        *,
        patience: float,
        silence: float = 0.0,
        on_serving: Callable[[], None],
    ) -> None:
        self._posts = [_Post(number) for number in range(1, count + 1)]
        self._target = target
        self._sockets = sockets
        self._patience = patience
        self._silence = silence
        self._on_serving = on_serving
        self._leaving: list[Worker] = []
        self._to_restart: deque[_Post] = deque()
        self._restarting = False
        self._announced = False
        self._deadline: float | None = None
        """Once all are to end: when those that have not are killed."""
        self._well = True

    def run(self) -> bool:
        """Run them; False: one did not start, which it has told itself, or did not end."""
        terminal = os.isatty(0)
        with _signals() as (woken, received):
            self._start(self._posts[0])
            while self._deadline is None or self._alive():
                self._wait(woken)
                while received:
                    number = received.popleft()
                    if number == getattr(signal, "SIGHUP", None) and (not terminal or os.isatty(0)):
                        if self._deadline is None:
                            self._restart()
                    else:  # also where the terminal was closed
                        self._end(number)
                self._look()
        return self._well

    def _started(self) -> Worker | None:
        try:
            return Worker(self._target, self._sockets, self._patience, self._silence)
        except OSError as error:
            logger.error("no worker can be started: %s", error)
            return None

    def _start(self, post: _Post) -> None:
        post.worker = self._started()
        post.again_at = time.monotonic() + BACKOFF[1] if post.worker is None else None

    def _alive(self) -> list[Worker]:
        posted = [worker for post in self._posts for worker in (post.worker, post.successor) if worker]
        return [*posted, *self._leaving]

    def _wait(self, woken: socket.socket) -> None:
        """Until something happens, or there is something to do."""
        times = [post.again_at for post in self._posts if post.again_at is not None]
        alive = self._alive()
        if self._deadline is not None:
            times.append(self._deadline)
        else:
            times += [worker.overdue_at for worker in alive if worker.overdue_at is not None]
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        starting = [worker.told for worker in alive if worker.since is None]
        wait([woken, *starting, *(worker.process.sentinel for worker in alive)], timeout)
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        if (
            times and time.monotonic() > min(times) + ASLEEP
        ):  # this process was stopped, and maybe all of them
            for worker in alive:
                worker.excuse()

    def _look(self) -> None:
        for worker in self._alive():
            worker.hear()
        for post in self._posts:
            self._bury(post)
        self._leaving = [worker for worker in self._leaving if not self._gone(worker)]
        if self._deadline is not None:
            self._enforce(self._deadline)
            return
        for worker in self._alive():
            worker.end_overdue()
        for post in self._posts:
            self._fill(post)
        self._go_on_restarting()

    def _gone(self, worker: Worker) -> bool:
        """Whether a worker that was to leave has ended."""
        over = self._over(worker)
        if over and worker.process.exitcode and self._deadline is None:
            logger.error("%s, which should have left in peace", worker.ended())
        return over

    def _over(self, worker: Worker) -> bool:
        if worker.process.exitcode is None:
            return False
        worker.close()
        return True

    def _bury(self, post: _Post) -> None:
        successor, worker = post.successor, post.worker
        if successor is not None and self._over(successor):
            post.successor = None
            self._to_restart.clear()
            self._restarting = False
            if self._deadline is None:
                logger.error(
                    "worker %d: its successor, %s, before it served: the others go on as they are",
                    post.number,
                    successor.ended(),
                )
        if worker is None or not self._over(worker):
            return
        post.worker = None
        if self._deadline is not None:
            return
        if worker.since is None and not self._announced:
            if worker.process.exitcode != 1:
                logger.error("worker %d, %s before it served", post.number, worker.ended())
            self._well = False
            self._end(signal.SIGTERM)
            return
        self._start_again(post, worker)

    def _start_again(self, post: _Post, worker: Worker) -> None:
        now = time.monotonic()
        if worker.since is not None and now - worker.since > STEADY:
            post.wait = BACKOFF[0]
        logger.error("worker %d, %s; it is started again in %.1f s", post.number, worker.ended(), post.wait)
        post.again_at = now + post.wait
        post.wait = min(BACKOFF[1], post.wait * 2)

    def _fill(self, post: _Post) -> None:
        """See that somebody is there."""
        if post.successor is not None and post.successor.since is not None:
            if post.worker is not None:
                post.worker.leave()
                self._leaving.append(post.worker)
            post.worker, post.successor, post.again_at = post.successor, None, None
        if post.again_at is not None and time.monotonic() >= post.again_at:
            self._start(post)
        first = self._posts[0].worker
        if post.worker is None and post.again_at is None and first is not None and first.since is not None:
            self._start(post)

    # Restarting

    def _restart(self) -> None:
        self._to_restart = deque(self._posts)
        if not self._restarting:
            logger.info("the workers are restarted, one after the other")
        self._restarting = True

    def _go_on_restarting(self) -> None:
        if not self._announced:
            if not all(post.worker is not None and post.worker.since is not None for post in self._posts):
                return
            self._announced = True
            self._on_serving()
        if self._leaving or any(post.successor is not None for post in self._posts):
            return
        while self._to_restart:
            post = self._to_restart.popleft()
            if post.worker is not None:  # else the one that is about to start is a new one
                post.successor = self._started()
                if post.successor is None:
                    self._to_restart.clear()
                    self._restarting = False
                return
        if self._restarting:
            self._restarting = False
            logger.info("the restart of the workers is over")

    # Ending

    def _end(self, number: int) -> None:
        """Tell all to end; a second Ctrl-C, which tells them to do it at once, is passed on."""
        again = self._deadline is not None
        if not again:
            self._deadline = time.monotonic() + self._patience
            self._to_restart.clear()
            for post in self._posts:
                post.again_at = None
            for listener in self._sockets:  # when the last worker has closed them, clients are refused
                listener.close()
        for worker in self._alive():
            worker.send(signal.SIGINT if again and number == signal.SIGINT else signal.SIGTERM)

    def _enforce(self, deadline: float) -> None:
        if time.monotonic() < deadline:
            return
        for worker in self._alive():
            if worker.process.exitcode is None:
                self._well = False
                logger.error("%s did not end within %g s, and is killed", worker, self._patience)
                worker.process.kill()
                worker.process.join()


@contextlib.contextmanager
def _signals() -> Iterator[tuple[socket.socket, deque[int]]]:
    """The signals that have come, and a socket that can be read when one has."""
    received: deque[int] = deque()
    woken, waking = socket.socketpair()
    with woken, waking:
        woken.setblocking(False)
        waking.setblocking(False)
        before = {
            each: signal.signal(each, lambda number, _: received.append(number))
            for each in (*OF_A_TERMINAL, signal.SIGTERM)
        }
        descriptor = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        try:
            yield woken, received
        finally:
            signal.set_wakeup_fd(descriptor)
            for each, handler in before.items():
                signal.signal(each, handler)
