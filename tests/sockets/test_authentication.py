"""Who a connection is: tokens at the handshake and in `hello`, over both transports."""

from __future__ import annotations

from typing import Any

import pytest
import websockets
from door import denial, expect_close
from members import CONTROLLERS, PLAIN, V1, Open, Slow, bearer, by_cookie, encoded, hello, offering, who
from wire import Client, eventually, serving

from aquilia.sockets import AquilaSockets


@pytest.fixture
def users() -> Slow:
    return Slow()


@pytest.fixture
def app(users: Slow) -> AquilaSockets:
    return AquilaSockets.from_controllers(
        CONTROLLERS, auth=users, middleware=[by_cookie], handshake_timeout=5
    )


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
    assert "ann" not in body["message"]
    assert "offer one beside the token" in body["message"]


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
