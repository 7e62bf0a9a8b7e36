"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def status(pid: int) -> tuple[str, int]:
    """The state of a process, and its parent."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)


def gone(pid: int) -> bool:
    """Whether it has ended."""
    try:
        return status(pid)[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def vanished(pid: int) -> None:
    """Wait for its end."""
    async with asyncio.timeout(20):
        while not gone(pid):
            await asyncio.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """Its children, and theirs, and so on."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = status(int(folder.name))[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def command_lines() -> dict[int, str]:
    """Those of all processes."""
    shown = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            shown[int(file.parent.name)] = file.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return shown


async def succeeds(*words: str, seconds: float) -> None:
    """Run Python with these words, for what stands beside the tests; it must end well, and within this time."""
    path = os.pathsep.join(filter(None, [str(TESTS), str(TESTS / "sockets"), os.environ.get("PYTHONPATH")]))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *words),
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode == 0, f"it ended with {process.returncode}:\n{told.decode()}"
