"""Sessions against those who want somebody else's: planted, forged and stolen cookies, and cookies of old secrets."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from http_app import client_of
from itsdangerous import TimestampSigner
from session_pages import SECRET, Clock, Pages, serving, shown

from aquilia import AppManifest, MemorySessionStore, SessionEngine
from aquilia.sockets import Connection, Event, Socket, SocketController, SocketFault
from aquilia.testing import HandshakeRefused, sockets_test

COOKIE = "aquilia_session"
OTHER = "another secret, and as long as it"


@Socket("/notes")
class Notes(SocketController):
    @Event("show")
    async def show(self, conn: Connection) -> dict[str, Any]:
        return dict(conn.session)

    @Event("set")
    async def set(self, conn: Connection, payload: dict[str, Any]) -> None:
        conn.session.update(payload)


# Fixation: the attacker has a session of the site, and makes its victim use it.


async def test_a_login_with_a_planted_session_leaves_the_attacker_with_nothing() -> None:
    async with serving(SessionEngine(SECRET)) as app, client_of(app) as attacker, client_of(app) as victim:
        await attacker.post("/set", json={"cart": [1]})
        planted = attacker.cookies[COOKIE]
        await victim.post("/login", headers={"cookie": f"{COOKIE}={planted}"})
        assert victim.cookies[COOKIE] != planted
        assert await shown(attacker, planted) == {}
        assert (await shown(victim))["user"] == "ada"


@pytest.mark.parametrize("planted_first", [True, False])
async def test_of_two_cookies_of_the_name_none_is_adopted_that_we_have_not_issued(
    planted_first: bool,
) -> None:
    """As a neighbouring host of the domain can set one beside ours."""
    async with serving(SessionEngine(SECRET)) as app, client_of(app) as client:
        await client.post("/set", json={"a": 1})
        ours, planted = f"{COOKIE}={client.cookies[COOKIE]}", f"{COOKIE}=an-id-of-mine"
        client.cookies.clear()
        both = "; ".join([planted, ours] if planted_first else [ours, planted])
        begun = await client.post("/set", json={"b": 1}, headers={"cookie": both})
        client.cookies.clear()
        assert "an-id-of-mine" not in begun.headers.get("set-cookie", "")
        cookie = begun.cookies.get(COOKIE) or ours.partition("=")[2]
        assert (await shown(client, cookie))["b"] == 1


async def test_an_id_that_was_signed_and_ended_names_nothing_ever_again() -> None:
    engine = SessionEngine(SECRET)
    async with serving(engine) as app, client_of(app) as client:
        await client.post("/set", json={"a": 1})
        old = client.cookies[COOKIE]
        await client.post("/logout")
        client.cookies.set(COOKIE, old)
        begun = await client.post("/set", json={"b": 1})
        assert begun.cookies[COOKIE].rsplit(".", 2)[0] != old.rsplit(".", 2)[0]
        assert await shown(client, old) == {}


async def test_a_connection_from_before_the_login_is_none_of_the_new_session() -> None:
    manifest = AppManifest("notes", controllers=[Pages, Notes], sessions=SessionEngine(SECRET))
    async with (
        sockets_test(manifest) as t,
        client_of(t.application) as browser,
    ):
        await browser.post("/set", json={"cart": [1]})
        early = await t.connect("/notes", headers={"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"})
        await browser.post("/login")
        with pytest.raises(SocketFault) as refused:
            await early.request("set", {"mine": 1})
        assert refused.value.code == "SESSION_ENDED"
        late = await t.connect("/notes", headers={"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"})
        assert await late.request("show") == {"cart": [1], "user": "ada"}


# Signatures


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(lambda good: good[:-1] + ("A" if good[-1] != "A" else "E"), id="last sign"),
        pytest.param(lambda good: "A" + good[1:] if good[0] != "A" else "B" + good[1:], id="another id"),
        pytest.param(lambda good: good.rsplit(".", 1)[0], id="no signature"),
        pytest.param(lambda good: good.rsplit(".", 1)[0] + ".", id="empty signature"),
        pytest.param(lambda good: good.rsplit(".", 2)[0], id="the id alone"),
        pytest.param(lambda good: f"{good}.{good}", id="twice"),
        pytest.param(
            lambda good: (
                TimestampSigner(OTHER, salt="aquilia.sessions").sign(good.rsplit(".", 2)[0]).decode()
            ),
            id="other secret",
        ),
        pytest.param(
            lambda good: good.replace("~", "~f", 1),
            id="a later beginning",
        ),
    ],
)
async def test_a_cookie_that_was_tampered_with_names_nothing(cookie: Any) -> None:
    async with serving(SessionEngine(SECRET)) as app, client_of(app) as client:
        await client.post("/set", json={"a": 1})
        good = client.cookies[COOKIE]
        assert await shown(client, cookie(good)) == {}
        assert await shown(client, good) == {"a": 1}


async def test_a_secret_that_was_removed_opens_nothing() -> None:
    store = MemorySessionStore()
    cookies = {}
    for secret in (SECRET, OTHER):
        async with serving(SessionEngine(secret, store=store)) as app, client_of(app) as client:
            await client.post("/set", json={"signed by": secret})
            cookies[secret] = client.cookies[COOKIE]
    async with serving(SessionEngine([OTHER, SECRET], store=store)) as app, client_of(app) as client:
        assert await shown(client, cookies[SECRET]) == {"signed by": SECRET}
        assert await shown(client, cookies[OTHER]) == {"signed by": OTHER}
    async with serving(SessionEngine(OTHER, store=store)) as app, client_of(app) as client:
        assert await shown(client, cookies[SECRET]) == {}
        assert await shown(client, cookies[OTHER]) == {"signed by": OTHER}


# How long a stolen cookie is worth something


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def used_for(client: httpx.AsyncClient, clock: Clock, seconds: int) -> None:
    for _ in range(seconds // 50):
        clock.now += 50
        await client.get("/show")


async def test_a_session_ends_at_its_lifetime_whatever_its_use(clock: Clock) -> None:
    engine = SessionEngine(SECRET, max_age=100, max_lifetime=300, clock=clock)
    async with serving(engine) as app, client_of(app) as client:
        await client.post("/set", json={"a": 1})
        await used_for(client, clock, 250)
        assert await shown(client) == {"a": 1}
        clock.now += 50
        assert await shown(client) == {}
        begun = await client.post("/set", json={"b": 1})  # another one, with a life of its own
        assert begun.status_code == 204
        await used_for(client, clock, 250)
        assert await shown(client) == {"b": 1}


async def test_a_rotation_begins_no_new_lifetime_and_an_end_does(clock: Clock) -> None:
    engine = SessionEngine(SECRET, max_age=1000, max_lifetime=300, clock=clock)
    async with serving(engine) as app, client_of(app) as rotated, client_of(app) as swapped:
        for client in (rotated, swapped):
            await client.post("/set", json={"a": 1})
        clock.now += 200
        await rotated.post("/login")
        await swapped.post("/swap")
        clock.now += 99
        assert await shown(rotated) == {"a": 1, "user": "ada"}
        clock.now += 1
        assert await shown(rotated) == {}
        assert await shown(swapped) == {"fresh": True}


async def test_the_store_holds_nothing_beyond_the_lifetime(clock: Clock) -> None:
    store = MemorySessionStore(clock=clock)
    engine = SessionEngine(SECRET, store=store, max_age=1000, max_lifetime=300, clock=clock)
    session = engine.begin()
    session["a"] = 1
    await session.save()
    clock.now += 299
    assert await store.load(session.id) is not None
    clock.now += 1
    assert await store.load(session.id) is None


async def test_a_session_of_before_there_was_a_lifetime_has_none_left(clock: Clock) -> None:
    store = MemorySessionStore(clock=clock)
    await store.create("an-id-without-a-beginning", {"a": b"\x01"}, 1000)
    engine = SessionEngine(SECRET, store=store, max_lifetime=300, clock=clock)
    async with serving(engine) as app, client_of(app) as client:
        assert await shown(client, engine.sign("an-id-without-a-beginning")) == {}


@pytest.mark.parametrize("lifetime", [0, -1, 1.5, True, "9"])
def test_a_lifetime_is_a_whole_number_of_seconds(lifetime: Any) -> None:
    with pytest.raises(
        ValueError, match="max_lifetime: a whole number of seconds above 0, or None, is needed"
    ):
        SessionEngine(SECRET, max_lifetime=lifetime)


# Pages of other origins

HOST = {"host": "shop.example"}


@pytest.mark.parametrize(
    ("allowed", "origin", "seen"),
    [
        (["*"], "https://evil.example", {}),
        (["*"], "null", {}),
        (["*", "https://app.example"], "https://evil.example", {}),
        (["*", "https://app.example"], "https://app.example", {"user": "ada"}),
        (["https://app.example"], "https://app.example", {"user": "ada"}),
        (["*"], None, {"user": "ada"}),
    ],
)
async def test_a_page_that_nobody_vouched_for_comes_without_cookies(
    allowed: list[str], origin: str | None, seen: dict[str, str]
) -> None:
    async with sockets_test(Notes, sessions=SessionEngine(SECRET), allowed_origins=allowed) as t:
        headers = HOST | ({"origin": origin} if origin else {})
        client = await t.connect("/notes", session={"user": "ada"}, headers=headers)
        assert await client.request("show") == seen


async def test_a_page_of_the_same_origin_has_its_cookies_where_all_are_allowed() -> None:
    async with sockets_test(Notes, sessions=SessionEngine(SECRET), allowed_origins=["*"]) as t:
        headers = HOST | {"origin": "http://shop.example"}
        client = await t.connect("/notes", session={"user": "ada"}, headers=headers)
        assert await client.request("show") == {"user": "ada"}


async def test_by_default_no_page_of_another_origin_is_let_in() -> None:
    async with sockets_test(Notes, sessions=SessionEngine(SECRET)) as t:
        with pytest.raises(HandshakeRefused):
            await t.connect(
                "/notes", session={"user": "ada"}, headers=HOST | {"origin": "https://evil.example"}
            )


async def test_the_defaults_keep_scripts_and_other_sites_away() -> None:
    async with serving(SessionEngine(SECRET)) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as client:
            given = (await client.post("/set", json={"a": 1})).headers["set-cookie"].lower()
    assert {"httponly", "secure", "samesite=lax", "path=/"} <= {each.strip() for each in given.split(";")}
    assert "domain" not in given
