"""The short soaks: servers, a broker and connections that are killed, and workers that are replaced under load."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import succeeds

PATIENCE = 110.0
SOAK = Path(__file__).parent.parent / "soak" / "soak.py"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("broker", ["nats", "local", "redis"])
async def test_nothing_is_lost_or_doubled_when_servers_and_broker_are_killed(broker: str) -> None:
    await succeeds(str(SOAK), "--short", "--broker", broker, seconds=PATIENCE)


@pytest.mark.timeout(120)
async def test_nothing_is_lost_or_doubled_and_nobody_storms_in_a_rolling_restart() -> None:
    await succeeds(str(SOAK), "--short", "--rolling", seconds=PATIENCE)
