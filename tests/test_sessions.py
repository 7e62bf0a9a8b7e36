"""Sessions over HTTP: the cookie, what is kept, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from http_app import client_of
from itsdangerous import TimestampSigner
from session_pages import SECRET, Clock, Failing, serving, shown
from starlette.requests import HTTPConnection
from starlette.responses import Response

from aquilia import GET, POST, Controller, MemorySessionStore, RequestCtx, Session, SessionEngine

OLD_SECRET = "another secret, of which is no use"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> SessionEngine:
    return SessionEngine(SECRET, max_age=1000, clock=clock)


@pytest.fixture
async def client(engine: SessionEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(engine) as app, client_of(app) as client:
        yield client


async def test_what_one_request_puts_in_the_next_one_finds(client: httpx.AsyncClient) -> None:
    put = await client.post("/set", json={"name": "ada", "n": [1, {"a": None}]})
    assert put.status_code == 204
    assert await shown(client) == {"name": "ada", "n": [1, {"a": None}]}


async def test_the_cookie_is_set_once_and_only_when_there_is_something_to_keep(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/plain", "/show"):
        assert "set-cookie" not in (await client.get(path)).headers
    first = await client.post("/set", json={"a": 1})
    attributes = first.headers["set-cookie"].split("; ")
    assert attributes[0].startswith("aquilia_session=")
    assert attributes[1:] == ["HttpOnly", "Max-Age=1000", "Path=/", "SameSite=lax"]
    assert "set-cookie" not in (await client.post("/set", json={"a": 2})).headers
    assert "set-cookie" not in (await client.get("/show")).headers


async def test_caches_are_told_what_depends_on_the_cookie(client: httpx.AsyncClient) -> None:
    assert "vary" not in (await client.get("/plain")).headers
    assert (await client.get("/show")).headers["vary"] == "Cookie"
    assert (await client.post("/set", json={"a": 1})).headers["vary"] == "Cookie"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, "private"),
        ("public, max-age=60, s-maxage=600", "private, max-age=60"),
        ("Public", "private"),
        ("no-cache", "private, no-cache"),
        ("no-store", "no-store"),
        ("private, max-age=5", "private, max-age=5"),
    ],
)
async def test_no_shared_cache_keeps_a_cookie(engine: SessionEngine, given: str | None, sent: str) -> None:
    class Cached(Controller):
        @GET("/cached")
        async def cached(self, ctx: RequestCtx) -> Response:
            ctx.session["seen"] = True
            return Response("x", headers={} if given is None else {"cache-control": given})

    async with serving(engine, Cached) as app, client_of(app) as client:
        first = await client.get("/cached")
        assert "set-cookie" in first.headers
        assert first.headers["cache-control"] == sent
        second = await client.get("/cached")
        assert "set-cookie" not in second.headers
        assert second.headers.get("cache-control") == given


async def test_a_response_that_many_requests_share_carries_nobodys_cookie(client: httpx.AsyncClient) -> None:
    assert "set-cookie" in (await client.get("/shared")).headers
    assert "set-cookie" not in (await client.get("/same")).headers
    assert "vary" not in (await client.get("/same")).headers


async def test_a_change_inside_a_list_is_kept(client: httpx.AsyncClient) -> None:
    for item, cart in (("a", ["a"]), ("b", ["a", "b"])):
        assert (await client.post("/append", params={"item": item})).json() == cart
    assert await shown(client) == {"cart": ["a", "b"]}


async def test_the_last_key_that_is_removed_takes_cookie_and_session_with_it(
    client: httpx.AsyncClient, engine: SessionEngine
) -> None:
    await client.post("/set", json={"a": 1, "b": 2})
    assert "set-cookie" not in (await client.post("/unset", params={"key": "a"})).headers
    gone = await client.post("/unset", params={"key": "b"})
    assert "Max-Age=0" in gone.headers["set-cookie"]
    assert len(client.cookies) == 0
    assert len(engine.store) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/clear", "/logout"])
async def test_a_session_that_was_ended_cannot_be_used_again(client: httpx.AsyncClient, path: str) -> None:
    await client.post("/set", json={"user": "ada"})
    cookie = client.cookies["aquilia_session"]
    assert "Max-Age=0" in (await client.post(path)).headers["set-cookie"]
    assert await shown(client, cookie) == {}


async def test_an_invalidated_session_can_be_followed_by_another(client: httpx.AsyncClient) -> None:
    await client.post("/set", json={"user": "ada"})
    cookie = client.cookies["aquilia_session"]
    await client.post("/swap")
    assert client.cookies["aquilia_session"] != cookie
    assert await shown(client) == {"fresh": True}
    assert await shown(client, cookie) == {}


async def test_a_login_changes_the_id_and_keeps_the_data(client: httpx.AsyncClient) -> None:
    await client.post("/set", json={"cart": [1]})
    cookie = client.cookies["aquilia_session"]
    await client.post("/login")
    assert client.cookies["aquilia_session"] != cookie
    assert await shown(client) == {"cart": [1], "user": "ada"}
    assert await shown(client, cookie) == {}


async def test_a_login_is_the_first_thing_in_a_session_as_well(client: httpx.AsyncClient) -> None:
    await client.post("/login")
    assert await shown(client) == {"user": "ada"}


def forged() -> list[Any]:
    wrong = TimestampSigner("x" * 32, salt="aquilia.sessions").sign("id").decode()
    right_id = TimestampSigner(SECRET).sign("id").decode()
    # The signatures are of this second, and no names for tests.
    signed = [pytest.param(wrong, id="other key"), pytest.param(right_id, id="other purpose")]
    return ["", "x", "a.b.c", "id", *signed, "a" * 5000, "....", "\u00e9.\u00e9.\u00e9", "%00"]


@pytest.mark.parametrize("cookie", forged())
async def test_a_cookie_that_is_not_ours_is_none(client: httpx.AsyncClient, cookie: str) -> None:
    header = {"cookie": f"aquilia_session={cookie}".encode("latin-1")}
    assert (await client.get("/show", headers=header)).json() == {}
    begun = await client.post("/set", json={"a": 1}, headers=header)
    assert begun.status_code == 204
    assert begun.cookies["aquilia_session"].split(".")[0] not in cookie.split(".")
    assert await shown(client) == {"a": 1}


async def test_a_changed_cookie_leads_to_no_session(client: httpx.AsyncClient) -> None:
    await client.post("/set", json={"a": 1})
    cookie = client.cookies["aquilia_session"]
    assert await shown(client, cookie) == {"a": 1}
    for place in (0, len(cookie) // 2, len(cookie) - 5):
        changed = cookie[:place] + ("A" if cookie[place] != "A" else "B") + cookie[place + 1 :]
        assert await shown(client, changed) == {}


async def test_a_well_signed_id_that_names_no_session_is_not_taken_over(
    client: httpx.AsyncClient, engine: SessionEngine
) -> None:
    client.cookies.set("aquilia_session", engine.sign("an-id-of-my-own"))
    begun = await client.post("/set", json={"a": 1})
    assert not begun.cookies["aquilia_session"].startswith("an-id-of-my-own")


async def test_secrets_can_be_changed_without_logging_anybody_out() -> None:
    store = MemorySessionStore()
    async with serving(SessionEngine(OLD_SECRET, store=store)) as app, client_of(app) as client:
        await client.post("/set", json={"a": 1})
        cookie = client.cookies["aquilia_session"]
    async with serving(SessionEngine([SECRET, OLD_SECRET], store=store)) as app, client_of(app) as client:
        assert await shown(client, cookie) == {"a": 1}
        new = (await client.post("/login")).cookies["aquilia_session"]
    async with serving(SessionEngine(SECRET.encode(), store=store)) as app, client_of(app) as client:
        assert await shown(client, cookie) == {}
        assert await shown(client, new) == {"a": 1, "user": "ada"}


async def test_a_session_that_is_used_lives_on_and_an_idle_one_ends(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    await client.post("/set", json={"a": 1})
    clock.now += 90
    assert "set-cookie" not in (await client.get("/plain")).headers  # no tenth of its life is over
    for _ in range(3):
        clock.now += 900
        renewed = await client.get("/plain")
        assert "Max-Age=1000" in renewed.headers["set-cookie"]
    assert await shown(client) == {"a": 1}
    cookie = client.cookies["aquilia_session"]
    clock.now += 1001
    assert await shown(client, cookie) == {}


async def test_a_cookie_older_than_its_time_is_refused_even_where_the_session_lives(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    await client.post("/set", json={"a": 1})
    old = client.cookies["aquilia_session"]
    clock.now += 900
    await client.get("/plain")
    new = client.cookies["aquilia_session"]
    clock.now += 200
    assert await shown(client, old) == {}
    assert await shown(client, new) == {"a": 1}


async def test_a_clock_that_is_behind_that_of_another_host_takes_its_cookies(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    await client.post("/set", json={"a": 1})
    clock.now -= 30
    assert await shown(client) == {"a": 1}


@pytest.mark.parametrize(
    ("status", "kept"), [(400, {"tried": True}), (499, {"tried": True}), (500, {}), (503, {})]
)
async def test_what_a_refused_request_put_in_is_kept_but_not_that_of_a_failed_one(
    client: httpx.AsyncClient, status: int, kept: dict[str, Any]
) -> None:
    assert (await client.post("/fail", params={"status": status})).status_code == status
    assert await shown(client) == kept


async def test_a_session_that_a_failed_request_saved_by_itself_has_its_cookie(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/fail", params={"status": 500, "save": True})
    assert await shown(client) == {"tried": True}


async def test_two_requests_at_once_do_not_undo_what_the_other_did(client: httpx.AsyncClient) -> None:
    await client.post("/set", json={"a": 1, "b": 1})
    slow = asyncio.create_task(client.post("/wait", params={"key": "slow"}))
    await client.get("/waits")
    await client.post("/set", json={"a": 2})
    await client.post("/unset", params={"key": "b"})
    await client.post("/go")
    assert (await slow).status_code == 204
    assert await shown(client) == {"a": 2, "slow": True}


async def test_a_request_that_was_under_way_at_the_logout_does_not_bring_the_session_back(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/set", json={"user": "ada"})
    cookie = client.cookies["aquilia_session"]
    slow = asyncio.create_task(client.post("/wait", params={"key": "slow"}))
    await client.get("/waits")
    await client.post("/logout")
    await client.post("/go")
    late = await slow
    assert (late.status_code, late.json()["code"]) == (409, "SESSION_ENDED")
    assert "set-cookie" not in late.headers
    assert await shown(client, cookie) == {}


class Odd(Controller):
    @POST("/:what")
    async def put(self, ctx: RequestCtx, what: str) -> str:
        loop: list[Any] = []
        loop.append(loop)
        odd = {"object": object(), "int": 2**70, "nested": {"a": [object()]}, "loop": loop, "text": "\ud800"}
        with pytest.raises(TypeError, match=r"session\['thing'\]: .* cannot be kept") as told:
            ctx.session["thing"] = odd[what]
        assert "thing" not in ctx.session
        with pytest.raises(TypeError, match="a session's keys are strings, not 3"):
            ctx.session[3] = "x"
        return str(told.value)


@pytest.mark.parametrize("what", ["object", "int", "nested", "loop", "text"])
async def test_what_is_no_data_is_refused_where_it_is_put_in(engine: SessionEngine, what: str) -> None:
    async with serving(engine, Odd) as app, client_of(app) as client:
        assert (await client.post(f"/{what}")).status_code == 200


class Types(Controller):
    @POST("/")
    async def put(self, ctx: RequestCtx) -> bool:
        ctx.session["pair"] = (1, 2)
        ctx.session["when"] = datetime(2024, 5, 1, tzinfo=UTC)
        return self.right(ctx)

    @GET("/")
    async def get(self, ctx: RequestCtx) -> bool:
        return self.right(ctx)

    def right(self, ctx: RequestCtx) -> bool:
        return dict(ctx.session) == {"pair": [1, 2], "when": datetime(2024, 5, 1, tzinfo=UTC)}


async def test_a_value_is_the_same_at_once_and_in_the_next_request(engine: SessionEngine) -> None:
    async with serving(engine, Types) as app, client_of(app) as client:
        assert (await client.post("/")).json() is True
        assert (await client.get("/")).json() is True


class Story(Controller):
    @POST("/")
    async def tell(self, ctx: RequestCtx) -> list[Any]:
        session = ctx.session
        told = [session.is_new, session.modified, bool(session)]
        session["a"] = 1
        told += [session.is_new, session.modified, bool(session)]
        await session.save()
        told += [session.is_new, session.modified, len(session), list(session)]
        del session["a"]
        assert "a" not in session
        with pytest.raises(KeyError):
            session["a"]
        with pytest.raises(KeyError):
            del session["a"]
        session["b"] = 2
        await session.save()
        await session.reload()
        assert session.id not in repr(session)
        return [*told, dict(session), session.ended]


async def test_a_session_tells_how_it_stands(engine: SessionEngine) -> None:
    async with serving(engine, Story) as app, client_of(app) as client:
        assert (await client.post("/")).json() == [
            *(True, False, False),
            *(True, True, True),
            *(False, False, 1, ["a"]),
            *({"b": 2}, False),
        ]


async def test_middleware_of_the_app_finds_the_session(engine: SessionEngine) -> None:
    async def members(ctx: RequestCtx, call_next: Any) -> Response:
        if not ctx.session:
            return Response("who are you?", 401)
        answer: Response = await call_next(ctx)
        ctx.session["seen"] = True
        return answer

    async with serving(engine, middleware=[members]) as app, client_of(app) as client:
        assert (await client.get("/plain")).status_code == 401
        known = app.registry.apps[0].sessions
        session = await known.load(type("Nobody", (), {"cookies": {}}))
        session["user"] = "ada"
        await session.save()
        client.cookies.set("aquilia_session", known.sign(session.id))
        assert (await client.get("/plain")).text == "plain"
        assert await shown(client) == {"user": "ada", "seen": True}


async def test_a_store_that_fails_is_an_error_and_no_silence(caplog: pytest.LogCaptureFixture) -> None:
    store = Failing()
    async with serving(SessionEngine(SECRET, store=store)) as app, client_of(app) as client:
        await client.post("/set", json={"a": 1})
        store.fails = True
        answer = await client.post("/set", json={"a": 2})
        assert (answer.status_code, answer.json()["code"]) == (500, "HTTP_INTERNAL_ERROR")
        assert "the store is away" in caplog.text
        assert await shown(client) == {"a": 1}


class Slow(MemorySessionStore):
    """Writes when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = asyncio.Event()
        self.let = asyncio.Event()
        self.let.set()

    async def create(self, *arguments: Any) -> None:
        self.writes.set()
        await self.let.wait()
        await super().create(*arguments)

    async def update(self, *arguments: Any) -> int | None:
        self.writes.set()
        await self.let.wait()
        return await super().update(*arguments)


