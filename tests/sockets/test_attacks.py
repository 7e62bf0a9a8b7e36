"""What has been done to others: hostile messages on the bus, floods of binary frames, foreign pages with a valid
cookie, and names that were rebound to this server's address."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
import pytest
import websockets
from nats_server import NatsServer
from rawsocket import BINARY, CLOSE, CONTINUATION, TEXT, RawSocket, frame
from wire import TIMEOUT, Client, eventually, serving

from aquilia import AppManifest, SessionEngine
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.controller import GET, Controller, RequestCtx
from aquilia.sockets import AquilaSockets, Connection, Event, History, Socket, SocketController
from aquilia.sockets.adapters.names import token
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.sockets.metrics.recorder import Counters


@Socket("/hall/:name", max_message_size=4096)
class Hall(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection) -> None:
        await conn.join("all")

    @Event("say")
    async def say(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("all", "said", payload)


@Socket("/log/:name", history=History(size=100, ttl=60))
class Log(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection) -> None:
        await conn.join("all")

    @Event("recall")
    async def recall(self, conn: Connection) -> list[Any]:
        return [entry.payload for entry in (await self.history("all")).messages]

    @Event("say")
    async def say(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("all", "said", payload)


@pytest.fixture
def app() -> AquilaSockets:
    return AquilaSockets.from_controllers([Hall])


# The bus


class Trap:
    """What runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def stored(payload: bytes = b"\xc0", *, event: str = "said", room: Any = "all", version: int = 1) -> bytes:
    """A publication as it goes over the bus, with a payload of any bytes."""
    head = [version, "p", "/hall/a", room, event]
    parts = [*map(msgspec.msgpack.encode, head), payload, *map(msgspec.msgpack.encode, [1, None, None])]
    return b"\x99" + b"".join(parts)


HOSTILE = {
    "empty": b"",
    "noise": bytes(range(256)),
    "json": b'[1,"p","/hall/a","all","said",null,1,null,null]',
    "truncated": stored()[:-1],
    "longer": stored() + b"\xc0",
    "deep": stored(b"\x91" * 100_000 + b"\xc0"),
    "counts": stored(b"\xdd\xff\xff\xff\xff"),
    "sizes": stored(b"\xdb\xff\xff\xff\xff"),
    "no text": stored(b"\xa1\xff"),
    "key": stored(b"\x81\x80\x01"),
    "later": stored(version=99),
    "elsewhere": stored(room="another"),
    "types": stored(room=7),
    "extension": stored(b"\xd4\x05\x01"),
}
ODD = {
    "list as key": stored(b"\x81\x91\x01\x01"),
    "bytes as key": stored(b"\x81\xc4\x01a\x01"),
    "depth": stored(b"\x91" * 60 + b"\xc0"),
    "no number": stored(b"\xcb\x7f\xf8\0\0\0\0\0\0"),
    "no event": stored(event=""),
    "a word of ours": stored(event="error"),
    "a takeover": stored(b"\x07", event="\0taken over"),
    "a takeover of all": stored(b"\x81\x07\xc0", event="\0taken over"),
}


@contextlib.asynccontextmanager
async def house(url: str, counters: Counters, transport: Any) -> AsyncIterator[str]:
    registry = Registry.build([AppManifest("hall", controllers=[Hall, Log])])
    app = AquilaSockets(registry, adapter=NatsAdapter(url), recorder=counters)
    async with serving(app, ws=transport) as base:
        yield base


async def heard(client: Client) -> Any:
    while (frame := await client.receive()).get("event") != "said" or frame.get("payload") != "well":
        pass
    return frame["payload"]


@contextlib.asynccontextmanager
async def bus_of(server: NatsServer) -> AsyncIterator[nats.NATS]:
    """Somebody who may write to the bus."""
    bus = await nats.connect(f"nats://127.0.0.1:{server.port}")
    try:
        yield bus
    finally:
        await bus.close()


