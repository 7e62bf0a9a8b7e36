"""Keeps one nats-server alive, and ends it: run as a file, in a process of its own, with the standard library alone.

    python -I keeper.py BINARY PORT LOCK

It stands between the server and the process that wants it, because only a process of its own can end the server when
that one was killed. Its stdin is a pipe that the other never writes to: when it closes, however that came, the server
is ended. Until then a server that ends is started again, on the same port. PORT is -1 for any free one; LOCK is the
descriptor of the folder's lock, which the server has too: the folder is free when all three processes are gone. On
Linux the kernel ends the server with the keeper, should that be killed.

The working directory is the server's folder, with its configuration. Stdout is the server's as well. What the keeper
says there begins with "keeper: " and is "pid N", "port N", "ended STATUS", and "gave up" when the first start fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["CONFIGURATION", "WORD", "Keeper"]

CONFIGURATION = "nats.conf"
WORD = "keeper: "
BACKOFF = (0.05, 5.0)
"""Seconds before a server that ended is started again: the first time, and at most."""
STEADY = 10.0
"""Seconds after which a server that ran counts as healthy, and the backoff begins anew."""
PR_SET_PDEATHSIG = 1
PATIENCE = 8.0
"""Seconds that a server may take to end by itself."""


class Keeper:
    """See the head of this file."""

    def __init__(self, binary: str, port: int, lock: int) -> None:
        self._binary = binary
        self._port = port
        self._lock = lock
        self._server: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._starting = threading.Lock()

    def run(self) -> None:
        """Keep the server until stdin closes."""
        threading.Thread(target=self._end_with_parent, daemon=True).start()
        wait, longest = BACKOFF
        while (server := self._start()) is not None:
            began = time.monotonic()
            if self._port < 0:
                self._port = self._first_port(server)
                say(f"port {self._port}" if self._port > 0 else "gave up")
            status = server.wait()
            if self._port < 0 or self._ending.is_set():
                return
            say(f"ended {status}")
            if time.monotonic() - began > STEADY:
                wait = BACKOFF[0]
            self._ending.wait(wait)
            wait = min(longest, wait * 2)

    def _start(self) -> subprocess.Popen[bytes] | None:
        options = ["-c", CONFIGURATION, "-a", "127.0.0.1", "-p", str(self._port), "--ports_file_dir", "."]
        with self._starting:
            if self._ending.is_set():
                return None
            for old in Path().glob("*.ports"):
                old.unlink(missing_ok=True)
            self._server = subprocess.Popen(
                [self._binary, *options],
                stdin=subprocess.DEVNULL,
                stderr=sys.stdout,
                pass_fds=[self._lock],
                preexec_fn=_end_with_keeper() if sys.platform == "linux" else None,
            )
        say(f"pid {self._server.pid}")
        return self._server

    def _first_port(self, server: subprocess.Popen[bytes]) -> int:
        """The port that the server has found, or -1 if it ended before."""
        while server.poll() is None:
            for file in Path().glob(f"*_{server.pid}.ports"):
                if (text := file.read_text()).endswith("}"):
                    return port_in(text)
            time.sleep(0.01)
        return -1

    def _end_with_parent(self) -> None:
        while os.read(0, 1024):
            pass
        self._ending.set()
        with self._starting:
            server = self._server
        if server is not None:
            server.terminate()
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        os._exit(0)


def _end_with_keeper() -> Callable[[], None]:
    """What a child does to be killed with this thread, which is this process': Linux does it for whoever asks."""
    prctl: Any = ctypes.CDLL(None, use_errno=True).prctl
    keeper = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:  # it was killed before
            os._exit(1)

    return ask


def port_in(text: str) -> int:
    """The port for clients, out of the server's own file."""
    return urlsplit(json.loads(text)["nats"][0]).port or -1


def say(words: str) -> None:
    """Tell the parent, which may be gone; in one write, for the server writes there as well."""
    with contextlib.suppress(OSError):
        os.write(1, f"{WORD}{words}\n".encode())


if __name__ == "__main__":
    # Of forking beside a thread: ours waits in a read, and holds no lock.
    warnings.simplefilter("ignore", DeprecationWarning)
    # A signal for the whole service or its group is for the application, which needs its broker until it has ended.
    # A handler, for what is ignored stays ignored in the server.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda *_: None)
    Keeper(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).run()
