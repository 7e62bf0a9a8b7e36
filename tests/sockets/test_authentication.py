"""Who a connection is: tokens at the handshake, in `hello` and in `auth`, over both transports; and its expiry."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import websockets
from door import denial, expect_close
from tokens import JWT, Passwords, token
from wire import TRANSPORTS, Client, eventually, serving

from aquilia import Identity
from aquilia.middleware import CallNext
from aquilia.sockets import (
    AquilaSockets,
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


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> Any:
    return TRANSPORTS[request.param]


@pytest.fixture
def users() -> Slow:
    return Slow()


@pytest.fixture
def app(users: Slow) -> AquilaSockets:
    return AquilaSockets.from_controllers(
        CONTROLLERS, auth=users, middleware=[by_cookie], handshake_timeout=5
    )


@pytest_asyncio.fixture
async def base(transport: Any, app: AquilaSockets) -> AsyncIterator[str]:
    async with serving(app, ws=transport) as base:
        yield base


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


# At the handshake


async def test_a_token_comes_in_the_header(base: str) -> None:
    async with Client.connect(f"{base}/members", **bearer("ann")) as client:
        assert await who(client) == "ann"


async def test_a_browser_brings_it_among_the_subprotocols_and_it_is_never_echoed(base: str) -> None:
    for entry in ("aquilia.bearer.ann", encoded("ann")):
        for first, second in ((PLAIN, entry), (entry, PLAIN)):
            async with Client.connect(f"{base}/members", **offering(first, second)) as client:
                assert client.socket.subprotocol == PLAIN
                assert await who(client) == "ann"
        async with Client.connect(f"{base}/members", "v1.json", **offering(V1, entry)) as client:
            assert client.socket.subprotocol == V1
            assert await who(client) == "ann"


async def test_a_token_may_have_any_characters_in_base64(base: str) -> None:
    async with Client.connect(f"{base}/members", **offering(PLAIN, encoded("änn, (x) \n"))) as client:
        assert await who(client) == "änn, (x) \n"


async def test_a_token_in_the_query_is_not_looked_at(base: str) -> None:
    status, body = await denial(f"{base}/members?token=ann&access_token=ann")
    assert (status, body["code"]) == (401, "WS_AUTH_REQUIRED")


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        (["aquilia.bearer.ann", "aquilia.bearer.bob"], "more than one token"),
        (["aquilia.bearer.ann", "aquilia.bearer64.YW5u"], "more than one token"),
        (["aquilia.bearer."], "empty"),
        (["aquilia.bearer64."], "base64url"),
        (["aquilia.bearer64.A"], "base64url"),
        (["aquilia.bearer64.YW.5u"], "base64url"),
        (["aquilia.bearer64._-8"], "base64url"),  # no UTF-8
    ],
)
async def test_a_malformed_token_is_400_or_4400_and_told_why(
    base: str, entries: list[str], word: str
) -> None:
    status, body = await denial(f"{base}/open", **offering(PLAIN, *entries))
    assert (status, body["code"]) == (400, "WS_HANDSHAKE_FAILED")
    assert word in body["message"]

    async with Client.connect(f"{base}/open", "v1.json", hello=False, **offering(V1, *entries)) as client:
        assert await expect_close(client, 4400) == "WS_HANDSHAKE_FAILED"


async def test_a_token_in_two_places_is_refused(base: str) -> None:
    status, body = await denial(f"{base}/open", **bearer("ann"), **offering(PLAIN, "aquilia.bearer.ann"))
    assert (status, body["code"]) == (400, "WS_HANDSHAKE_FAILED")
    for value in ("Bearer", "Bearer ann bob"):
        status, _ = await denial(f"{base}/open", additional_headers={"authorization": value})
        assert status == 400


async def test_a_list_with_nothing_but_a_token_names_no_subprotocol(base: str) -> None:
    status, body = await denial(f"{base}/open", **offering("aquilia.bearer.ann"))
    assert (status, body["code"]) == (400, "WS_HANDSHAKE_FAILED")
    assert "bearer" not in body["message"]


@pytest.mark.parametrize(
    ("token", "code"), [("ann/bad", "WS_AUTH_REQUIRED"), ("ann/old", "WS_TOKEN_EXPIRED")]
)
async def test_a_token_that_is_not_accepted_is_401_or_4401_even_where_none_is_needed(
    base: str, token: str, code: str
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"{base}/open", proxy=None, **bearer(token))
    assert refused.value.response.status_code == 401
    assert refused.value.response.headers["www-authenticate"].startswith("Bearer")
    async with Client.connect(f"{base}/open", "v1.json", hello=False, **bearer(token)) as client:
        assert await expect_close(client, 4401) == code


async def test_a_manager_that_fails_is_500_and_tells_nothing(base: str) -> None:
    status, body = await denial(f"{base}/open", **bearer("broken"))
    assert (status, body["code"]) == (500, "WS_INTERNAL_ERROR")
    assert "secret" not in body["message"]


async def test_who_a_middleware_has_recognised_needs_no_token(base: str, users: Slow) -> None:
    headers = {"cookie": "user=cleo", "authorization": "Bearer ann"}
    async with Client.connect(f"{base}/members", additional_headers=headers) as client:
        assert await who(client) == "cleo"
    assert users.asked == []


async def test_another_scheme_is_no_token(base: str) -> None:
    async with Client.connect(f"{base}/open", additional_headers={"authorization": "Basic YTpi"}) as client:
        assert await who(client) is None


async def test_who_has_not_the_role_is_forbidden(base: str) -> None:
    assert (await denial(f"{base}/admins", **bearer("ann")))[0] == 403
    async with Client.connect(f"{base}/admins", **bearer("root")) as client:
        assert await who(client) == "root"


# In hello


@pytest.mark.parametrize("path", ["open", "members", "guarded", "origins"])
@pytest.mark.parametrize("profile", ["v1.json", "v1.msgpack", "v1.cbor"])
async def test_a_token_comes_in_hello(base: str, path: str, profile: str) -> None:
    async with Client.connect(f"{base}/{path}", profile, hello=False) as client:
        await hello(client, token="ann")
        assert (await client.receive())["event"] == "welcome"
        assert await who(client) == "ann"


@pytest.mark.parametrize("path", ["members", "guarded", "origins", "admins"])
async def test_who_brings_no_token_in_hello_is_closed_where_one_is_needed(base: str, path: str) -> None:
    async with Client.connect(f"{base}/{path}", "v1.json", hello=False) as client:
        await hello(client)
        assert "WS_AUTH_REQUIRED" in await expect_close(client, 4401)


async def test_a_plain_client_cannot_say_it_later(base: str) -> None:
    for path in ("members", "guarded", "admins"):
        assert (await denial(f"{base}/{path}"))[0] == 401


@pytest.mark.parametrize(
    ("path", "token", "code", "close"),
    [
        ("members", "ann/bad", "WS_AUTH_REQUIRED", 4401),
        ("members", "ann/old", "WS_TOKEN_EXPIRED", 4401),
        ("open", "ann/bad", "WS_AUTH_REQUIRED", 4401),
        ("members", "eve", "WS_FORBIDDEN", 4403),
        ("guarded", "mallory", "WS_FORBIDDEN", 4403),
        ("admins", "ann", "WS_FORBIDDEN", 4403),
        ("members", "broken", "WS_INTERNAL_ERROR", 1011),
        ("members", "", "WS_HANDSHAKE_FAILED", 4400),
        ("members", 5, "WS_HANDSHAKE_FAILED", 4400),
        ("members", "x" * 20_000, "WS_AUTH_REQUIRED", 4401),
    ],
)
async def test_what_is_wrong_in_hello_closes(base: str, path: str, token: Any, code: str, close: int) -> None:
    async with Client.connect(f"{base}/{path}", "v1.json", hello=False) as client:
        await hello(client, token=token)
        assert (await expect_close(client, close)).startswith(code)


async def test_a_token_at_the_handshake_that_lacks_the_role_is_not_for_hello_to_mend(base: str) -> None:
    async with Client.connect(f"{base}/admins", "v1.json", hello=False, **bearer("ann")) as client:
        assert await expect_close(client, 4403) == "WS_FORBIDDEN"


async def test_an_origin_is_refused_before_the_upgrade_whoever_may_come(base: str) -> None:
    for options in ({}, offering(V1)):
        status, body = await denial(f"{base}/origins", origin="https://bad.example", **options)
        assert status == 401 if not options else 403
        assert body["code"] in ("WS_AUTH_REQUIRED", "WS_ORIGIN_NOT_ALLOWED")
    async with Client.connect(
        f"{base}/origins", "v1.json", hello=False, origin="https://good.example"
    ) as client:
        await hello(client, token="ann")
        assert await client.expect("welcome")


async def test_what_comes_behind_hello_waits_and_is_handled_in_order(base: str, users: Slow) -> None:
    async with Client.connect(f"{base}/members", "v1.json", hello=False) as client:
        await hello(client, token="slow")
        for n in range(100):  # more than an inbox has room for
            await client.send("say", str(n))
        await client.send("ping", type="control")
        await client.raw("no envelope")
        users.let_go.set()

        assert (await client.receive())["event"] == "welcome"
        heard = [await client.receive() for _ in range(102)]

    said = [frame["payload"] for frame in heard if frame["event"] == "said"]
    assert said == [[str(n), "slow"] for n in range(100)]
    assert {frame["event"] for frame in heard} == {"said", "pong", "error"}


async def test_the_whole_opening_has_its_time(transport: Any, users: Slow) -> None:
    app = AquilaSockets.from_controllers(CONTROLLERS, auth=users, handshake_timeout=0.2)
    async with serving(app, ws=transport) as base:
        async with Client.connect(f"{base}/members", "v1.json", hello=False) as client:
            await hello(client, token="slow")
            await client.send("say", "x")
            assert (await expect_close(client, 4508)).startswith("WS_CONNECTION_TIMEOUT")
            users.let_go.set()
        async with Client.connect(f"{base}/members", "v1.json", hello=False) as client:
            assert (await expect_close(client, 4508)).endswith("no hello came")


async def test_who_leaves_while_its_token_is_looked_at_leaves_nothing_behind(
    base: str, app: AquilaSockets, users: Slow
) -> None:
    async with Client.connect(f"{base}/members", "v1.json", hello=False) as client:
        await hello(client, token="slow")
        await client.send("say", "x")
        await eventually(lambda: users.asked == ["asked slow"])
    await eventually(lambda: app.live()["connections"] == 0)
    assert app.live()["tasks"] == 0


async def test_hello_may_renew_the_token_of_the_handshake_and_not_change_its_owner(base: str) -> None:
    async with Client.connect(f"{base}/members", "v1.json", hello=False, **bearer("ann")) as client:
        await hello(client, token="ann")
        assert await client.expect("welcome")
        assert await who(client) == "ann"
    async with Client.connect(f"{base}/members", "v1.json", hello=False, **bearer("ann")) as client:
        await hello(client, token="bob")
        assert "another identity" in await expect_close(client, 4401)
    async with Client.connect(f"{base}/members", "v1.json", **bearer("ann")) as client:
        assert await who(client) == "ann"


async def test_without_a_manager_no_token_is_taken(transport: Any) -> None:
    async with serving(AquilaSockets.from_controllers([Open]), ws=transport) as base:
        async with Client.connect(f"{base}/open", "v1.json", hello=False) as client:
            await hello(client, token="ann")
            assert "no AuthManager" in await expect_close(client, 4400)
        async with Client.connect(f"{base}/open", "v1.json") as client:
            answer = await client.request("auth", {"token": "ann"}, type="control")
            assert answer["error"]["code"] == "WS_UNSUPPORTED_EVENT"


# The expiry, and auth


async def test_welcome_tells_when_the_identity_expires(base: str, users: Slow) -> None:
    users.expires_at["ann"] = moment = time.time() + 60
    async with Client.connect(f"{base}/members", "v1.json", **bearer("ann")) as client:
        assert client.welcome["payload"]["expires"] == int(moment * 1000)
    async with Client.connect(f"{base}/members", "v1.json", **bearer("bob")) as client:
        assert "expires" not in client.welcome["payload"]


@pytest.mark.parametrize("profile", ["plain", "v1.json"])
async def test_a_connection_ends_when_its_identity_expires(base: str, users: Slow, profile: str) -> None:
    users.expires_at["ann"] = time.time() + 0.4
    async with Client.connect(f"{base}/members", profile, **bearer("ann")) as client:
        assert await who(client) == "ann"
        assert (await expect_close(client, 4401)).startswith("WS_TOKEN_EXPIRED")
    assert time.time() >= users.expires_at["ann"]


@pytest.mark.parametrize("profile", ["plain", "v1.json"])
async def test_an_identity_that_has_expired_already_is_told_so(base: str, profile: str) -> None:
    cookie = {"cookie": "user=gone"}
    async with Client.connect(f"{base}/open", profile, hello=False, additional_headers=cookie) as client:
        if profile != "plain":
            await hello(client)
        assert (await expect_close(client, 4401)).startswith("WS_TOKEN_EXPIRED")


async def test_auth_brings_a_new_expiry(base: str, users: Slow) -> None:
    users.expires_at["ann"] = time.time() + 0.5
    async with Client.connect(f"{base}/members", "v1.json", **bearer("ann")) as client:
        users.expires_at["ann"] = renewed = time.time() + 1.5
        answer = await client.request("auth", {"token": "ann"}, type="control")
        assert answer == {"status": "ok", "data": {"expires": int(renewed * 1000)}}
        assert (await expect_close(client, 4401)).startswith("WS_TOKEN_EXPIRED")
    assert time.time() >= renewed


async def test_auth_replaces_the_identity_and_needs_no_id(base: str) -> None:
    manager = JWT
    app = AquilaSockets.from_controllers([Open], auth=manager)
    async with (
        serving(app) as own,
        Client.connect(f"{own}/open", "v1.json", **bearer(token(roles=["old"]))) as client,
    ):
        await client.send("auth", {"token": token(roles=["new"])}, type="control")
        async with asyncio.timeout(5):
            while (await client.request("roles"))["data"] != ["new"]:
                pass


@pytest.mark.parametrize(
    ("bad", "told"),
    [("bob", "another identity"), ("ann/bad", "WS_AUTH_REQUIRED"), ("ann/old", "WS_TOKEN_EXPIRED")],
)
async def test_auth_with_a_wrong_token_closes(base: str, bad: str, told: str) -> None:
    async with Client.connect(f"{base}/open", "v1.json", **bearer("ann")) as client:
        await client.send("auth", {"token": bad}, type="control", id="1")
        assert told in await expect_close(client, 4401)


async def test_an_anonymous_connection_stays_anonymous(base: str) -> None:
    async with Client.connect(f"{base}/open", "v1.json") as client:
        await client.send("auth", {"token": "ann"}, type="control", id="1")
        assert "anonymous" in await expect_close(client, 4401)


async def test_a_malformed_auth_and_a_manager_that_fails_leave_the_connection(base: str) -> None:
    async with Client.connect(f"{base}/open", "v1.json", **bearer("ann")) as client:
        for payload in (None, {}, [], {"token": 5}, {"token": ""}):
            answer = await client.request("auth", payload, type="control")
            assert answer["error"]["code"] == "WS_MESSAGE_INVALID"
        answer = await client.request("auth", {"token": "broken"}, type="control")
        assert answer["error"]["code"] == "WS_INTERNAL_ERROR"
        assert await who(client) == "ann"


async def test_one_auth_at_a_time_which_does_not_hold_up_the_messages(base: str, users: Slow) -> None:
    users.let_go.set()
    async with Client.connect(f"{base}/open", "v1.json", **bearer("slow")) as client:
        users.let_go.clear()
        await client.send("auth", {"token": "slow"}, type="control", id="first")
        second = await client.request("auth", {"token": "slow"}, type="control")
        assert second["error"]["code"] == "WS_OVERLOADED"
        assert await who(client) == "slow"
        users.let_go.set()
        assert (await client.receive())["id"] == "first"


async def test_publications_to_an_identity_find_who_said_it_in_hello(base: str) -> None:
    async with (
        Client.connect(f"{base}/open", "v1.json", hello=False) as ann,
        Client.connect(f"{base}/open", "v1.json", **bearer("bob")) as bob,
        Client.connect(f"{base}/open", "v1.json") as nobody,
    ):
        await hello(ann, token="ann")
        await ann.expect("welcome")
        await bob.send("auth", {"token": "bob"}, type="control", id="1")
        assert (await bob.receive())["type"] == "ack"

        for name in ("ann", "bob", "carl"):
            assert (await nobody.request("tell", [name, f"hi {name}"]))["status"] == "ok"
        assert (await ann.receive())["payload"] == "hi ann"
        assert (await bob.receive())["payload"] == "hi bob"
        await nobody.send("who", id="last", ack=True)
        assert (await nobody.receive())["id"] == "last"  # nothing was told to who is nobody
