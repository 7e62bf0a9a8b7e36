"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import asyncio
from pathlib import Path


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


def command_lines() -> dict[int, str]:
    """Those of all processes."""
    shown = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            shown[int(file.parent.name)] = file.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return shown
