"""Links that never come to be: who says no, what is told of it, and who is asked again."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from peer import Peer, client, listener, peer, server_tls
from wire import TIMEOUT

from aquilia.client import Client, ConnectionEnded, Disconnected
from aquilia.clock import Clock


@pytest.fixture
async def server() -> AsyncIterator[Peer]:
    async with asyncio.timeout(TIMEOUT), peer() as server:
        yield server


def told(code: str, message: str) -> bytes:
    return json.dumps({"code": code, "message": message}).encode()


async def end_of(url: str, **options: Any) -> ConnectionEnded:
    """Why the first attempt failed."""
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(ConnectionEnded) as ended:
            await client(url, **options).connect()
    return ended.value


@pytest.mark.parametrize("status", [400, 403, 404, 413, 426, 200])
async def test_a_status_that_speaks_of_the_request_is_final(server: Peer, status: int) -> None:
    server.refusals.append((status, {}, told("WS_SAID", "it says why")))
    ended = await end_of(server.url, keep_trying=True)
    assert (ended.http_status, ended.code, ended.retryable) == (status, "WS_SAID", False)
    assert f"HTTP {status}" in str(ended)
    assert server.url in str(ended)
    assert server.asked == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_status_that_speaks_of_the_moment_is_asked_again(server: Peer, status: int) -> None:
    server.refusals += [(status, {}, b"busy")] * 3
    who = client(server.url, keep_trying=True)
    connecting = asyncio.create_task(who.connect())
    await server.take()
    await connecting
    assert server.asked == 4
    await who.close()


async def test_without_keep_trying_the_first_attempt_tells_that_another_may_succeed(server: Peer) -> None:
    server.refusals.append((503, {"Retry-After": "7"}, told("WS_OVERLOADED", "too many")))
    ended = await end_of(server.url)
    assert (ended.http_status, ended.code, ended.retryable) == (503, "WS_OVERLOADED", True)
    assert server.asked == 1


async def test_too_many_connections_of_one_identity_are_final_as_4429_is(server: Peer) -> None:
    server.refusals.append((429, {}, told("WS_QUOTA_EXCEEDED", "too many connections")))
    ended = await end_of(server.url, keep_trying=True)
    assert (ended.http_status, ended.retryable) == (429, False)


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("7", 7),
        (formatdate(NOW + 20, usegmt=True), 20),
        (formatdate(NOW - 20, usegmt=True), 0),
        ("9" * 400, 3600),
        ("-5", None),
        ("soon", None),
        ("Fri, 99 Foo 2026 99:99:99 GMT", None),
        ("nan", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_it_stays_away_for_as_long_as_retry_after_says(
    server: Peer, status: int, after: str, seconds: float | None
) -> None:
    server.refusals.append((status, {"Retry-After": after}, b""))
    who = client(server.url, keep_trying=True, random=lambda: 0.5, clock=Clock(time=lambda: NOW))
    news = who.stream(Disconnected)
    connecting = asyncio.create_task(who.connect())
    delay = (await anext(news)).retry_in
    assert delay == pytest.approx((seconds or 0) + 0.005)  # and jitter behind it
    await who.close()
    with pytest.raises(ConnectionEnded):
        await connecting


async def test_after_401_a_fresh_token_is_asked_for_once(server: Peer) -> None:
    server.refusals += [(401, {}, told("WS_TOKEN_EXPIRED", "expired"))]
    tokens = iter(["old", "new"])
    who = client(server.url, token=lambda: next(tokens))
    connecting = asyncio.create_task(who.connect())
    hand = await server.accept()
    assert (await hand.greet())["token"] == "new"
    await connecting
    await who.close()

    server.refusals += [(401, {}, told("WS_TOKEN_EXPIRED", "expired"))] * 3
    ended = await end_of(server.url, token=lambda: "the same")
    assert (ended.http_status, ended.code) == (401, "WS_TOKEN_EXPIRED")
    assert len(server.refusals) == 1
    server.refusals.clear()


async def test_a_token_of_its_own_is_not_tried_twice(server: Peer) -> None:
    server.refusals += [(401, {}, b"")] * 2
    assert (await end_of(server.url, token="old", keep_trying=True)).http_status == 401
    assert server.asked == 1


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"code": 5}', b"\xff\xfe", b'"x"', b"<html>", b"x" * 500_000]
)
async def test_a_body_of_any_kind_is_survived(server: Peer, body: bytes) -> None:
    server.refusals.append((403, {}, body))
    ended = await end_of(server.url)
    assert (ended.code, ended.http_status) == ("WS_HANDSHAKE_FAILED", 403)
    assert len(str(ended)) < 1000


async def test_a_long_message_is_told_in_short(server: Peer) -> None:
    server.refusals.append((403, {}, told("WS_X" * 1000, "no! " * 100_000)))
    ended = await end_of(server.url)
    assert len(str(ended)) < 1000


@pytest.mark.parametrize("where", ["https://example.org/x", "ws://127.0.0.1:1/elsewhere", "/other", "::", ""])
async def test_it_is_led_nowhere_else_with_its_token(server: Peer, where: str) -> None:
    server.refusals.append((302, {"Location": where}, b""))
    ended = await end_of(server.url, token="secret", keep_trying=True)
    assert (ended.http_status, ended.retryable) == (302, False)
    assert where in str(ended)
    assert server.asked == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90IG91cnM=\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"x" * 100_000,
    ],
)
async def test_what_does_not_speak_websocket_is_named(answer: bytes) -> None:
    async with listener(answer) as url:
        ended = await end_of(url)
    assert ended.code == "WS_UNREACHABLE"
    assert f"{url} cannot be reached" in str(ended)


async def test_a_web_server_that_is_no_websocket_server_is_final() -> None:
    async with listener(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") as url:
        ended = await end_of(url, keep_trying=True)
    assert (ended.http_status, ended.retryable) == (200, False)
    assert "no WebSocket" in str(ended)


async def test_tls_where_there_is_none_says_so() -> None:
    async with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        ended = await end_of(url.replace("ws:", "wss:"))
    assert "say ws://" in str(ended)


async def test_no_tls_where_there_is_says_so(tmp_path: Path) -> None:
    async with peer(ssl=server_tls(tmp_path)) as server:
        ended = await end_of(server.url.replace("wss:", "ws:"))
    assert "say wss://" in str(ended)


async def test_a_certificate_that_nobody_trusts_is_told(tmp_path: Path) -> None:
    async with peer(ssl=server_tls(tmp_path)) as server:
        ended = await end_of(server.url)
    assert "certificate" in str(ended)
    assert "ssl=" in str(ended)


async def test_a_host_that_has_no_address_is_told() -> None:
    ended = await end_of("ws://no-such-host.invalid/chat?token=secret")
    assert (ended.code, ended.retryable) == ("WS_UNREACHABLE", True)
    assert "ws://no-such-host.invalid/chat cannot be reached" in str(ended)
    assert "secret" not in str(ended)


async def test_who_accepts_and_says_nothing_is_left_in_time() -> None:
    async with listener(None) as url:
        ended = await end_of(url, open_timeout=0.05)
    assert (ended.code, ended.retryable) == ("WS_UNREACHABLE", True)
    assert "0.05 s" in str(ended)


async def test_who_upgrades_and_never_welcomes_is_left_in_time(server: Peer) -> None:
    ended = await end_of(server.url, open_timeout=0.05)
    assert ended.retryable
    assert f"{server.url} said no `welcome` within 0.05 s" in str(ended)


async def test_who_never_says_what_was_resumed_is_left_in_time(server: Peer) -> None:
    who = client(server.url, open_timeout=0.1)
    connecting = asyncio.create_task(who.connect())
    hand = await server.take(resume="r")
    await connecting
    news = who.stream(Disconnected)
    hand.cut()
    await server.take(resume="r")
    assert (await anext(news)).code == 1006
    assert "no `resumed` within 0.1 s" in (await anext(news)).reason
    await who.close()


@pytest.mark.parametrize("chosen", [None, "other"])
async def test_another_subprotocol_is_final(chosen: str | None) -> None:
    async with peer(select_subprotocol=lambda *_: chosen) as server:
        ended = await end_of(server.url, keep_trying=True)
    assert not ended.retryable
    assert "does not speak aquilia.v1.json" in str(ended)
    assert server.asked == 1


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ws://x:99999/", "the port behind the host 'x' is none: 1 to 65535"),
        ("ws://x:abc/", "the port behind the host 'x' is none"),
        ("ws://x:0/", "the port behind the host 'x' is none"),
        ("ws://[::1/", "no address"),
        ("http:example.com", "say ws://example.com"),
        ("https:", "is an address for HTTP"),
        ("ws://a b/", "host"),
        ("ws://a..b/", "host"),
        (f"ws://{'x' * 70}/", "host"),
    ],
)
def test_an_address_that_is_none_is_told_at_once(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Client(url)


SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"http://ada:{SECRET}@x/y?token={SECRET}",
        f"ftp://ada:{SECRET}@x/y?token={SECRET}",
        f"ws://ada:{SECRET}@/y?token={SECRET}",
        f"ws://ada:{SECRET}@a..b/y?token={SECRET}",
        f"ws://ada:{SECRET}@x:0/y?token={SECRET}",
        f"ws://ada:{SECRET}@x:abc/y?token={SECRET}",
        f"ws://ada:{SECRET}@[::1/y?token={SECRET}",
        f"ws://ada:{SECRET}@x/y?token={SECRET}#part",
        f"ws://ada:{SECRET}/more@x/y",
        f"ada:{SECRET}@x/y",
        f"ws:ada:{SECRET}@x/y",
    ],
)
def test_no_error_of_an_address_shows_its_user_or_its_query(url: str) -> None:
    with pytest.raises(ValueError, match=r"host|HTTP|WebSocket") as refused:
        Client(url)
    assert SECRET not in str(refused.value)


async def test_a_user_without_a_password_ends_it_and_the_query_is_not_shown() -> None:
    ended = await end_of(f"ws://ada@127.0.0.1:1/y?token={SECRET}")
    assert "ws://127.0.0.1:1/y cannot be reached: username provided without password" in str(ended)
    assert SECRET not in str(ended)


@pytest.mark.parametrize(
    ("headers", "problem"),
    [({"X": "a\r\nY: b"}, "X"), ({"X Y": "a"}, "X Y"), ({"": "a"}, "header"), ({"X": 5}, "X")],
)
def test_headers_that_cannot_be_sent_are_told_at_once(headers: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Client("ws://x/", headers=headers)


async def test_a_token_that_is_none_is_told(server: Peer) -> None:
    ended = await end_of(server.url, token=lambda: 5, keep_trying=True)  # type: ignore[arg-type,return-value]
    assert "a string, or None" in str(ended)
    assert "int" in str(ended)


async def test_a_function_that_fails_to_give_a_token_is_asked_again_later(server: Peer) -> None:
    def failing() -> str:
        raise OSError("the disk is gone")

    ended = await end_of(server.url, token=failing)
    assert "the disk is gone" in str(ended)
    assert server.asked == 0


def test_a_proxy_that_cannot_be_used_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="the proxy cannot be used") as told:
        Client("ws://x/", proxy="nonsense://ann:secret@y")
    assert "secret" not in str(told.value)


def test_tls_for_an_address_without_it_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="say wss://"):
        Client("ws://x/", ssl=ssl.create_default_context())


async def test_a_proxy_of_the_environment_that_cannot_be_used_is_told(
    server: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ws_proxy", "nonsense://ann:secret@y")
    monkeypatch.setenv("no_proxy", "")
    ended = await end_of(server.url, proxy=True, keep_trying=True)
    assert "proxy" in str(ended)
    assert "secret" not in str(ended)
