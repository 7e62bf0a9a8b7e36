"""What the tests of sessions share: an application that puts things in, a store that fails, and a clock to move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.responses import Response

from aquilia import GET, POST, AppManifest, Controller, Fault, MemorySessionStore, RequestCtx, SessionEngine
from aquilia.aquilary import Registry
from aquilia.asgi import Application

SECRET = "a secret of 32 bytes, or of more"
ALL = Response("for all")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Failing(MemorySessionStore):
    """Cannot be written to while it `fails`."""

    fails = False

    async def update(
        self, id: str, changes: Mapping[str, bytes], removed: Collection[str], ttl: float
    ) -> int | None:
        if self.fails:
            raise ConnectionError("the store is away")
        return await super().update(id, changes, removed, ttl)


class Pages(Controller):
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waits = asyncio.Event()

    @GET("/plain")
    async def plain(self) -> str:
        return "plain"

    @GET("/show")
    async def show(self, ctx: RequestCtx) -> dict[str, Any]:
        return dict(ctx.session)

    @POST("/set")
    async def set(self, ctx: RequestCtx, body: dict[str, Any]) -> None:
        ctx.session.update(body)

    @POST("/unset")
    async def unset(self, ctx: RequestCtx, key: str) -> None:
        del ctx.session[key]

    @POST("/clear")
    async def clear(self, ctx: RequestCtx) -> None:
        ctx.session.clear()

    @POST("/login")
    async def login(self, ctx: RequestCtx) -> None:
        ctx.session["user"] = "ada"
        ctx.session.rotate()

    @POST("/logout")
    async def logout(self, ctx: RequestCtx) -> None:
        await ctx.session.invalidate()
        assert not ctx.session

    @POST("/swap")
    async def swap(self, ctx: RequestCtx) -> None:
        await ctx.session.invalidate()
        ctx.session["fresh"] = True

    @POST("/append")
    async def append(self, ctx: RequestCtx, item: str) -> list[str]:
        found: list[str] = ctx.session.setdefault("cart", [])
        found.append(item)
        return found

    @POST("/fail")
    async def fail(self, ctx: RequestCtx, status: int, save: bool = False) -> None:
        ctx.session["tried"] = True
        if save:
            await ctx.session.save()
        raise Fault("NO", "no", status=status)

    @POST("/wait")
    async def wait(self, ctx: RequestCtx, key: str) -> None:
        ctx.session[key] = True
        self.waits.set()
        await self.gate.wait()

    @POST("/go")
    async def go(self) -> None:
        self.gate.set()

    @GET("/waits")
    async def until_it_waits(self) -> None:
        await self.waits.wait()

    @GET("/shared")
    async def shared(self, ctx: RequestCtx) -> Response:
        ctx.session["x"] = 1
        return ALL

    @GET("/same")
    async def same(self) -> Response:
        return ALL


@asynccontextmanager
async def serving(
    engine: SessionEngine, *controllers: type[Controller], middleware: Any = ()
) -> AsyncIterator[Any]:
    manifest = AppManifest(
        "pages", controllers=controllers or [Pages], sessions=engine, middleware=middleware
    )
    app = Application(Registry.build([manifest]))
    await app.startup()
    try:
        yield app
    finally:
        await app.shutdown()


async def shown(client: httpx.AsyncClient, cookie: str | None = None) -> Any:
    if cookie is not None:
        client.cookies.clear()
        client.cookies.set("aquilia_session", cookie)
    return (await client.get("/show")).json()
