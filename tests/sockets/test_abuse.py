"""Clients that mean harm, for a few seconds: `make abuse ARGS="--seconds 6"`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent


@pytest.mark.timeout(120)
async def test_a_server_holds_no_more_than_before_when_hostile_clients_have_gone() -> None:
    path = os.pathsep.join(filter(None, [str(TESTS), str(TESTS / "sockets"), os.environ.get("PYTHONPATH")]))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "abuse", "--seconds", "6"),
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(100):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode == 0, told.decode()
