"""An allowed origin or host either can match what a browser sends, or is refused at boot."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from aquilia.sockets import SocketFault
from aquilia.sockets.declaration import SocketDeclaration
from aquilia.sockets.handshake.request import check_host, check_origin
from aquilia.sockets.settings import NodeSettings, SettingsError, node_settings, socket_settings


def connection(**headers: str) -> HTTPConnection:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "websocket", "scheme": "wss", "headers": fields})


def may_connect(origin: str, allowed: list[str]) -> bool:
    origins = node_settings({"allowed_origins": allowed}, "m").sockets.allowed_origins
    try:
        check_origin(connection(origin=origin, host="h"), origins)
    except SocketFault:
        return False
    return True


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com/", "https://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("HTTPS://Example.com", "https://example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://*.example.com", "https://a.b.example.com"),
        ("https://*.example.com:8443", "https://a.example.com:8443"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai", "chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai"),
        ("*", "null"),
    ],
)  # fmt: skip
def test_an_entry_allows_its_origin(entry: str, origin: str) -> None:
    assert may_connect(origin, [entry])
    assert may_connect("https://other.example", [entry]) is (entry == "*")


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("capacitor://localhost", "http://localhost"),
        ("http://localhost", "capacitor://localhost"),
        ("capacitor://localhost", "capacitor://localhost:80"),
        ("https://example.com", "https://user@example.com"),
        ("https://example.com", "https://example.com?x=1"),
        ("https://example.com", "https://example.com#x"),
        ("https://example.com", "//example.com"),
        ("https://*.example.com", "https://.example.com"),
    ],
)
def test_nothing_else_is_that_origin(entry: str, origin: str) -> None:
    assert not may_connect(origin, [entry])


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("example.com", "a scheme and a host"),
        ("https://", "a scheme and a host"),
        ("null", "a scheme and a host"),
        ("https://example.com/chat", "nothing behind"),
        ("https://example.com?x=1", "nothing behind"),
        ("https://bücher.example", "'xn--bcher-kva.example'"),
        (f"https://{'ü' * 70}.example", "in ASCII"),
        ("https://user@example.com", "a scheme and a host"),
        ("https://example.com:port", "a scheme and a host"),
        ("https://example.com:99999", "a scheme and a host"),
        ("https://[::1", "a scheme and a host"),
        ("wss://example.com", "'https://example.com'"),
        ("ws://example.com:80", "'http://example.com:80'"),
        ("https://*", "'https://*.example.com'"),
        ("https://*example.com", "'https://*.example.com'"),
        ("https://a.*.example.com", "'https://*.example.com'"),
        ("https://*.*.com", "'https://*.example.com'"),
        ("https://*.", "'https://*.example.com'"),
    ],
)
def test_an_origin_that_no_page_can_have_is_refused_at_boot(entry: str, told: str) -> None:
    declared = SocketDeclaration("/a", allowed_origins=("https://sound.example", entry))
    for settings in (
        lambda: node_settings({"allowed_origins": [entry]}, "m"),
        lambda: socket_settings(declared, NodeSettings(), "m"),
    ):
        with pytest.raises(SettingsError) as refused:
            settings()
        assert refused.value.key == "allowed_origins"
        assert told in refused.value.problem
        assert repr(entry) in refused.value.problem


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("example.com", "example.com"),
        ("example.com", "EXAMPLE.com:8000"),
        ("Example.com", "example.com"),
        ("*.example.com", "a.example.com:443"),
        ("127.0.0.1", "127.0.0.1:8000"),
        ("::1", "[::1]:8000"),
        ("[::1]", "[::1]"),
        ("*", "anything"),
    ],
)
def test_an_entry_allows_its_host(entry: str, host: str) -> None:
    allowed = node_settings({"allowed_hosts": [entry]}, "m").allowed_hosts
    check_host(connection(host=host), allowed)
    if entry != "*":
        with pytest.raises(SocketFault):
            check_host(connection(host="other.example"), allowed)


@pytest.mark.parametrize(
    "entry",
    [
        "https://example.com",
        "example.com:8000",
        "example.com/",
        "a@b",
        "*.",
        "a.*",
        "*com",
        "[::1]:80",
        "a b",
    ],
)
def test_a_host_that_no_request_can_name_is_refused_at_boot(entry: Any) -> None:
    with pytest.raises(SettingsError) as refused:
        node_settings({"allowed_hosts": ["example.com", entry]}, "m")
    assert refused.value.key == "allowed_hosts"
    assert f"a name without scheme and port, like 'example.com' or '*.example.com', not {entry!r}" in str(
        refused.value
    )
