"""A server that says what the test writes, well or badly: its links are taken one by one, and led by hand."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from wire import PROFILES

from aquilia.client import Client, ConnectionEnded, State

SUBPROTOCOLS = ["aquilia.v1.json", "aquilia.v1.msgpack", "aquilia.v1.cbor"]


class Hand:
    """One link, seen from the server."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        _, self._encode, self._decode = PROFILES[(socket.subprotocol or "plain").removeprefix("aquilia.")]

    async def read(self) -> dict[str, Any]:
        """The next envelope of the client's."""
        envelope: dict[str, Any] = self._decode(await self.socket.recv())
        return envelope

    async def write(self, kind: str, event: str | None = None, **fields: Any) -> None:
        """An envelope."""
        await self.raw(self._encode({"type": kind, **({} if event is None else {"event": event}), **fields}))

    async def system(self, event: str, **payload: Any) -> None:
        """A word of the server's own."""
        await self.write("system", event, payload=payload)

    async def raw(self, data: str | bytes) -> None:
        """Whatever."""
        await self.socket.send(data)

    async def greet(self, **welcome: Any) -> dict[str, Any]:
        """Read `hello`, which is returned, and welcome the client."""
        hello = await self.read()
        await self.system("welcome", **{"connection": "c", "heartbeat": 0, **welcome})
        return dict(hello.get("payload") or {})

    async def ack(self, **payload: Any) -> dict[str, Any]:
        """Read a message, which is returned, and answer it."""
        message = await self.read()
        await self.write("ack", id=message["id"], payload=payload or {"status": "ok"})
        return message

    async def close(self, code: int, reason: str = "") -> None:
        """Leave, in order."""
        await self.socket.close(code, reason)

    def cut(self) -> None:
        """Leave without a word."""
        self.socket.transport.abort()

    async def ended(self) -> tuple[int, str]:
        """The code and the reason of the client, once it has left; 1006 where it just went."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.socket.recv()
        closed = self.socket.protocol.close_rcvd
        return (1006, "") if closed is None else (closed.code, closed.reason)


class Peer:
    """The server."""

    def __init__(self) -> None:
        self.url = ""
        self.refusals: deque[tuple[int, Mapping[str, str], bytes]] = deque()
        """How the next handshakes are refused: status, headers, body."""
        self.asked = 0
        """How many handshakes there were."""
        self.door = asyncio.Event()
        """No handshake is answered while it is not set."""
        self.door.set()
        self._hands: asyncio.Queue[Hand] = asyncio.Queue()

    async def take(self, **welcome: Any) -> Hand:
        """The next link, its client welcomed."""
        hand = await self.accept()
        await hand.greet(**welcome)
        return hand

    async def accept(self) -> Hand:
        """The next link, as it comes."""
        return await self._hands.get()

    @property
    def waiting(self) -> int:
        """How many links nobody has taken."""
        return self._hands.qsize()

    async def _request(self, socket: ServerConnection, request: Request) -> Response | None:
        self.asked += 1
        await self.door.wait()
        if not self.refusals:
            return None
        status, headers, body = self.refusals.popleft()
        all_headers = Headers({"Content-Length": str(len(body)), **headers})
        return Response(status, HTTPStatus(status).phrase, all_headers, body)

    async def _lead(self, socket: ServerConnection) -> None:
        await self._hands.put(Hand(socket))
        await socket.wait_closed()


@contextlib.asynccontextmanager
async def peer(**options: Any) -> AsyncIterator[Peer]:
    """A server on a free port. It offers all subprotocols of v1, and never pings."""
    one = Peer()
    options = {"subprotocols": SUBPROTOCOLS, "ping_interval": None, "close_timeout": 0.5, **options}
    async with serve(one._lead, "127.0.0.1", 0, process_request=one._request, **options) as server:
        scheme = "wss" if options.get("ssl") else "ws"
        one.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/chat"
        yield one


@contextlib.asynccontextmanager
async def listener(answer: bytes | None, **options: Any) -> AsyncIterator[str]:
    """What is no WebSocket server: says `answer` to whoever speaks, and ends; None: never says anything."""

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while answer is None and await reader.read(1 << 16):
                pass
            if answer is not None:
                await reader.read(1 << 16)
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(lead, "127.0.0.1", 0, **options)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/chat"


def client(url: str, **options: Any) -> Client:
    """One that comes back at once."""
    return Client(url, **{"proxy": None, "backoff_base": 0.01, "backoff_cap": 0.02, **options})


def server_tls(folder: Path) -> ssl.SSLContext:
    """A certificate for 127.0.0.1 that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def meet(server: Peer, who: Client, **welcome: Any) -> Hand:
    """Connect a client, and take its link."""
    connecting = asyncio.create_task(who.connect())
    hand = await server.take(**welcome)
    await connecting
    return hand


async def offline(server: Peer, who: Client) -> None:
    """Connect it, and have it wait for a long time before it comes back."""
    hand = await meet(server, who)
    states = who.states()
    await hand.close(1013, '{"after": 60000}')
    assert await anext(states) is State.RECONNECTING


async def stopped(who: Client) -> ConnectionEnded:
    """Why a client has stopped, once it has."""
    with contextlib.suppress(ConnectionEnded):
        async for _ in who.states():
            pass
    assert who.ended is not None
    return who.ended
