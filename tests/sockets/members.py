"""Controllers that ask in different ways who a client is, the users that they know, and how clients tell."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from tokens import Passwords
from wire import Client

from aquilia import Identity
from aquilia.middleware import CallNext
from aquilia.sockets import (
    Connection,
    Event,
    Guard,
    Handshake,
    HandshakeAuthGuard,
    OnConnect,
    OriginGuard,
    RoleGuard,
    Socket,
    SocketController,
    SocketGuard,
)

V1 = "aquilia.v1.json"
PLAIN = "aquilia.plain.json"


class Asked(SocketGuard):
    """Stands behind the guard on identities, and relies on it."""

    priority = 60

    def check_handshake(self, handshake: Handshake) -> bool:
        return handshake.identity.id != "mallory"


class Who(SocketController):
    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        conn.state["greeted"] = True

    @Event("who")
    async def who(self, conn: Connection) -> Any:
        assert conn.state["greeted"]
        return conn.identity.id if conn.identity else None

    @Event("say")
    async def say(self, conn: Connection, payload: str) -> None:
        await conn.send_event("said", [payload, conn.identity.id])

    @Event("tell")
    async def tell(self, conn: Connection, payload: list[str]) -> None:
        await self.publish_identity(payload[0], "told", payload[1])

    @Event("roles")
    async def roles(self, conn: Connection) -> list[str]:
        return sorted(conn.identity.roles)


@Socket("/open")
class Open(Who):
    """Who it is need not be said."""


@Socket("/members", require_auth=True)
class Members(Who):
    @Guard(on="handshake")
    async def not_eve(self, handshake: Handshake) -> bool:
        return bool(handshake.identity.id != "eve")


@Socket("/guarded", guards=[HandshakeAuthGuard(), Asked()])
class Guarded(Who):
    pass


@Socket(
    "/origins",
    guards=[HandshakeAuthGuard(), OriginGuard(["https://good.example"])],
    allowed_origins=["https://good.example", "https://bad.example"],
)
class Origins(Who):
    pass


@Socket("/admins", guards=[RoleGuard("admin")])
class Admins(Who):
    pass


CONTROLLERS = [Open, Members, Guarded, Origins, Admins]


class Slow(Passwords):
    """Takes its time with some."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()

    async def authenticate(self, token: str) -> Identity:
        if token.startswith("slow") and not self.let_go.is_set():
            self.asked.append(f"asked {token}")
            await self.let_go.wait()
        return await super().authenticate(token)


async def by_cookie(ctx: Any, call_next: CallNext) -> Any:
    if name := ctx.request.cookies.get("user"):
        ctx.identity = Identity(name, expires_at=0 if name == "gone" else None)
    return await call_next(ctx)


def offering(*entries: str) -> dict[str, Any]:
    return {"subprotocols": list(entries)}


def bearer(token: str) -> dict[str, Any]:
    return {"additional_headers": {"authorization": f"Bearer {token}"}}


def encoded(token: str) -> str:
    return "aquilia.bearer64." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


async def who(client: Client) -> Any:
    return (await client.request("who")).get("data")


async def hello(client: Client, **payload: Any) -> None:
    await client.send("hello", payload, type="control")
