"""What the tests of `aq` share: a workspace in a folder of its own, and `aq` as a process in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 30.0
AQ = [sys.executable, "-m", "aquilia.cli"]
ARTIFACT = "artifacts/ws.crous"
ARTIFACTS: dict[tuple[tuple[tuple[str, str], ...], ...], str] = {}
"""What `aq compile` has made, by the files and the environment that it was given."""

MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import EchoSocket, Page

manifest = AppManifest("echo", version="1.2.3", controllers=[Page, EchoSocket])
"""

CONTROLLERS = """
from msgspec import Struct

from aquilia import GET, Controller
from aquilia.sockets import Connection, Emits, Event, Socket, SocketController


class Words(Struct):
    text: str


class Page(Controller):
    @GET("/")
    async def show(self) -> str:
        return "the page"


@Socket("/echo/:room", max_message_size=1000)
class EchoSocket(SocketController):
    heard = Emits("heard", Words)

    @Event("say")
    async def say(self, conn: Connection, payload: Words) -> int:
        await self.broadcast(self.heard, payload)
        return len(payload.text)
"""


@dataclass
class Workspace:
    """A folder, and `aq` in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def aq(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*AQ, *words],
            cwd=self.root,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )

    def refused(self, *words: str, code: int = 1) -> str:
        """What `aq` writes to stderr when it ends with this exit code, and writes nothing to stdout."""
        done = self.aq(*words)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stdout == ""
        return done.stderr

    def done(self, *words: str) -> str:
        """What `aq` writes to stdout when all is well, and writes nothing to stderr."""
        done = self.aq(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    def compile(self) -> None:
        """`aq compile`, started once for the same files: the artifact is the same in every folder."""
        contents = tuple((str(file.relative_to(self.root)), file.read_text()) for file in self._sources())
        known = (contents, tuple(sorted(self.environment.items())))
        if known not in ARTIFACTS:
            self.done("compile")
            ARTIFACTS[known] = (self.root / ARTIFACT).read_text()
        self.write(ARTIFACT, ARTIFACTS[known])

    def _sources(self) -> list[Path]:
        return sorted(file for file in self.root.rglob("*") if file.suffix in {".py", ".toml"})

    @contextlib.asynccontextmanager
    async def serving(self, *words: str) -> AsyncIterator[Server]:
        """`aq serve` on a free port, once it has said where."""
        words = words if "--uds" in words else ("--port", "0", *words)
        process = await self.start(*words)
        server = Server(process)
        try:
            await server.started()
            yield server
        finally:
            if process.returncode is None:
                await server.end(signal.SIGTERM)

    async def start(self, *words: str, stdout: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        """`aq serve`, which has said nothing yet."""
        return await asyncio.create_subprocess_exec(
            *AQ,
            "serve",
            *words,
            cwd=self.root,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AQ_")}
        return {**kept, "COLUMNS": "80", **self.environment}


@dataclass
class Server:
    """A running `aq serve`."""

    process: asyncio.subprocess.Process
    heading: str = ""
    url: str = ""
    sockets: list[str] = field(default_factory=list)

    async def started(self) -> None:
        """Read what it says when it has started, or has started again."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            heading = (await self.process.stdout.readline()).decode()
            if not heading.startswith("Aquilia"):
                assert self.process.stderr is not None
                raise AssertionError(heading + (await self.process.stderr.read()).decode())
            self.heading = heading
            self.url = (await self.process.stdout.readline()).decode().strip()
            self.sockets = [(await self.process.stdout.readline()).decode().split()[0]]

    async def logged(self, words: str) -> str:
        """Wait for a line with these words on stderr."""
        assert self.process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            while words not in (line := (await self.process.stderr.readline()).decode()):
                assert line, f"the server ended, and never said {words!r}"
        return line

    async def end(self, by: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Stop it; its exit code, and what it wrote to stderr since."""
        self.process.send_signal(by)
        async with asyncio.timeout(TIMEOUT):
            _, stderr = await self.process.communicate()
        return self.process.returncode or 0, stderr.decode()
