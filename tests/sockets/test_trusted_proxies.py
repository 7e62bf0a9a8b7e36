"""Clients behind proxies: their limits and origins, and what those can do who only say that they are behind one."""

from __future__ import annotations

from typing import Any

import pytest
from door import denial
from starlette.applications import Starlette
from starlette.routing import Mount
from wire import TRANSPORTS, Client, serving

from aquilia.aquilary import BootError
from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController
from aquilia.testing import HandshakeRefused, sockets_test


@Socket("/hall")
class Hall(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


WIRES = pytest.mark.parametrize("transport", list(TRANSPORTS))


def told_of(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


@WIRES
@pytest.mark.parametrize("mounted", [False, True], ids=["alone", "mounted"])
async def test_each_client_of_a_proxy_is_counted_by_its_own_address(transport: str, mounted: bool) -> None:
    app = AquilaSockets.from_controllers([Hall], max_connections_per_address=1, trusted_proxies=["127.0.0.1"])
    site = Starlette(routes=[Mount("/in", app)], lifespan=app.lifespan) if mounted else app
    async with serving(site, ws=TRANSPORTS[transport], proxy_headers=False) as base:
        url = f"{base}/in/hall" if mounted else f"{base}/hall"
        async with (
            Client.connect(url, additional_headers=told_of("192.0.2.1")),
            Client.connect(url, additional_headers=told_of("192.0.2.2")),
        ):
            status, body = await denial(url, additional_headers=told_of("192.0.2.1"))
            assert (status, body["code"]) == (429, "WS_QUOTA_EXCEEDED")


@WIRES
async def test_who_is_no_trusted_proxy_cannot_choose_its_address(transport: str) -> None:
    app = AquilaSockets.from_controllers([Hall], max_connections_per_address=1, trusted_proxies=["127.0.0.2"])
    async with serving(app, ws=TRANSPORTS[transport], proxy_headers=False) as base:
        async with Client.connect(f"{base}/hall", additional_headers=told_of("192.0.2.1")):
            for spoofed in ("192.0.2.2", "127.0.0.2"):
                status, _ = await denial(f"{base}/hall", additional_headers=told_of(spoofed))
                assert status == 429


@WIRES
async def test_clients_of_a_broken_proxy_share_no_limit_and_are_refused(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = AquilaSockets.from_controllers([Hall], max_connections_per_address=1, trusted_proxies=["127.0.0.1"])
    async with serving(app, ws=TRANSPORTS[transport], proxy_headers=False) as base:
        for told in ("nonsense", "192.0.2.1, nonsense", "192.0.2.300"):
            status, body = await denial(f"{base}/hall", additional_headers=told_of(told))
            assert (status, body["code"]) == (400, "WS_HANDSHAKE_FAILED")
        async with Client.connect(f"{base}/hall", additional_headers=told_of("nonsense, 192.0.2.1")):
            pass
    assert len([line for line in caplog.messages if "does not tell who its client is" in line]) == 1


async def test_the_log_tells_once_a_minute_that_a_proxy_is_broken(caplog: pytest.LogCaptureFixture) -> None:
    def told() -> list[str]:
        return [line for line in caplog.messages if "does not tell who its client is" in line]

    async def refused() -> None:
        with pytest.raises(HandshakeRefused, match="WS_HANDSHAKE_FAILED"):
            await t.connect("/hall", headers={"forwarded": "for=nobody"})

    async with sockets_test(Hall, trusted_proxies=["127.0.0.1"]) as t:
        for _ in range(3):
            await refused()
        assert "Forwarded is malformed: 'nobody' is no address" in told()[0]
        await t.clock.advance(61)
        await refused()
        assert len(told()) == 2
        assert "2 others since it was said" in told()[1]


SAME = {"origin": "https://a.example", "host": "inside"}


async def test_the_same_origin_is_that_before_a_trusted_proxy() -> None:
    told = {"forwarded": "for=192.0.2.1;proto=https;host=a.example"}
    async with sockets_test(Hall, trusted_proxies=["127.0.0.1"]) as t:
        await t.connect("/hall", headers={**SAME, **told})
        for other in ("proto=http;host=a.example", "proto=https;host=b.example", "proto=https"):
            with pytest.raises(HandshakeRefused, match="WS_ORIGIN_NOT_ALLOWED"):
                await t.connect("/hall", headers={**SAME, "forwarded": f"for=192.0.2.1;{other}"})


async def test_a_page_cannot_say_for_itself_that_it_is_of_the_same_origin() -> None:
    spoofs = [
        {"forwarded": "for=192.0.2.1;proto=https;host=a.example"},
        {"x-forwarded-host": "a.example", "x-forwarded-proto": "https"},
    ]
    async with sockets_test(Hall, trusted_proxies=["10.0.0.0/8"]) as t:
        for spoof in spoofs:
            with pytest.raises(HandshakeRefused, match="WS_ORIGIN_NOT_ALLOWED"):
                await t.connect("/hall", headers={**SAME, **spoof})


async def test_the_allowed_hosts_are_those_before_the_proxy() -> None:
    async with sockets_test(Hall, trusted_proxies=["127.0.0.1"], allowed_hosts=["a.example"]) as t:
        await t.connect("/hall", headers={"host": "inside", "forwarded": "host=a.example"})
        for told in ({"forwarded": "host=b.example"}, {"host": "b.example", "x-forwarded-host": "a.example"}):
            with pytest.raises(HandshakeRefused, match="WS_HANDSHAKE_FAILED"):
                await t.connect("/hall", headers={"host": "a.example", **told})


@pytest.mark.parametrize("value", [["10.0.0.1/8"], ["proxy.example"], ["*"], "10.0.0.1", [10], [""]])
def test_what_names_no_proxies_is_refused_at_boot(value: Any) -> None:
    with pytest.raises(BootError, match="trusted_proxies: "):
        AquilaSockets.from_controllers([Hall], trusted_proxies=value)
