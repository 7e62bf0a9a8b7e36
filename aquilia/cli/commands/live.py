"""`aq ws broadcast`, `purge-room`, `kick`, `drain`, and `inspect --live`: an application that runs, seen and steered.

They end with 0 if something was met and each node has answered, with 1 if nothing was, and with 2 for a wrong
command, an application that refuses or cannot be reached, and nodes that were silent.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from aquilia.cli.console import columns, count, print_json, print_table, show_error, stderr, stdout
from aquilia.sockets.admin.orders import (
    Broadcast,
    DrainNode,
    Kick,
    LiveNamespace,
    Namespaces,
    NodeRecord,
    Nodes,
    NodesPage,
    Order,
    PublishIdentity,
    PublishRoom,
    PurgeReport,
    PurgeRoom,
    Report,
)
from aquilia.sockets.audit.records import safe

__all__ = [
    "LOCAL",
    "AdapterOption",
    "InsecureOption",
    "UrlOption",
    "broadcast_command",
    "drain_command",
    "inspect_live",
    "kick_command",
    "purge_room_command",
]

UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="AQ_ADMIN_URL",
        help="Where the application is served; its admin's path may follow. The secret is in AQ_ADMIN_SECRET, "
        "or a token in AQ_ADMIN_TOKEN.",
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option(
        "--adapter-url", help="Reach the nodes by their broker instead, as nats://HOST:PORT/PREFIX."
    ),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Send the secret over http:// to another machine, too.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Also an event that the controller does not declare.")
]
NamespaceArgument = Annotated[str, typer.Argument(help="The concrete path, like /chat/acme.")]
LOCAL = "http://127.0.0.1:8000"
NOTHING, WRONG = 1, 2


def broadcast_command(
    namespace: NamespaceArgument,
    event: Annotated[str, typer.Argument(help="One that the controller declares by Emits.")],
    payload: Annotated[str, typer.Argument(help="JSON.")] = "null",
    room: Annotated[str | None, typer.Option("--room", help="Only to the members of this room.")] = None,
    identity: Annotated[str | None, typer.Option("--identity", help="Only to this identity.")] = None,
    force: ForceOption = False,
    url: UrlOption = LOCAL,
    adapter_url: AdapterOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Send an event to all of a namespace, to a room, or to an identity."""
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise typer.BadParameter(f"it is no JSON: {error}", param_hint="PAYLOAD") from None
    if room is not None and identity is not None:
        raise typer.BadParameter("--room or --identity, not both", param_hint="--identity")
    common = {"namespace": namespace, "event": event, "payload": value, "force": force}
    name, order = "broadcast", _order(Broadcast, common)
    if room is not None:
        name, order = "publish-room", _order(PublishRoom, {**common, "room": room})
    elif identity is not None:
        name, order = "publish-identity", _order(PublishIdentity, {**common, "identity": identity})
    report: Report = _reported(name, order, url, adapter_url, insecure)
    _show(report, f"delivered to {count(report.connections, 'connection')}", json)


