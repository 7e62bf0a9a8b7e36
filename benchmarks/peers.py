"""The servers that are measured: how each starts, and what it consists of."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = [
    "AQUILIA",
    "BARE",
    "BUILD",
    "FLOOR",
    "FULL",
    "HERE",
    "HISTORY",
    "PEERS",
    "ROOT",
    "Peer",
    "machine",
    "versions",
]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "benchmarks"
SERVERS = HERE / "servers"

AQUILIA, FLOOR = "aquilia", "floor"
BARE, FULL, HISTORY = "aquilia-bare", "aquilia-full", "aquilia-history"


@dataclass(frozen=True)
class Peer:
    """A server. `command` makes its command line from a port; `absent` says what it lacks here, if anything.

    `modes` are those of the scenarios that it takes part in; `header` is what its clients have to send.
    """

    name: str
    title: str
    command: Callable[[int], list[str]]
    absent: Callable[[], str | None] = lambda: None
    modes: frozenset[str] = frozenset({"echo", "open", "fanout", "idle"})
    header: Callable[[], str] | None = None


def _python(*words: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, *(word.format(port=port, servers=SERVERS) for word in words)]


def _bearer() -> str:
    """The variant's own token: other servers must not depend on what makes it."""
    code = "import aquilia_app; print(aquilia_app.token())"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=SERVERS, capture_output=True, text=True, check=True
    )
    return f"Authorization: Bearer {run.stdout.strip()}"


def _package(name: str) -> Callable[[], str | None]:
    def absent() -> str | None:
        return None if _version(name) else f"the Python package {name} is not installed"

    return absent


def _node_absent() -> str | None:
    if not shutil.which("node"):
        return "node is not installed"
    if not _ws_version():
        return "the package ws is not installed: npm install --prefix benchmarks/servers"
    return None


def _ws_version() -> str | None:
    manifest = SERVERS / "node_modules" / "ws" / "package.json"
    return str(json.loads(manifest.read_text())["version"]) if manifest.exists() else None


PEERS = (
    Peer(FLOOR, "floor (C)", lambda port: [str(BUILD / "floor"), str(port)]),
    Peer(AQUILIA, "Aquilia", _python("{servers}/aquilia_app.py", "{port}", "native")),
    Peer("aquilia-asgi", "Aquilia, ASGI transport", _python("{servers}/aquilia_app.py", "{port}", "asgi")),
    Peer(
        BARE,
        "Aquilia, bare",
        _python("{servers}/aquilia_app.py", "{port}", "native", "bare"),
        modes=frozenset({"echo"}),
    ),
    Peer(
        FULL,
        "Aquilia, everything on",
        _python("{servers}/aquilia_app.py", "{port}", "native", "full"),
        modes=frozenset({"echo"}),
        header=_bearer,
    ),
    Peer(
        HISTORY,
        "Aquilia, rooms with history",
        _python("{servers}/aquilia_app.py", "{port}", "native", "history"),
        modes=frozenset({"fanout"}),
    ),
    Peer(
        "fastapi",
        "FastAPI",
        _python(
            *("-m", "uvicorn", "fastapi_app:app", "--app-dir", "{servers}", "--port", "{port}"),
            *("--loop", "uvloop", "--log-level", "warning", "--timeout-graceful-shutdown", "1"),
        ),
        _package("fastapi"),
    ),
    Peer("ws", "ws on Node", lambda port: ["node", str(SERVERS / "ws_app.mjs"), str(port)], _node_absent),
)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _said(*command: str) -> str | None:
    """The first line that a command says, if there is such a command."""
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(run.stdout.splitlines()), None)


def versions() -> dict[str, str]:
    """What took part, by name; what is not there is left out."""
    packages = ("picows", "msgspec", "uvicorn", "uvloop", "httptools", "websockets", "fastapi", "starlette")
    found = {
        "aquilia": _version("aquilia"),
        "commit": _said("git", "describe", "--always", "--dirty"),
        "python": platform.python_version(),
        **{package: _version(package) for package in (*packages, "pydantic")},
        "node": _said("node", "--version"),
        "ws": _ws_version(),
        "gcc": _said("gcc", "-dumpfullversion"),
    }
    return {name: version for name, version in found.items() if version}


def machine() -> dict[str, str]:
    """The processor, the memory and the system."""
    processor = _field("/proc/cpuinfo", "model name") or platform.machine()
    memory = int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 1024**2
    kernel = ".".join(platform.release().split(".")[:2])
    return {"processor": processor, "memory": f"{memory:.0f} GiB", "system": f"{platform.system()} {kernel}"}


def _field(file: str, name: str) -> str | None:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
