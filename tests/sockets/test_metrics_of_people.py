"""Metrics of who is present, and of what admins did."""

from __future__ import annotations

import pytest
from admins import SECRET, admin_of, done
from hall import PATTERN, scraped, shows
from wire import Client, serving

from aquilia.sockets import AquilaSockets, Connection, Event, Presence, Socket, SocketController


@Socket(PATTERN, presence=Presence(rooms=("all",)))
class Peopled(SocketController):
    @Event("enter", ack=True)
    async def enter(self, conn: Connection, payload: str) -> None:
        await conn.join(payload)

    @Event("exit", ack=True)
    async def exit(self, conn: Connection) -> None:
        await conn.leave("all")


async def test_who_is_present_is_counted_and_so_are_the_changes() -> None:
    app = AquilaSockets.from_controllers([Peopled], metrics=True)
    async with (
        serving(app) as base,
        Client.connect(f"{base}/hall/a", "v1.json") as ann,
        Client.connect(f"{base}/hall/b") as bob,
        Client.connect(f"{base}/hall/a") as cem,
    ):
        figures = await scraped(base)
        assert figures.get_one("aquilia_presence_entries") == figures.get_one("aquilia_presence_members") == 0
        for client in (ann, bob):
            await client.request("enter", "all")
        await bob.request("enter", "not shown")
        await shows(base, "aquilia_presence_entries", 2)
        figures = await scraped(base)
        assert figures.get_one("aquilia_presence_members") == 2
        assert figures.get_one("aquilia_presence_changes_total", change="join") == 2
        assert figures.get_one("aquilia_presence_frames_total") == 0  # what ann got is no change
        await cem.request("enter", "all")
        await shows(base, "aquilia_presence_entries", 3)
        assert (await scraped(base)).get_one(
            "aquilia_presence_frames_total"
        ) == 1  # the others' are plain ones
        await ann.request("exit")
        await shows(base, "aquilia_presence_entries", 2)
        assert (await scraped(base)).get_one("aquilia_presence_changes_total", change="leave") == 1


async def test_what_admins_did_is_counted_by_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQ_ADMIN_SECRET", SECRET)
    app = AquilaSockets.from_controllers([Peopled], metrics=True, admin=True)
    async with serving(app) as base, admin_of(base) as admin:
        await done(admin, "kick", identity="ann")
        await done(admin, "purge-room", namespace="/hall/a", room="all")
        for _ in range(2):
            await admin.post("/kick", json={})
        await admin.get("/nodes")
        await admin.post("/kick", json={"identiti": "ann"})  # which is no order
        figures = await scraped(base)
    counted = {
        tuple(dict(labels)[name] for name in ("action", "result")): value
        for (name, labels), value in figures.items()
        if name == "aquilia_admin_actions_total"
    }
    assert counted == {("kick", "done"): 1, ("kick", "refused"): 2, ("purge-room", "done"): 1}
