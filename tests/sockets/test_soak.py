"""The short soak, as `tests/soak/soak.py --short` runs it: kills, cuts and stalls, and nothing lost or doubled."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

PATIENCE = 110.0
SOAK = Path(__file__).parent.parent / "soak" / "soak.py"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("broker", ["nats", "local"])
async def test_nothing_is_lost_or_doubled_when_servers_and_broker_are_killed(broker: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SOAK), "--short", "--broker", broker),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode == 0, told.decode()
