"""Sessions on connections: one cookie jar for HTTP and WebSocket, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI, Request
from session_pages import SECRET, Clock, Failing, Pages, shown
from wire import TRANSPORTS, Client, eventually, serving

from aquilia import AppManifest, RequestCtx, Session, SessionEngine
from aquilia.aquilary import BootError, Registry
from aquilia.asgi import Application
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Handshake,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
    SocketGuard,
)
from aquilia.sockets.faults import ws_forbidden
from aquilia.testing import HandshakeRefused, sockets_test, sockets_test_sync


class Door(SocketGuard):
    def check_handshake(self, handshake: Handshake) -> bool:
        if "visit" in handshake.query_params:
            handshake.session["visits"] = handshake.session.get("visits", 0) + 1
        return "no" not in handshake.query_params


GONE: list[Any] = []


@Socket("/ws", guards=[Door()])
class Desk(SocketController):
    @OnConnect()
    async def arrives(self, conn: Connection) -> None:
        if "greet" in conn.query_params:
            conn.session["greeted"] = True

    @OnDisconnect()
    async def leaves(self, conn: Connection) -> None:
        if "last" in conn.query_params:
            conn.session["left"] = True
            GONE.append(conn.session)

    @Event("show")
    async def show(self, conn: Connection) -> dict[str, Any]:
        return dict(conn.session)

    @Event("set")
    async def set(self, conn: Connection, payload: dict[str, Any]) -> None:
        conn.session.update(payload)

    @Event("append")
    async def append(self, conn: Connection, payload: str) -> None:
        conn.session["list"].append(payload)

    @Event("reload")
    async def reload(self, conn: Connection) -> dict[str, Any]:
        conn.session["mine"] = 1
        await conn.session.reload()
        return {"session": dict(conn.session), "ended": conn.session.ended, "there": bool(conn.session)}

    @Event("now")
    async def now(self, conn: Connection, payload: dict[str, Any]) -> bool:
        conn.session.update(payload)
        await conn.session.save()
        return bool(conn.session.modified)

    @Event("fault")
    async def fault(self, conn: Connection, payload: dict[str, Any]) -> None:
        conn.session.update(payload)
        raise ws_forbidden("not so")

    @Event("fail")
    async def fail(self, conn: Connection, payload: dict[str, Any]) -> None:
        conn.session.update(payload)
        raise ValueError("a mistake")

    @Event("rotate")
    async def rotate(self, conn: Connection) -> None:
        conn.session.rotate()

    @Event("logout")
    async def logout(self, conn: Connection) -> None:
        await conn.session.invalidate()


@contextlib.asynccontextmanager
async def house(
    transport: str = "native", *, engine: SessionEngine | None = None, **options: Any
) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    manifest = AppManifest(
        "desk", controllers=[Pages, Desk], sessions=engine or SessionEngine(SECRET), **options
    )
    app = Application(Registry.build([manifest]))
    async with (
        serving(app, ws=TRANSPORTS[transport]) as base,
        httpx.AsyncClient(base_url=base.replace("ws:", "http:"), trust_env=False) as browser,
    ):
        yield base, browser


@contextlib.asynccontextmanager
async def tab(base: str, browser: httpx.AsyncClient, query: str = "") -> AsyncIterator[Client]:
    """A connection with the browser's cookies, which takes those that the upgrade brings."""
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = {"Cookie": cookies} if cookies else {}
    async with Client.connect(f"{base}/ws?{query}", additional_headers=headers) as client:
        for line in client.socket.response.headers.get_all("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            browser.cookies.clear()
            if value.strip('"'):
                browser.cookies.set(name, value)
        yield client


async def data(client: Client, event: str, payload: Any = None) -> Any:
    answer = await client.request(event, payload)
    assert answer["status"] == "ok", answer
    return answer.get("data")


async def error(client: Client, event: str, payload: Any = None) -> Any:
    return (await client.request(event, payload))["error"]["code"]


@pytest.mark.parametrize("transport", list(TRANSPORTS))
async def test_a_socket_knows_who_has_logged_in_and_http_what_the_socket_has_noted(transport: str) -> None:
    async with house(transport) as (base, browser):
        await browser.post("/login")
        async with tab(base, browser) as client:
            assert await data(client, "show") == {"user": "ada"}
            await data(client, "set", {"draft": {"text": "hi"}, "list": []})
            assert await shown(browser) == {"user": "ada", "draft": {"text": "hi"}, "list": []}
            await data(client, "append", "a")
            await data(client, "append", "b")
            assert (await shown(browser))["list"] == ["a", "b"]


@pytest.mark.parametrize("transport", list(TRANSPORTS))
async def test_a_session_that_the_handshake_begins_has_its_cookie_with_the_upgrade(transport: str) -> None:
    async with house(transport) as (base, browser):
        async with tab(base, browser, "visit") as client:
            told = client.socket.response.headers["set-cookie"]
            assert told.startswith("aquilia_session=")
            assert "HttpOnly" in told
            assert await data(client, "show") == {"visits": 1}
            await data(client, "set", {"more": 1})
        assert await shown(browser) == {"visits": 1, "more": 1}
        async with tab(base, browser, "visit") as client:
            assert "set-cookie" not in client.socket.response.headers
            assert await data(client, "show") == {"visits": 2, "more": 1}


async def test_a_refused_handshake_keeps_what_it_noted() -> None:
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        with pytest.raises(websockets.InvalidStatus):
            async with tab(base, browser, "visit&no"):
                pass
        assert await shown(browser) == {"user": "ada", "visits": 1}


@pytest.mark.parametrize("transport", list(TRANSPORTS))
async def test_a_client_without_a_session_gets_none_and_a_handler_that_begins_one_is_told(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(transport) as (base, browser):
        async with tab(base, browser) as client:
            assert "set-cookie" not in client.socket.response.headers
            assert await data(client, "show") == {}
            assert await error(client, "set", {"a": 1}) == "WS_INTERNAL_ERROR"
            assert "begin it in an HTTP request, handshake middleware or a guard" in caplog.text
            assert await data(client, "show") == {}


async def test_tabs_do_not_undo_what_the_other_did() -> None:
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada", "both": 0})
        async with tab(base, browser) as one, tab(base, browser) as two:
            await data(one, "set", {"one": 1, "both": 1})
            await data(two, "set", {"two": 2})
            assert await shown(browser) == {"user": "ada", "one": 1, "two": 2, "both": 1}
            reloaded = await data(two, "reload")
            assert reloaded["session"] == {"user": "ada", "one": 1, "two": 2, "both": 1, "mine": 1}
            assert (await shown(browser))["mine"] == 1


async def test_many_connections_write_at_once_and_nothing_is_lost() -> None:
    async with house() as (base, browser), contextlib.AsyncExitStack() as stack:
        await browser.post("/set", json={"user": "ada"})
        tabs = [await stack.enter_async_context(tab(base, browser)) for _ in range(10)]
        await asyncio.gather(*(data(each, "set", {f"k{n}": n}) for n, each in enumerate(tabs)))
        assert await shown(browser) == {"user": "ada"} | {f"k{n}": n for n in range(10)}


@pytest.mark.parametrize("way", ["/logout", "logout", "/login"])
async def test_a_connection_does_not_bring_back_a_session_that_was_ended_elsewhere(way: str) -> None:
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        cookie = browser.cookies["aquilia_session"]
        async with tab(base, browser) as client, tab(base, browser) as other:
            if way.startswith("/"):
                await browser.post(way)
            else:
                await data(other, way)
            assert await data(client, "show") == {"user": "ada"}  # it was read at the handshake
            assert await error(client, "set", {"late": 1}) == "SESSION_ENDED"
            assert await data(client, "show") == {}
            assert await error(client, "set", {"later": 1}) == "SESSION_ENDED"
        assert await shown(browser, cookie) == {}


async def test_a_connection_that_reloads_learns_of_a_logout() -> None:
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        async with tab(base, browser) as client:
            assert (await data(client, "reload"))["ended"] is False
            await browser.post("/logout")
            assert await data(client, "reload") == {"session": {}, "ended": True, "there": False}


async def test_a_logout_on_the_connection_ends_the_session_for_all() -> None:
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        async with tab(base, browser) as client:
            await data(client, "logout")
            assert await shown(browser) == {}
            assert await data(client, "show") == {}
            assert await error(client, "set", {"late": 1}) == "WS_INTERNAL_ERROR"


async def test_a_connection_cannot_rotate(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        async with tab(base, browser) as client:
            assert await error(client, "rotate") == "WS_INTERNAL_ERROR"
            assert "here is no cookie to set" in caplog.text
            await data(client, "set", {"a": 1})
        assert await shown(browser) == {"user": "ada", "a": 1}


async def test_a_handler_that_refuses_keeps_its_changes_and_one_that_fails_does_not() -> None:
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        async with tab(base, browser) as client:
            assert await error(client, "fault", {"tries": 1}) == "WS_FORBIDDEN"
            assert await error(client, "fail", {"half": 1, "user": "eve"}) == "WS_INTERNAL_ERROR"
            assert await data(client, "show") == {"user": "ada", "tries": 1} == await shown(browser)


async def test_the_ends_of_a_connection_are_saved_as_well() -> None:
    GONE.clear()
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        async with tab(base, browser, "greet&last") as client:
            assert await data(client, "show") == {"user": "ada", "greeted": True}
            assert await shown(browser) == {"user": "ada", "greeted": True}
        await eventually(lambda: GONE and not GONE[0].modified)
        assert await shown(browser) == {"user": "ada", "greeted": True, "left": True}


async def test_a_handler_may_save_by_hand() -> None:
    async with house() as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        async with tab(base, browser) as client:
            assert await data(client, "now", {"a": 1}) is False
        assert await shown(browser) == {"user": "ada", "a": 1}


async def test_a_store_that_fails_is_told_to_the_client_and_nothing_is_half_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Failing()
    async with house(engine=SessionEngine(SECRET, store=store)) as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        async with tab(base, browser) as client:
            store.fails = True
            assert await error(client, "set", {"a": 1}) == "WS_INTERNAL_ERROR"
            assert "the store is away" in caplog.text
            store.fails = False
            assert await data(client, "show") == {"user": "ada"}
            await data(client, "set", {"b": 1})
        assert await shown(browser) == {"user": "ada", "b": 1}


async def test_a_store_that_fails_at_the_handshake_refuses_it() -> None:
    store = Failing()
    async with house(engine=SessionEngine(SECRET, store=store)) as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        store.fails = True
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with tab(base, browser, "visit"):
                pass
        assert refused.value.response.status_code == 500


async def test_a_connection_keeps_its_session_alive_by_writing_and_an_expired_one_is_ended() -> None:
    clock = Clock()
    engine = SessionEngine(SECRET, max_age=100, clock=clock)
    async with house(engine=engine) as (base, browser):
        await browser.post("/set", json={"user": "ada"})
        async with tab(base, browser) as client:
            for n in range(3):
                clock.now += 60
                await data(client, "set", {"n": n})
            clock.now += 101
            assert await error(client, "set", {"n": 4}) == "SESSION_ENDED"


async def test_sockets_alone_have_sessions_that_another_framework_begins() -> None:
    engine = SessionEngine(SECRET)
    sockets = AquilaSockets.from_controllers([Desk], sessions=engine)
    app = FastAPI(lifespan=sockets.lifespan)
    app.mount("/live", sockets)

    @app.middleware("http")
    async def sessions(request: Request, call_next: Any) -> Any:
        request.state.session = session = await engine.load(request)
        return await engine.finish(session, request, await call_next(request))

    @app.post("/login")
    async def login(request: Request) -> None:
        request.state.session["user"] = "ada"

    async with (
        serving(app) as base,
        httpx.AsyncClient(base_url=base.replace("ws:", "http:"), trust_env=False) as browser,
    ):
        await browser.post("/login")
        async with tab(f"{base}/live", browser) as client:
            assert await data(client, "show") == {"user": "ada"}


async def test_the_kit_gives_a_client_its_session() -> None:
    async with sockets_test(Desk, sessions=SessionEngine(SECRET)) as test:
        ada = await test.connect("/ws", session={"user": "ada"}, headers={"Cookie": "theme=dark"})
        assert await ada.request("show") == {"user": "ada"}
        nobody = await test.connect("/ws")
        assert await nobody.request("show") == {}
        with pytest.raises(HandshakeRefused):
            await test.connect("/ws?no", session={"user": "ada"})


def test_the_kit_for_tests_that_are_no_coroutines_does_too() -> None:
    with sockets_test_sync(Desk, sessions=SessionEngine(SECRET)) as test:
        assert test.connect("/ws", session={"user": "ada"}).request("show") == {"user": "ada"}


@Socket("/bare")
class Bare(SocketController):
    @Event("what")
    async def what(self, conn: Connection) -> str:
        return type(conn.session).__name__


async def test_the_kit_has_no_session_for_an_application_without() -> None:
    async with sockets_test(Bare) as test:
        with pytest.raises(TypeError, match="declared with sessions=SessionEngine"):
            await test.connect("/bare", session={"user": "ada"})
        client = await test.connect("/bare")
        assert await client.request("what") == "NoneType"
    with pytest.raises(TypeError, match="sessions: only controllers take these"):
        async with sockets_test(AppManifest("x", controllers=[Bare]), sessions=SessionEngine(SECRET)):
            pass


async def test_a_middleware_may_put_a_session_of_its_own_kind_there() -> None:
    async def own(ctx: RequestCtx, call_next: Any) -> Any:
        assert isinstance(ctx.session, Session)
        ctx.session = {"own": True}
        return await call_next(ctx)

    async with sockets_test(Bare, sessions=SessionEngine(SECRET), middleware=[own]) as test:
        client = await test.connect("/bare")
        assert await client.request("what") == "dict"


def test_sockets_alone_need_a_secret_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AQ_SESSION_SECRET", raising=False)
    with pytest.raises(BootError, match="sessions need a secret: set AQ_SESSION_SECRET"):
        AquilaSockets.from_controllers([Bare], sessions=SessionEngine())


@Socket("/memory", guards=[Door()])
class Memory(SocketController):
    @Event("recall")
    async def recall(self, conn: Connection) -> dict[str, Any]:
        return dict(conn.session)


async def test_a_session_ends_on_the_clock_of_a_test() -> None:
    async with sockets_test(Memory, sessions=SessionEngine(SECRET, max_age=60)) as t:
        first = await t.connect("/memory", query={"visit": "1"})
        cookie = {"cookie": first.headers["set-cookie"].partition(";")[0]}
        await t.clock.advance(59)
        second = await t.connect("/memory", headers=cookie)
        assert await second.request("recall") == {"visits": 1}
        await t.clock.advance(61)
        late = await t.connect("/memory", headers=cookie)
        assert await late.request("recall") == {}