def kick_command(
    connection: Annotated[str | None, typer.Argument(help="Its id.")] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", help="All connections of this identity.")
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Only in this namespace.")] = None,
    url: UrlOption = LOCAL,
    adapter_url: AdapterOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """End a connection, or all of an identity, with close code 4409."""
    if (connection is None) == (identity is None):
        raise typer.BadParameter("give the id of a connection, or --identity", param_hint="CONNECTION")
    order = _order(Kick, {"connection": connection, "identity": identity, "namespace": namespace})
    report: Report = _reported("kick", order, url, adapter_url, insecure)
    _show(report, f"ended {count(report.connections, 'connection')}", json)


def purge_room_command(
    namespace: NamespaceArgument,
    room: Annotated[str, typer.Argument(help="Its name.")],
    url: UrlOption = LOCAL,
    adapter_url: AdapterOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Delete what a room remembers, and have all members leave it. Who is away does not come back into it."""
    order = _order(PurgeRoom, {"namespace": namespace, "room": room})
    report: PurgeReport = _reported("purge-room", order, url, adapter_url, insecure)
    told = f"{count(report.connections, 'member')} left"
    if report.forgotten is not None:
        told += f", {count(report.forgotten, 'publication')} forgotten"
    _show(report, told, json, met=bool(report.connections or report.forgotten))


def drain_command(
    node: Annotated[str, typer.Argument(help="Its id, as `aq ws inspect --live` shows it.")],
    url: UrlOption = LOCAL,
    adapter_url: AdapterOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Have a node send its clients elsewhere, and take no more. Its process goes on: end it then."""
    report: Report = _reported("drain", _order(DrainNode, {"node": node}), url, adapter_url, insecure)
    told = f"node {node} drains {count(report.connections, 'connection')}"
    _show(report, told if report.nodes else f"no node {node} is there", json, met=bool(report.nodes))


def inspect_live(url: str, adapter_url: str | None, *, insecure: bool, json: bool) -> None:
    """Show the nodes that live, and the namespaces that are open."""

    async def look(way: Any) -> tuple[NodesPage, list[LiveNamespace], list[str]]:
        nodes = await way.call("nodes", Nodes())
        namespaces: list[LiveNamespace] = []
        silent: set[str] = set()
        after = None
        while True:
            page = await way.call("namespaces", Namespaces(limit=1000, after=after))
            namespaces += page.items
            silent |= set(page.silent)
            if (after := page.next) is None:
                return nodes, namespaces, sorted(silent)

    nodes, namespaces, silent = _through(url, adapter_url, insecure, look)
    if json:
        content = {
            "nodes": nodes.items,
            "broker": nodes.broker,
            "store": nodes.store,
            "namespaces": namespaces,
            "silent": silent,
        }
        print_json(msgspec.json.format(msgspec.json.encode(content)).decode())
    else:
        _show_live(nodes.items, namespaces)
    if nodes.store not in ("connected", nodes.broker):
        told = f"the store is {nodes.store} from the node that was asked: what it keeps is neither read nor written"
        stderr.print(told, soft_wrap=True)
        if nodes.broker == "connected" and not silent:
            raise typer.Exit(WRONG)
    if nodes.broker != "connected":
        told = f"the broker is {nodes.broker} from the node that was asked: it says what it knew last of the others"
        stderr.print(told, soft_wrap=True)
        if not silent:
            raise typer.Exit(WRONG)
    _end(silent, met=True)


def _show_live(nodes: list[NodeRecord], namespaces: list[LiveNamespace]) -> None:
    table = columns("nodes", "host", "pid", "phase", "connections")
    for node in nodes:
        table.add_row(
            Text(node.id, "cyan"), safe(node.host), str(node.pid), node.phase, f"{node.connections:,}"
        )
    print_table(table)
    if namespaces:
        stdout.print()
        table = columns("namespaces", "pattern", "connections", "nodes")
        for each in namespaces:
            table.add_row(
                Text(safe(each.namespace), "cyan"), each.pattern, f"{each.connections:,}", str(each.nodes)
            )
        print_table(table)


def _order(kind: type[Order], given: dict[str, Any]) -> Order:
    try:
        order = msgspec.convert(given, kind)
        msgspec.json.encode(order)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(str(error)) from None
    except UnicodeEncodeError:
        raise typer.BadParameter("an argument is no text in UTF-8") from None
    return order


def _reported(name: str, order: Order, url: str, adapter_url: str | None, insecure: bool) -> Any:
    return _through(url, adapter_url, insecure, lambda way: way.call(name, order))


def _through(url: str, adapter_url: str | None, insecure: bool, work: Any) -> Any:
    # Not imported by those who only look at what was compiled.
    from aquilia.cli.reaching import Unreachable, way_to

    async def go() -> Any:
        async with way_to(url, adapter_url, insecure=insecure) as way:
            return await work(way)

    try:
        return asyncio.run(go())
    except Unreachable as error:
        show_error(str(error), Path.cwd())
        raise typer.Exit(WRONG) from None


def _show(report: Report, told: str, json: bool, *, met: bool | None = None) -> None:
    if json:
        print_json(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        stdout.print(told, soft_wrap=True)
    _end(report.silent, met=bool(report.connections) if met is None else met)


def _end(silent: list[str], *, met: bool) -> None:
    if silent:
        names = ", ".join(silent)
        stderr.print(f"no answer of {count(len(silent), 'node')}: {names}", soft_wrap=True)
        raise typer.Exit(WRONG)
    if not met:
        raise typer.Exit(NOTHING)
