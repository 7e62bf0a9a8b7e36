"""What tests of the admin share: an application with one, its secret, and a client that has it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
from msgspec import Struct
from wire import TIMEOUT, eventually, serving

from aquilia import Identity
from aquilia.sockets import AquilaSockets, Connection, Emits, Event, History, Socket, SocketController

SECRET = "the secret of an admin, of 32 bytes".replace(" ", "-")
ADMIN = "/_aquilia/admin"


class Names:
    """An AuthManager whose tokens are names."""

    async def authenticate(self, token: str) -> Identity:
        return Identity(token)


class Notice(Struct):
    text: str


@Socket("/hall/:name", history={"log:*": History(size=10)})
class Hall(SocketController):
    notice = Emits("notice", Notice)

    @Event("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        await conn.join(payload)
        return conn.id

    @Event("rooms")
    async def rooms(self, conn: Connection) -> list[str]:
        return sorted(conn.rooms)

    @Event("remembered")
    async def remembered(self, conn: Connection, payload: str) -> list[Any]:
        return [message.payload for message in (await self.history(payload)).messages]


def hall(**settings: Any) -> AquilaSockets:
    return AquilaSockets.from_controllers([Hall], auth=Names(), **{"admin": True, **settings})


@contextlib.asynccontextmanager
async def admin_of(base: str, secret: str | None = SECRET) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the admin's endpoints of a server at `ws://…`."""
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    url = base.replace("ws://", "http://") + ADMIN
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False) as client:
        yield client


@contextlib.asynccontextmanager
async def halls(url: str, count: int, **settings: Any) -> AsyncIterator[list[tuple[AquilaSockets, str]]]:
    """So many nodes that know each other, with their addresses."""
    async with contextlib.AsyncExitStack() as stack:
        apps = [hall(adapter_url=url, **settings) for _ in range(count)]
        bases = [await stack.enter_async_context(serving(app)) for app in apps]
        await eventually(lambda: all(len(app.cluster.nodes()) == count for app in apps))
        yield list(zip(apps, bases, strict=True))


async def done(client: httpx.AsyncClient, operation: str, **order: Any) -> Any:
    """What an operation answers that acts."""
    response = await client.post(f"/{operation}", json=order)
    assert response.status_code == 200, response.text
    return response.json()


async def seen(client: httpx.AsyncClient, operation: str, **query: Any) -> Any:
    """What an operation answers that looks."""
    response = await client.get(f"/{operation}", params=query)
    assert response.status_code == 200, response.text
    return response.json()
