"""A client at the door: origins, hosts, subprotocols."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from aquilia.sockets import Handshake, SocketFault
from aquilia.sockets.envelope import PLAIN_JSON, V1_CBOR, V1_JSON, V1_MSGPACK, Profile
from aquilia.sockets.handshake.request import check_host, check_origin, choose_profile, wants_v1


def connection(*, secure: bool = False, **headers: str) -> HTTPConnection:
    return HTTPConnection(
        {
            "type": "websocket",
            "scheme": "wss" if secure else "ws",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "query_string": b"a=1",
            "client": ("10.0.0.1", 7),
        }
    )


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("http://a.example", "a.example", False),
        ("http://A.example:80", "a.example", False),
        ("https://a.example", "a.example:443", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", False),
        ("http://[::1]:8000", "[::1]:8000", False),
    ],
)
def test_a_page_of_our_own_may_connect(origin: str, host: str, secure: bool) -> None:
    check_origin(connection(secure=secure, origin=origin, host=host), None)


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("http://b.example", "a.example", False),
        ("http://a.example", "a.example", True),
        ("https://a.example", "a.example", False),
        ("http://a.example:81", "a.example", False),
        ("null", "a.example", False),
        ("", "a.example", False),
        ("http://a.example/path", "a.example", False),
        ("http://a.example:99999", "a.example", False),
        ("a.example", "a.example", False),
        ("http://a.example", "", False),
    ],
)
def test_a_foreign_page_may_not(origin: str, host: str, secure: bool) -> None:
    with pytest.raises(SocketFault) as refused:
        check_origin(connection(secure=secure, origin=origin, host=host), None)
    assert refused.value.code == "WS_ORIGIN_NOT_ALLOWED"


def test_who_says_no_origin_is_no_browser() -> None:
    check_origin(connection(host="a.example"), None)
    check_origin(connection(host="a.example"), ["https://b.example"])


WILD = ["https://*.example.com", "http://localhost:3000"]


@pytest.mark.parametrize(
    "origin", ["https://a.example.com", "https://a.b.example.com:443", "http://localhost:3000"]
)
def test_a_listed_origin_may_connect(origin: str) -> None:
    check_origin(connection(origin=origin, host="x"), WILD)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evilexample.com",
        "https://example.com",
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://a.example.com.evil.org",
        "http://localhost",
        "null",
        "https://",
    ],
)
def test_an_origin_that_only_looks_like_a_listed_one_may_not(origin: str) -> None:
    with pytest.raises(SocketFault):
        check_origin(connection(origin=origin, host="x"), WILD)


def test_a_star_allows_every_origin() -> None:
    check_origin(connection(origin="null", host="x"), ["*"])


def test_the_host_must_be_one_of_ours() -> None:
    for host in ("a.example", "A.example:8000", "b.sub.example"):
        check_host(connection(host=host), ["a.example", "*.sub.example"])
    for host in ("b.example", "sub.example", "", "[::1", "a.example.evil.org"):
        with pytest.raises(SocketFault) as refused:
            check_host(connection(host=host), ["a.example", "*.sub.example"])
        assert refused.value.status == 400
    check_host(connection(host="anything"), None)
    check_host(connection(host="anything"), ["*"])


@pytest.mark.parametrize(
    ("offered", "profile", "echoed"),
    [
        ([], PLAIN_JSON, None),
        (["aquilia.plain.json"], PLAIN_JSON, "aquilia.plain.json"),
        (["other", "aquilia.v1.json"], V1_JSON, "aquilia.v1.json"),
        (["aquilia.bearer.abc", "aquilia.v1.msgpack", "aquilia.v1.json"], V1_MSGPACK, "aquilia.v1.msgpack"),
        (["aquilia.v1.cbor"], V1_CBOR, "aquilia.v1.cbor"),
        (["mine", "aquilia.v1.json"], PLAIN_JSON, "mine"),
    ],
)
def test_the_first_subprotocol_that_is_ours_is_spoken(
    offered: list[str], profile: Profile, echoed: str | None
) -> None:
    assert choose_profile(offered, ["mine"]) == (profile, echoed)


@pytest.mark.parametrize("offered", [["other"], ["aquilia.bearer.abc"], ["aquilia.v2.json"]])
def test_a_list_without_ours_is_refused(offered: list[str]) -> None:
    with pytest.raises(SocketFault) as refused:
        choose_profile(offered, [])
    assert refused.value.code == "WS_HANDSHAKE_FAILED"
    assert "aquilia.v1.json" in refused.value.message


def test_who_can_be_told_by_a_close_code() -> None:
    assert wants_v1(["aquilia.v1.json"])
    assert not wants_v1([])
    assert not wants_v1(["aquilia.plain.json"])
    assert not wants_v1(["other"])


def test_a_handshake_shows_what_a_guard_needs() -> None:
    given: Any = connection(origin="https://a", cookie="c=1", host="h")
    shown = Handshake(given, "/a/b", {"x": "b"})
    assert shown.headers["host"] == "h"
    assert shown.query_params["a"] == "1"
    assert shown.cookies == {"c": "1"}
    assert (shown.origin, shown.client) == ("https://a", "10.0.0.1")
    given.scope["client"] = None
    assert shown.client is None
