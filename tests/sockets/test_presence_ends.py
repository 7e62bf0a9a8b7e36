"""Presence of those whom the server shows out: they do not come back, so nobody waits for them."""

from __future__ import annotations

from typing import Any

import pytest
from test_presence import Team, change, enter, told

from aquilia.sockets import Connection, Event, Socket
from aquilia.sockets.faults import ws_forbidden
from aquilia.testing import sockets_test


class Strict(Team):
    @Event("kick")
    async def kick_out(self, conn: Connection, payload: str) -> bool:
        return await self.kick(payload)

    @Event("forbid")
    async def forbid(self, conn: Connection) -> None:
        fault = ws_forbidden()
        await conn.disconnect(4403, fault.message)


async def shown_out(t: Any, how: str, ann: Any, bob: Any) -> None:
    if how == "kicked":
        assert await ann.request("kick", bob.connection)
    elif how == "forbidden":
        await bob.send("forbid")
    else:
        await t.application.sockets.revoke(identity="bob")
    await bob.closed()


@pytest.mark.parametrize("how", ["kicked", "forbidden", "revoked"])
async def test_who_is_shown_out_has_left_with_the_next_look(how: str) -> None:
    controller = Socket("/team", presence=True)(type("AnyStrict", (Strict,), {}))
    async with sockets_test(controller, revocation=True) as t:
        ann, bob = await enter(t, "ann"), await enter(t, "bob")
        await t.clock.advance(1)
        await told(ann)
        await shown_out(t, how, ann, bob)
        await t.clock.advance(1)
        assert await told(ann) == change(leaves={"bob": {}})
