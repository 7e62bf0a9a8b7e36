"""The short soak, as `tests/soak/soak.py --short` runs it: kills, cuts and stalls, and nothing lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import succeeds

PATIENCE = 110.0
SOAK = Path(__file__).parent.parent / "soak" / "soak.py"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("broker", ["nats", "local"])
async def test_nothing_is_lost_or_doubled_when_servers_and_broker_are_killed(broker: str) -> None:
    await succeeds(str(SOAK), "--short", "--broker", broker, seconds=PATIENCE)