def connection(cookie: str = "") -> HTTPConnection:
    return HTTPConnection({"type": "http", "headers": [(b"cookie", cookie.encode())]})


@pytest.mark.parametrize("is_new", [True, False])
async def test_what_changes_while_it_is_being_written_is_written_behind(is_new: bool) -> None:
    store = Slow()
    engine = SessionEngine(SECRET, store=store)
    session = await engine.load(connection())
    if not is_new:
        session["kept"] = True
        await session.save()
    store.let.clear()
    store.writes.clear()
    session.update(out=1, changed=1)
    saving = asyncio.create_task(session.save())
    await store.writes.wait()
    del session["out"]
    session.update(changed=2, new=3)
    again = asyncio.create_task(session.save())
    store.let.set()
    await asyncio.gather(saving, again)
    assert not session.modified
    found = await engine.load(connection(f"aquilia_session={engine.sign(session.id)}"))
    assert found == session == {"changed": 2, "new": 3} | ({} if is_new else {"kept": True})


async def test_a_change_that_is_saved_nowhere_stays_through_a_reload() -> None:
    engine = SessionEngine(SECRET)
    begun = await engine.load(connection())
    begun.update(a=1, b=1, c=1, d=[1])
    await begun.save()
    one, two = [await engine.load(connection(f"aquilia_session={engine.sign(begun.id)}")) for _ in range(2)]
    assert dict(one) == dict(two)
    two.update(a=2, b=2)
    two["d"].append(2)
    await two.save()
    one["a"] = 3
    del one["c"]
    await one.reload()
    assert one == {"a": 3, "b": 2, "d": [1, 2]}
    await one.save()
    await two.reload()
    assert two == one


async def test_a_session_that_expires_under_a_request_that_only_reads_is_no_error() -> None:
    clock = Clock()
    engine = SessionEngine(SECRET, max_age=100, clock=clock)
    begun = await engine.load(connection())
    begun["a"] = 1
    await begun.save()
    cookie = engine.sign(begun.id)
    clock.now += 50
    session = await engine.load(connection(f"aquilia_session={cookie}"))
    clock.now += 50
    assert session == {"a": 1}
    answer = await engine.finish(session, connection(), Response("read"))
    assert "set-cookie" not in answer.headers
    assert session.ended


async def test_behind_the_response_no_session_can_begin() -> None:
    engine = SessionEngine(SECRET)
    session = await engine.load(connection())
    await engine.finish(session, connection(), Response())
    with pytest.raises(RuntimeError, match="no cookie can be set for a new one any more"):
        session["late"] = True


async def test_a_session_may_be_cleared_and_filled_anew() -> None:
    session = Session(MemorySessionStore(), 100)
    session.update(a=1, b=2)
    await session.save()
    session.clear()
    assert (len(session), session.modified, session.get("a")) == (0, True, None)
    session["b"] = 2
    await session.save()
    await session.reload()
    assert session == {"b": 2}
