"""Revocation over nodes: two processes at one broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient
from nats_server import NatsServer
from nodes import node
from ports import reserved_port
from redis_servers import RedisServer, fresh_prefix
from roads import Road
from websockets import ConnectionClosed
from wire import Client

from aquilia import Identity, JWTAuthManager

KEY = "the key of these tests: 32 bytes or more"
JWT = JWTAuthManager(KEY)
REVOKED = (4401, "WS_AUTH_REQUIRED: access was revoked")
APP = f"""
from aquilia import (
    POST, AppManifest, Controller, Identity, JWTAuthManager, RequestCtx, SessionEngine, SQLSessionStore,
)
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.sockets import Connection, Event, Revocations, Socket, SocketController


@Socket("/desk")
class Desk(SocketController):
    @Event("whoami")
    async def whoami(self, conn: Connection) -> str:
        return conn.identity.id


class Admin(Controller):
    def __init__(self, revocations: Revocations) -> None:
        self.revocations = revocations

    @POST("/revoke/:kind/:id")
    async def revoke(self, kind: str, id: str) -> None:
        await self.revocations.revoke(**{{kind: id}})

    @POST("/login/:name", status=204)
    async def login(self, ctx: RequestCtx, name: str) -> None:
        ctx.session.login(Identity(name))

    @POST("/logout", status=204)
    async def logout(self, ctx: RequestCtx) -> None:
        await ctx.session.logout()


app = Application(Registry.build([AppManifest(
    "desk",
    controllers=[Desk, Admin],
    auth=JWTAuthManager({KEY!r}),
    sessions=SessionEngine(
        {KEY!r}, store=SQLSessionStore("sqlite+aiosqlite:///sessions.db", create_tables=True), max_age=5
    ),
    websockets={{"revocation": True}},
)]))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    yield server
    server.kill()


def token(id: str, jti: str) -> str:
    return JWT.issue(Identity(id, token_id=jti), lifetime=3600)


def visiting(at: str, token: str) -> contextlib.AbstractAsyncContextManager[Client]:
    return Client.connect(f"ws://{at}/desk", additional_headers={"authorization": f"Bearer {token}"})


async def arrival(at: str, token: str) -> Any:
    """What becomes of a client of v1 that says its token in `hello`."""
    async with Client.connect(f"ws://{at}/desk", "v1.json", hello=False) as client:
        await client.send("hello", {"token": token}, type="control")
        try:
            return (await client.receive())["event"]
        except ConnectionClosed:
            return await client.closed()


async def test_what_one_node_revokes_ends_on_the_other_within_a_second_and_stays_out_of_both(
    server: NatsServer, tmp_path: Path
) -> None:
    url = server.url()
    with reserved_port() as first, reserved_port() as second:
        async with node(tmp_path, APP, url, first) as a, AsyncClient() as http:
            async with (
                node(tmp_path, APP, url, second) as b,
                visiting(b, token("ann", "x")) as ann,
                visiting(b, token("ben", "y")) as ben,
                visiting(b, token("cy", "z")) as cy,
            ):
                for kind, id, client in (("token_id", "x", ann), ("identity", "ben", ben)):
                    assert (await http.post(f"http://{a}/revoke/{kind}/{id}")).is_success
                    async with asyncio.timeout(1):
                        assert await client.closed() == REVOKED
                assert (await cy.request("whoami"))["data"] == "cy"
                assert await arrival(b, token("ann", "x")) == REVOKED
            async with node(tmp_path, APP, url, second) as b:
                for at in (a, b):
                    assert await arrival(at, token("ann", "x")) == REVOKED
                    assert await arrival(at, token("ann", "new")) == "welcome"


async def test_a_session_is_one_on_both_nodes_whatever_its_id_and_ends_on_both(
    server: NatsServer, tmp_path: Path
) -> None:
    url = server.url()
    with reserved_port() as first, reserved_port() as second:
        async with (
            node(tmp_path, APP, url, first) as a,
            node(tmp_path, APP, url, second) as b,
            AsyncClient(base_url=f"http://{a}") as http,
        ):
            await http.post("/login/ann")
            async with by_session(b, http) as before:
                await http.post("/login/ann")  # another id
                async with by_session(b, http) as after:
                    for each in (before, after):
                        assert (await each.request("whoami"))["data"] == "ann"
                    assert (await http.post("/logout")).is_success
                    for each in (before, after):
                        assert await each.closed() == REVOKED

            await http.post("/login/ann")
            async with by_session(b, http) as unused:
                assert await unused.closed() == (4401, "WS_TOKEN_EXPIRED: the session has expired")


def by_session(at: str, http: AsyncClient) -> contextlib.AbstractAsyncContextManager[Client]:
    cookie = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    return Client.connect(f"ws://{at}/desk", additional_headers={"cookie": cookie})


async def test_a_node_that_was_cut_off_ends_what_was_revoked_meanwhile_when_it_is_back(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    prefix = fresh_prefix()
    near = redis_server.url(prefix)
    with reserved_port() as first, reserved_port() as second:
        async with (
            Road.to(redis_server.port) as road,
            node(tmp_path, APP, near, first) as a,
            node(tmp_path, APP, redis_server.url(prefix, port=road.port), second) as b,
            AsyncClient() as http,
            visiting(b, token("ann", "x")) as ann,
            visiting(b, token("ben", "y")) as ben,
        ):
            await road.close()
            assert (await http.post(f"http://{a}/revoke/token_id/x")).is_success
            assert (await http.post(f"http://{b}/revoke/token_id/y", timeout=30)).status_code == 503
            assert (await ann.request("whoami"))["data"] == "ann"

            await road.mend()

            assert await ann.closed() == REVOKED
            assert (await ben.request("whoami"))["data"] == "ben"
