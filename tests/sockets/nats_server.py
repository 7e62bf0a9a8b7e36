"""A real nats-server for the tests, on a free port of this machine."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import time
from pathlib import Path
from urllib.parse import urlsplit

from redis_servers import fresh_prefix

EXECUTABLE = Path(sysconfig.get_path("scripts")) / "nats-server"


class NatsServer:
    """One server with its folder; it may be ended, and started again on the same port."""

    def __init__(self, folder: Path, *options: str, jetstream: bool = True) -> None:
        self.folder = folder
        self.port = 0
        self.monitor = ""
        """Where it tells of itself over HTTP, if its options have `-m`."""
        self._jetstream = ["-js", "-sd", str(folder / "store")] if jetstream else []
        self.use(*options)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def use(self, *options: str) -> None:
        """Have other options from the next start on."""
        self._options = [*options, *self._jetstream]

    def start(self) -> None:
        ports = self.folder / "ports"
        ports.mkdir(parents=True, exist_ok=True)
        for old in ports.iterdir():
            old.unlink()
        command = [
            str(EXECUTABLE),
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port or -1),
            "--ports_file_dir",
            str(ports),
        ]
        self._process = subprocess.Popen(
            [*command, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for file in ports.glob("*.ports"):
                if text := file.read_text():
                    told = json.loads(text)
                    self.port = urlsplit(told["nats"][0]).port or 0
                    self.monitor = told.get("monitoring", [""])[0]
                    return
            time.sleep(0.02)
        raise TimeoutError("nats-server did not start")

    @property
    def pid(self) -> int:
        """That of the process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def url(self, prefix: str | None = None, login: str = "", *, port: int | None = None) -> str:
        """Its URL, with a prefix of its own unless one is given; by another port, as that of a road to it."""
        return f"nats://{login}127.0.0.1:{port or self.port}/{prefix or fresh_prefix()}"
