"""Who a client is behind proxies, by the headers of those that are trusted, and of nobody else."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from aquilia import AppManifest
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.controller import GET, Controller, RequestCtx
from aquilia.forwarded import ForwardedError, TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:ff::/48"])
Header = tuple[str, str]


def seen(*headers: Header, peer: Any = ("10.0.0.1", 4000), proxies: TrustedProxies = PROXIES) -> list[Any]:
    """The client's address, scheme and host, as they are seen after that."""
    raw = [(b"host", b"inside"), *((name.lower().encode(), value.encode()) for name, value in headers)]
    scope: dict[str, Any] = {"type": "websocket", "scheme": "ws", "client": peer, "headers": raw}
    proxies.apply(scope)
    hosts = [value.decode() for name, value in scope["headers"] if name == b"host"]
    return [scope["client"] and scope["client"][0], scope["scheme"], *hosts]


UNCHANGED = ["10.0.0.1", "ws", "inside"]


def refused(*headers: Header) -> str:
    """Why nobody is seen. The scope is as it was."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"type": "websocket", "scheme": "ws", "client": ("10.0.0.1", 4000), "headers": raw}
    before = dict(scope)
    with pytest.raises(ForwardedError) as error:
        PROXIES.apply(scope)
    assert scope == before
    return str(error.value)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Forwarded", "for=192.0.2.1")], ["192.0.2.1", "ws", "inside"]),
        ([("Forwarded", "For=192.0.2.1;PROTO=https;host=a.example")], ["192.0.2.1", "wss", "a.example"]),
        ([("Forwarded", 'for="192.0.2.1:47011"; proto=http')], ["192.0.2.1", "ws", "inside"]),
        (
            [("Forwarded", 'for="[2001:db8:cafe::17]:4711";host="a.example:8443"')],
            ["2001:db8:cafe::17", "ws", "a.example:8443"],
        ),
        ([("Forwarded", "for=_hidden, for=10.0.0.9")], ["_hidden", "ws", "inside"]),
        ([("Forwarded", "for=unknown")], ["unknown", "ws", "inside"]),
        ([("Forwarded", "proto=https;host=a.example")], ["10.0.0.1", "wss", "a.example"]),
        ([("Forwarded", 'for="192.0.2\\.1"')], ["192.0.2.1", "ws", "inside"]),
        (
            [
                ("Forwarded", "for=192.0.2.1;proto=https;host=a.example"),
                ("Forwarded", "for=10.9.9.9;proto=http"),
            ],
            ["192.0.2.1", "wss", "a.example"],
        ),
        ([("X-Forwarded-For", "192.0.2.1")], ["192.0.2.1", "ws", "inside"]),
        ([("X-Forwarded-For", "192.0.2.1:5000")], ["192.0.2.1", "ws", "inside"]),
        ([("X-Forwarded-For", "2001:db8::7")], ["2001:db8::7", "ws", "inside"]),
        ([("X-Forwarded-For", "[2001:db8::7]:81")], ["2001:db8::7", "ws", "inside"]),
        ([("X-Forwarded-For", "::ffff:192.0.2.1")], ["192.0.2.1", "ws", "inside"]),
        (
            [
                ("X-Forwarded-For", "192.0.2.1, 10.0.0.7"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "a.example"),
            ],
            ["192.0.2.1", "wss", "inside"],
        ),
        (
            [
                ("X-Forwarded-For", "192.0.2.1"),
                ("X-Forwarded-For", "10.0.0.7"),
                ("X-Forwarded-Proto", "wss, ws"),
            ],
            ["192.0.2.1", "wss", "inside"],
        ),
        ([("X-Forwarded-Proto", "https")], ["10.0.0.1", "wss", "inside"]),
        ([("X-Forwarded-For", "10.0.0.5, 10.0.0.6")], ["10.0.0.5", "ws", "inside"]),
        (
            [("Forwarded", "for=192.0.2.1;proto=https"), ("X-Forwarded-For", "192.0.2.1")],
            ["192.0.2.1", "wss", "inside"],
        ),
    ],
)
def test_a_trusted_proxy_tells_who_the_client_is(headers: list[Header], expected: list[str]) -> None:
    assert seen(*headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [("Forwarded", "for=192.0.2.9;proto=https;host=a.example")],
        [("X-Forwarded-For", "192.0.2.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "a.example")],
    ],
)
@pytest.mark.parametrize("peer", [("192.0.2.66", 1), ("2001:db8::66", 1), ("testclient", 1), None])
def test_nobody_else_is_believed(headers: list[Header], peer: Any) -> None:
    assert seen(*headers, peer=peer) == [peer and peer[0], "ws", "inside"]
    assert seen(*headers, proxies=TrustedProxies([])) == UNCHANGED


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("X-Forwarded-For", "127.0.0.1, 192.0.2.1")], "192.0.2.1"),
        ([("X-Forwarded-For", "nonsense, 10.0.0.3, 192.0.2.1, 10.0.0.2")], "192.0.2.1"),
        ([("Forwarded", "for=127.0.0.1, for=192.0.2.1, for=10.0.0.2")], "192.0.2.1"),
        ([("Forwarded", "for=127.0.0.1;proto=https"), ("Forwarded", "for=192.0.2.1")], "192.0.2.1"),
    ],
)
def test_what_a_client_sent_itself_stands_to_the_left_of_it_and_does_not_count(
    headers: list[Header], expected: str
) -> None:
    assert seen(*headers) == [expected, "ws", "inside"]


@pytest.mark.parametrize(
    "headers",
    [
        [("Forwarded", "for=127.0.0.1"), ("X-Forwarded-For", "192.0.2.1")],
        [("Forwarded", "host=a.example;proto=https"), ("X-Forwarded-For", "192.0.2.1")],
        [
            ("Forwarded", "for=192.0.2.1;proto=http"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Forwarded-Proto", "https"),
        ],
    ],
)
def test_headers_that_contradict_each_other_are_refused(headers: list[Header]) -> None:
    assert "contradict each other" in refused(*headers)


@pytest.mark.parametrize(
    "headers",
    [
        [("Forwarded", text)]
        for text in (
            "for=192.0.2.1:80",
            "for=192.0.2.1;for=192.0.2.2",
            'for="192.0.2.1',
            'for="x, for=192.0.2.1',
            'for="x, for="[2001:db8::1]"',
            "for=192.0.2.1;proto=gopher",
            'for=192.0.2.1;host="a b"',
            'for=192.0.2.1;host="a.example\\"><"',
            "for=192.0.2.256",
            "for",
            "for=",
            'for=""',
            'for="[2001:db8::1"',
            'for="192.0.2.1:99999"',
            "192.0.2.1",
            "for=192.0.2.1 proto=https",
        )
    ]
    + [
        [("X-Forwarded-For", text)]
        for text in (
            "one",
            "192.0.2.1, one",
            "192.0.2.1:http",
            "fe80::1%eth0",
            "[::1]x",
            "192.0.2.1;10.0.0.1",
        )
    ]
    + [
        [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "gopher")],
        [("X-Forwarded-For", "192.0.2.1, 10.0.0.2, 10.0.0.3"), ("X-Forwarded-Proto", "http, https")],
    ],
)
def test_what_is_malformed_is_refused(headers: list[Header]) -> None:
    assert f"{headers[-1][0]} is malformed" in refused(*headers, ("X-Forwarded-Prefix", "/x"))


def test_who_is_not_trusted_may_send_what_it_likes() -> None:
    assert seen(("Forwarded", "for="), ("X-Forwarded-For", "x"), peer=("192.0.2.66", 1))[0] == "192.0.2.66"


def test_empty_entries_of_a_list_are_none() -> None:
    assert seen(("X-Forwarded-For", "192.0.2.1, ,"), ("X-Forwarded-Proto", ",https"))[:2] == [
        "192.0.2.1",
        "wss",
    ]
    assert seen(("X-Forwarded-For", ", 192.0.2.1"))[0] == "192.0.2.1"
    assert seen(("X-Forwarded-For", " , "), ("Forwarded", ",")) == UNCHANGED


@pytest.mark.parametrize("text", ["\x1b[2J\n", "ä" * 5000])
def test_the_log_names_the_header_in_one_short_line(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ForwardedError):
        seen(("X-Forwarded-For", text), proxies=TrustedProxies(["10.0.0.1"]))
    (line,) = caplog.messages
    assert "the trusted proxy 10.0.0.1 does not tell who its client is: X-Forwarded-For is malformed" in line
    assert line.isprintable()
    assert len(line) < 500


def test_no_header_takes_long_to_read() -> None:
    for text in (
        " " * 60_000 + "x",
        "for=" + "a" * 60_000 + ":",
        'for="' + "\\x" * 30_000,
        ";" * 60_000 + "=",
    ):
        began = time.perf_counter()
        assert "Forwarded is malformed" in refused(("Forwarded", text), ("X-Forwarded-For", text))
        assert time.perf_counter() - began < 1


def test_forwarded_may_have_4_kib() -> None:
    first, hop = "for=192.0.2.1", ",for=10.0.0.9"
    chain = first + hop * ((4096 - len(first)) // len(hop))
    assert seen(("Forwarded", chain)) == ["192.0.2.1", "ws", "inside"]
    assert "more than 4096 characters" in refused(("Forwarded", chain + hop))
    assert "more than 4096 characters" in refused(("Forwarded", chain), ("Forwarded", hop))


def test_what_a_client_sends_as_x_forwarded_for_is_never_too_long_for_what_the_proxy_adds() -> None:
    assert seen(("X-Forwarded-For", "x" * 60_000 + ", 192.0.2.1")) == ["192.0.2.1", "ws", "inside"]


def test_a_socket_for_both_kinds_of_addresses_has_the_same_proxies() -> None:
    assert seen(("X-Forwarded-For", "192.0.2.1"), peer=("::ffff:10.0.0.1", 1))[0] == "192.0.2.1"
    assert seen(("X-Forwarded-For", "192.0.2.1"), peer=("2001:db8:ff::1", 1))[0] == "192.0.2.1"


def test_the_peer_of_a_unix_socket_is_trusted_by_name() -> None:
    trusting = TrustedProxies(["unix"])
    assert seen(("X-Forwarded-For", "192.0.2.1"), peer=None, proxies=trusting)[0] == "192.0.2.1"
    assert seen(("X-Forwarded-For", "192.0.2.1"), proxies=trusting) == UNCHANGED


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "proxy.example", "*", "10.0.0", "::ffff:10.0.0.0/104"])
def test_an_entry_that_names_no_proxies_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=re.escape(entry)):
        TrustedProxies([entry])


class Page(Controller):
    prefix = "/page"

    @GET("/")
    async def page(self, ctx: RequestCtx) -> dict[str, Any]:
        request = ctx.request
        assert request.client is not None
        return {"client": request.client.host, "url": str(request.url)}


async def test_http_controllers_see_whom_a_trusted_proxy_tells_of() -> None:
    manifest = AppManifest("site", controllers=[Page], websockets={"trusted_proxies": ["10.0.0.0/8"]})
    app = Application(Registry.build([manifest]))
    headers = {"forwarded": "for=192.0.2.1;proto=https;host=a.example"}
    await app.startup()
    for peer, expected in (
        ("10.0.0.1", {"client": "192.0.2.1", "url": "https://a.example/page/"}),
        ("192.0.2.66", {"client": "192.0.2.66", "url": "http://inside/page/"}),
    ):
        transport = httpx.ASGITransport(app, client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://inside") as http:
            assert (await http.get("/page/", headers=headers)).json() == expected
    await app.shutdown()


async def test_a_request_of_whom_a_proxy_does_not_tell_is_refused() -> None:
    manifest = AppManifest("site", controllers=[Page], websockets={"trusted_proxies": ["10.0.0.0/8"]})
    app = Application(Registry.build([manifest]))
    await app.startup()
    transport = httpx.ASGITransport(app, client=("10.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://inside") as http:
        answer = await http.get("/page/", headers={"x-forwarded-for": "nonsense"})
    assert (answer.status_code, answer.json()["code"]) == (400, "HTTP_BAD_REQUEST")
    assert "nonsense" not in answer.text
    await app.shutdown()
