"""Clients that mean harm, for a few seconds: `make abuse ARGS="--seconds 6"`."""

from __future__ import annotations

import pytest
from processes import succeeds


@pytest.mark.timeout(120)
async def test_a_server_holds_no_more_than_before_when_hostile_clients_have_gone() -> None:
    await succeeds("abuse", "--seconds", "6", seconds=100)
