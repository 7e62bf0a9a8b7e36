"""Real servers for the stores of sessions, each on a free port and with files of its own, and two stores on one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import reserved_port
from redis_servers import RedisServer
from session_store_contract import SessionStoreContract

from aquilia import SessionStore

PASSWORD = "s3cret-of-the-tests"


class Server:
    """A process that can be ended, and started again in the same place."""

    def __init__(self, command: list[str], port: int, user: str | None = None) -> None:
        self.port = port
        self._command = command
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=self._user
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise TimeoutError(f"{self._command[0]} did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def redis(*options: str) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder), *options) as server:
        yield server


def _postgres(program: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: path.parts[4])
    path = str(found[-1]) if found else shutil.which(program)
    if not path:  # as for other packages of the system: the session fails by that in CI
        pytest.skip(f"PostgreSQL's {program} is not installed: sudo make system-deps")
    return path


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """Its user is "aq", with a password; it does not run as root, so root lends it the user of its package."""
    user = "postgres" if os.geteuid() == 0 else None
    with reserved_port() as port, tempfile.TemporaryDirectory() as folder:
        data, login = Path(folder, "data"), Path(folder, "login")
        login.write_text(PASSWORD)
        if user:
            shutil.chown(folder, user)
            shutil.chown(login, user)
        made = [_postgres("initdb"), "-D", str(data), "-U", "aq", "-E", "UTF8", "--locale=C", "--no-sync"]
        made += ["-A", "scram-sha-256", "--pwfile", str(login)]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
        command = [_postgres("postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1"]
        server = Server([*command, "-c", "unix_socket_directories=", "-c", "fsync=off"], port, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()


class OfTwoProcesses(SessionStoreContract):
    """The promises of stores on a server: `pair` are two for the same place there, as two processes have them."""

    @pytest.fixture
    async def started(self, pair: list[Any]) -> AsyncIterator[list[Any]]:
        await asyncio.gather(*(store.start() for store in pair))
        yield pair
        for store in pair:
            await store.stop()

    @pytest.fixture
    def store(self, started: list[Any]) -> SessionStore:
        return started[0]

    @pytest.fixture
    def other(self, started: list[Any]) -> SessionStore:
        return started[1]