@pytest.mark.parametrize("profile", ["plain", "v1.msgpack", "v1.cbor"])
async def test_a_hostile_message_on_the_bus_is_refused_and_counted_and_harms_nobody(
    nats_server: NatsServer, transport: Any, profile: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, counters, trap = nats_server.url(), Counters(), tmp_path / "unpickled"
    subject = f"{url.rpartition('/')[2]}.plain.{token('/hall/a')}.{token('all')}"
    hostile = [*HOSTILE.values(), *(pickle.dumps(Trap(trap), protocol) for protocol in range(6))]
    async with (
        bus_of(nats_server) as bus,
        house(url, counters, transport) as base,
        Client.connect(f"{base}/hall/a", profile) as member,
    ):
        await member.request("enter")
        for data in hostile:
            await bus.publish(subject, data)
        await bus.flush()
        await eventually(lambda: counters.counts["dropped", "none", "foreign"] == len(hostile))
        assert not trap.exists()
        [told] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert "is no publication of ours, and is ignored (said once)" in told

        for data in ODD.values():  # they are what a node could have said, as far as a decoder can tell
            await bus.publish(subject, data)
        await bus.flush()
        await member.send("say", "well")
        assert await heard(member) == "well"


async def test_a_hostile_entry_of_a_rooms_log_is_passed_over_and_the_room_goes_on(
    nats_server: NatsServer, transport: Any
) -> None:
    url, counters = nats_server.url(), Counters()
    prefix = url.rpartition("/")[2]
    async with bus_of(nats_server) as bus, house(url, counters, transport) as base:
        async with Client.connect(f"{base}/log/a", "v1.json") as member:
            await member.request("enter")
            subjects = await bus.subscribe(f"{prefix}.log.>")
            await bus.flush()  # nats-py's first ping overtakes the subscription,
            await bus.flush()  # and the next stands behind it
            await member.send("say", "first")
            place = (await subjects.next_msg(timeout=TIMEOUT)).subject
            for data in HOSTILE.values():
                await bus.jetstream().publish(place, data)
            await member.send("say", "well")
            assert await heard(member) == "well"
        assert counters.counts["dropped", "none", "foreign"] >= len(HOSTILE)
        async with Client.connect(f"{base}/log/a", "v1.json") as late:
            recalled = (await late.request("recall"))["data"]
        assert [payload for payload in recalled if payload is not None] == ["first", "well"]


# Floods


async def test_a_flood_of_binary_frames_is_refused_at_the_first(base: str) -> None:
    """Socket.IO counts attachments that it waits for; here no message waits for another one."""
    async with RawSocket.open(f"{base}/hall/a") as raw:
        raw.writer.write(b"".join(frame(BINARY, b"x" * 1000) for _ in range(1000)))
        with contextlib.suppress(ConnectionError):
            answer = await raw.read()
            assert (answer.opcode, answer.close_code) == (CLOSE, 1003)


@pytest.mark.parametrize("word", ['51-["x",{"_placeholder":true,"num":0}]', "5999999999-[]", "451-[]"])
async def test_a_promise_of_attachments_is_no_message(base: str, word: str) -> None:
    async with Client.connect(f"{base}/hall/a") as client:
        await client.raw(word)
        assert (await client.expect("error"))["payload"]["code"] == "WS_MESSAGE_INVALID"
        await client.request("enter")


async def test_a_message_in_endless_fragments_ends_at_its_bound(app: AquilaSockets, transport: Any) -> None:
    async with serving(app, ws=transport, ws_max_size=4097) as base, RawSocket.open(f"{base}/hall/a") as raw:
        raw.writer.write(frame(TEXT, b"x" * 1000, final=False))
        with contextlib.suppress(ConnectionError):
            for _ in range(10):
                raw.writer.write(frame(CONTINUATION, b"x" * 1000, final=False))
            answer = await raw.read()
            assert (answer.opcode, answer.close_code) == (CLOSE, 1009)


# Foreign pages, and names that are not ours


class Login(Controller):
    @GET("/login")
    async def login(self, ctx: RequestCtx) -> str:
        ctx.session["user"] = "ada"
        return "welcome"


@Socket("/mine")
class Mine(SocketController):
    @Event("who")
    async def who(self, conn: Connection) -> Any:
        return conn.session.get("user")


@contextlib.asynccontextmanager
async def site(transport: Any, **settings: Any) -> AsyncIterator[tuple[str, str]]:
    """A site that knows its visitor by a cookie: where it is, and the cookie of one who is logged in."""
    manifest = AppManifest(
        "site",
        controllers=[Login, Mine],
        sessions=SessionEngine("a secret of at least 32 characters"),
        websockets=settings,
    )
    async with serving(Application(Registry.build([manifest])), ws=transport) as base:
        async with httpx.AsyncClient(base_url=base.replace("ws", "http", 1), trust_env=False) as browser:
            await browser.get("/login")
            [(name, value)] = browser.cookies.items()
        yield base, f"{name}={value}"


async def test_a_foreign_page_with_a_valid_cookie_opens_no_socket(transport: Any) -> None:
    async with site(transport) as (base, cookie):
        own = base.replace("ws", "http", 1)
        async with Client.connect(
            f"{base}/mine", origin=own, additional_headers={"Cookie": cookie}
        ) as client:
            assert (await client.request("who"))["data"] == "ada"
        port = base.rpartition(":")[2]
        foreign = [
            "https://evil.example",
            "null",
            f"https://127.0.0.1:{port}",
            "http://127.0.0.1",
            f"http://127.0.0.1:{port}.evil.example",
            f"http://evil.example:{port}",
        ]
        for origin in foreign:
            for offered in (None, ["aquilia.v1.json"]):
                with pytest.raises(websockets.InvalidStatus) as refused:
                    async with websockets.connect(
                        f"{base}/mine",
                        origin=websockets.Origin(origin),
                        additional_headers={"Cookie": cookie},
                        subprotocols=offered and [websockets.Subprotocol(each) for each in offered],
                        proxy=None,
                    ):
                        pass
                assert refused.value.response.status_code == 403


async def test_a_page_whose_name_was_rebound_to_this_server_is_refused_by_its_host(transport: Any) -> None:
    """Its origin and its host agree, so that only the host can tell."""
    async with site(transport, allowed_hosts=["127.0.0.1"]) as (base, cookie):
        port = base.rpartition(":")[2]
        rebound = f"rebound.example:{port}"
        async with RawSocket.open(
            f"{base}/mine", Host=rebound, Origin=f"http://{rebound}", Cookie=cookie
        ) as raw:
            assert raw.status == 400
        ours = f"127.0.0.1:{port}"
        async with RawSocket.open(f"{base}/mine", Host=ours, Origin=f"http://{ours}", Cookie=cookie) as raw:
            assert raw.status == 101
