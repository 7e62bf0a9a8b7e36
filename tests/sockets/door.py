"""A house with many doors, and what its tests share: controllers for every way in which something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import websockets
from starlette.responses import JSONResponse, Response
from wire import PROFILES, Client

from aquilia import Fault
from aquilia.middleware import CallNext
from aquilia.sockets import (
    AckEvent,
    AquilaSockets,
    Connection,
    Event,
    Guard,
    OnConnect,
    Schema,
    Socket,
    SocketController,
    SocketGuard,
    Subscribe,
)
from aquilia.sockets.faults import ws_auth_required, ws_namespace_not_found

V1 = [name for name in PROFILES if name != "plain"]
TEXT = ["plain", "v1.json"]
BINARY = ["v1.msgpack", "v1.cbor"]
MAX_SIZE = 4096


class Broken(SocketGuard):
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        raise ZeroDivisionError("a secret")


class Closed(SocketGuard):
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        return False


class Expired(SocketGuard):
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        raise ws_auth_required("sign in again")


@Socket("/door/:name", max_message_size=MAX_SIZE)
class Door(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("where")
    async def where(self, conn: Connection) -> str:
        return conn.namespace

    @AckEvent("note", schema=Schema({"text": str}))
    async def note(self, conn: Connection, payload: dict[str, Any]) -> None:
        pass

    @Event("n" * 128)
    async def long_name(self, conn: Connection) -> str:
        return "here"

    @Event("fail")
    async def fail(self, conn: Connection) -> None:
        raise ZeroDivisionError("a secret")

    @Event("unspeakable")
    async def unspeakable(self, conn: Connection) -> Any:
        return object()

    @Event("misspoken")
    async def misspoken(self, conn: Connection) -> None:
        raise Fault("MISSPOKEN", "its details cannot be written", details=[object()])

    @Event("cancelled")
    async def cancelled(self, conn: Connection) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    @Event("ask")
    async def ask(self, conn: Connection) -> Any:
        return await conn.request("question", timeout=5)

    @Event("lost")
    async def lost(self, conn: Connection) -> None:
        raise ws_namespace_not_found("/elsewhere")

    @Event("broken guard", guards=[Broken()])
    async def behind_broken(self, conn: Connection) -> None:
        pass

    @Event("closed guard", guards=[Closed()])
    async def behind_closed(self, conn: Connection) -> None:
        pass

    @Event("expired guard", guards=[Expired()])
    async def behind_expired(self, conn: Connection) -> None:
        pass

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: list[str]) -> list[str]:
        return payload


@Socket("/greeting/:mood")
class Greeting(SocketController):
    """Its OnConnect ends in different ways."""

    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        match conn.path_params["mood"]:
            case "bad":
                raise ZeroDivisionError("a secret")
            case "sober":
                raise ws_auth_required("sign in")
            case "own":
                raise Fault("NOT_TODAY", "come back tomorrow")
            case "denied":
                raise Fault("NOT_YOU", "you may not", status=403)
            case "unknown":
                raise Fault("WHO", "sign in", status=401)
            case "cancelled":
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                future.cancel()
                await future


class Bouncer(SocketGuard):
    async def check_handshake(self, handshake: Any) -> bool:
        match handshake.query_params.get("bouncer"):
            case "no":
                return False
            case "who":
                raise ws_auth_required("sign in")
            case "ill":
                raise ZeroDivisionError("a secret")
            case "cancelled":
                future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                future.cancel()
                return await future
            case "busy":
                raise Fault("BUSY", "too many of you", status=429)
        return True


@Socket("/club/:name", guards=[Bouncer()], allowed_origins=["https://club.example"])
class Club(SocketController):
    def __init__(self) -> None:
        if self.path_params["name"] == "burnt":
            raise ZeroDivisionError("a secret")

    @Guard(on="handshake")
    async def members_only(self, handshake: Any) -> bool:
        return handshake.path_params["name"] != "private"


@Socket("/own", subprotocols=["soap"])
class Own(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


@Socket("/slow", message_rate_limit=0.01)
class Slow(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


@Socket("/single", max_connections=1)
class Single(SocketController):
    pass


async def refusing(ctx: Any, call_next: CallNext) -> Any:
    match ctx.request.query_params.get("middleware"):
        case "broken":
            raise ZeroDivisionError("a secret")
        case "wordy":
            return JSONResponse({"code": "ä" * 200}, 403)
        case "silent":
            return Response(status_code=403)
    return await call_next(ctx)


class Complaints(logging.Handler):
    """What was logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        # uvicorn says that of every handshake that an application refuses by a response of its own.
        if record.getMessage() != "ASGI callable returned without completing handshake.":
            self.records.append(record)

    def take(self) -> list[str]:
        """The complaints so far, each with its error; they count as expected."""
        records, self.records = self.records, []
        return [f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}" for record in records]


@contextlib.contextmanager
def listening() -> Iterator[Complaints]:
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    try:
        yield complaints
    finally:
        logging.getLogger().removeHandler(complaints)


def house() -> AquilaSockets:
    return AquilaSockets.from_controllers([Door, Greeting, Club, Own, Slow, Single], middleware=[refusing])


async def expect_close(client: Client, code: int) -> str:
    """Wait for the end with this code; its reason."""
    closed, reason = await client.closed()
    assert closed == code, (closed, reason)
    return reason


def nested(depth: int) -> Any:
    """Lists within each other; in an envelope, each is one deeper."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def written(profile: str, message: Any) -> str | bytes:
    return PROFILES[profile][1](message)


async def refusal(client: Client) -> dict[str, Any]:
    """The error that the next frame carries, be it an ack or an event."""
    frame = await client.receive()
    if frame["type"] == "ack":
        assert frame["payload"]["status"] == "error", frame
        return {**frame["payload"]["error"], "id": frame["id"]}
    assert (frame["type"], frame["event"]) == ("event", "error"), frame
    assert "id" not in frame
    return frame["payload"]


async def is_served(client: Client) -> bool:
    return await client.request("echo", "still here") == {"status": "ok", "data": "still here"}


async def denial(url: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """The HTTP status and body by which a handshake is refused."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(url, proxy=None, **options)
    response = caught.value.response
    assert response.headers["content-type"] == "application/json"
    return response.status_code, json.loads(response.body)
