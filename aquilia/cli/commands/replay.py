"""`aq ws replay`: what a room remembers, read from the broker, and sent again if that is wanted."""

from __future__ import annotations

import asyncio
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

import msgspec
import typer

from aquilia.aquilary import BootError
from aquilia.cli.commands.compile import AppOption
from aquilia.cli.console import count, fail, print_json, show_problems, stderr
from aquilia.clock import Clock
from aquilia.faults import Fault
from aquilia.patterns import PatternTable
from aquilia.server import boot
from aquilia.sockets.adapters import ADAPTER_URL, adapter_for
from aquilia.sockets.adapters.base import Adapter, Page, Publication
from aquilia.sockets.adapters.local import LocalAdapter
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.sockets.adapters.signing import bus_signer
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.history import History, Position
from aquilia.sockets.plan import SocketPlan

__all__ = ["replay_command"]


@dataclass(frozen=True, slots=True)
class _Log:
    """One room's log, and where it is kept."""

    adapter: Adapter
    namespace: str
    room: str
    history: History

    async def read(self, since: Position | None, limit: int) -> Page:
        """See `Broker.read`."""
        broker = self.adapter.broker
        await broker.start(lambda publication: None)
        try:
            return await broker.read(self.namespace, self.room, self.history, since=since, limit=limit)
        finally:
            await broker.stop()

    async def send(self, page: Page) -> None:
        """Publish all of a page again, in order, as new messages of now."""
        broker, clock = self.adapter.broker, Clock()
        await broker.start(lambda publication: None)
        try:
            for told in page.publications:
                ts = int(clock.time() * 1000)
                anew = Publication(
                    id=uuid4().hex,
                    namespace=self.namespace,
                    event=told.event,
                    payload=told.payload,
                    ts=ts,
                    room=self.room,
                    identity=told.identity,
                    exclude=told.exclude,
                )
                await broker.publish(anew, self.history)
        finally:
            await broker.stop()


def replay_command(
    namespace: Annotated[str, typer.Argument(help="The concrete path, like /chat/acme.")],
    room: Annotated[str, typer.Argument(help="A room that keeps history.")],
    app: AppOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="EPOCH:OFFSET", help="Only what comes behind this position.", show_default="the newest"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many messages at most.")] = 100,
    format: Annotated[
        Literal["text", "json"], typer.Option(help="Lines for readers, or one JSON object.")
    ] = "text",
    send: Annotated[
        bool, typer.Option("--send", help="Publish them to the room again, as new messages.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before sending.")] = False,
) -> None:
    """Print what a room remembers, from the broker that the workspace in this folder names."""
    position = None if since is None else _position(since)
    log = _log(namespace, room, app)
    try:
        page = asyncio.run(log.read(position, limit))
        if not page.complete:
            fail(
                f"not all that came behind {since} is in the log, which is at {_spoken(page.head)}: leave --since "
                "out for the newest messages"
            )
        if format == "json":
            print_json(_as_json(log, page))
        else:
            for told in page.publications:
                typer.echo(_line(told))
        if send and page.publications:
            what = f"{count(len(page.publications), 'message')} to {room!r} of {namespace}"
            if not yes:
                typer.confirm(f"send {what} again?", abort=True, err=True)
            asyncio.run(log.send(page))
            stderr.print(f"sent {what} again")
    except Fault as error:
        fail(str(error))


def _position(since: str) -> Position:
    epoch, _, offset = since.rpartition(":")
    if not epoch or not (offset.isascii() and offset.isdecimal()):
        raise typer.BadParameter(
            f"{since!r} is no position: EPOCH:OFFSET is needed, as this command prints it",
            param_hint="--since",
        )
    return Position(epoch, int(offset))


def _log(namespace: str, room: str, app: str | None) -> _Log:
    """The log of a room, as the workspace declares it."""
    try:
        with redirect_stdout(sys.stderr):  # what it prints while it is imported is no result
            plan = boot(Path.cwd(), app, to_run=False).application.sockets.plan
        node = plan.node
        adapter = adapter_for(node.adapter, node.adapter_url, Clock(), redis_url=node.redis_url)
    except BootError as error:
        show_problems(error.problems, Path.cwd())
        raise typer.Exit(1) from None
    except ValueError as error:
        fail(str(error))
    contract, path = _contract(plan, namespace)
    history = contract.settings.history.of(room)
    if history is None:
        fail(
            f"the room {room!r} of {path} keeps no history: declare it by "
            f"@Socket({contract.declaration.path!r}, history=…)"
        )
    if getattr(adapter.broker, "alone", False):
        fail(
            "the in-memory adapter keeps a log in the process that serves it, and it dies with that: nothing can be "
            f"read from here. Set {ADAPTER_URL}, or adapter_url in the manifest, to local:// on one machine, or to "
            "nats://HOST:PORT or redis://HOST:PORT"
        )
    if isinstance(adapter, LocalAdapter) and (url := adapter.broker.server.running()) is not None:
        adapter = NatsAdapter(url, signer=bus_signer())  # who serves this workspace has the server
    return _Log(adapter, path, room, history)


def _contract(plan: SocketPlan, namespace: str) -> tuple[SocketContract, str]:
    table: PatternTable[SocketContract] = PatternTable()
    for _, contract in plan.contracts:
        table.add(contract.declaration.path, contract, where=str(contract.location))
    found = table.match(namespace)
    if found is None:
        known = [contract.declaration.path for _, contract in plan.contracts]
        near = get_close_matches(namespace, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        fail(
            f"no controller serves the namespace {namespace!r}{hint} (there are: {', '.join(known) or 'none'})"
        )
    return found.value, found.path


def _spoken(position: Position | None) -> str:
    return "" if position is None else f"{position.epoch}:{position.offset}"


def _line(told: Publication) -> str:
    at = datetime.fromtimestamp(told.ts / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = told.event if told.event.isprintable() else repr(told.event)
    payload = msgspec.json.encode(told.payload).decode()
    return f"{_spoken(told.position)}  {at}  {event}  {payload}"


def _as_json(log: _Log, page: Page) -> str:
    messages = [
        {
            "epoch": told.position.epoch,
            "offset": told.position.offset,
            "ts": told.ts,
            "event": told.event,
            "payload": told.payload,
        }
        for told in page.publications
        if told.position is not None
    ]
    head = {"epoch": page.head.epoch, "offset": page.head.offset}
    shown = {"namespace": log.namespace, "room": log.room, "head": head, "messages": messages}
    return msgspec.json.format(msgspec.json.encode(shown)).decode()
