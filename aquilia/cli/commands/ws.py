"""`aq ws …`: the sockets, as compiled and as they run, what their rooms remember, and the audit."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from msgspec import UNSET
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aquilia.cli.commands import audit
from aquilia.cli.commands.live import (
    LOCAL,
    AdapterOption,
    InsecureOption,
    UrlOption,
    broadcast_command,
    drain_command,
    inspect_live,
    kick_command,
    purge_room_command,
)
from aquilia.cli.commands.replay import replay_command
from aquilia.cli.console import columns, fail, print_json, stdout
from aquilia.cli.shape import shape
from aquilia.sockets.artifact import (
    ARTIFACT_PATH,
    ArtifactError,
    EventRecord,
    NamespaceRecord,
    canonical_text,
    read,
)

__all__ = ["app"]

app = typer.Typer(
    name="ws", help="Look at the sockets, as compiled and as they run, and steer them.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    pass


app.command("replay")(replay_command)
app.command("broadcast")(broadcast_command)
app.command("purge-room")(purge_room_command)
app.command("kick")(kick_command)
app.command("drain")(drain_command)
app.add_typer(audit.app, name="audit")


@app.command("inspect")
def inspect_command(
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Show the nodes and namespaces of the application that runs.")
    ] = False,
    url: UrlOption = LOCAL,
    adapter_url: AdapterOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Show what clients may send to each namespace and get from it: artifacts/ws.crous, in short."""
    if live:
        inspect_live(url, adapter_url, insecure=insecure, json=json)
        return
    if adapter_url is not None or insecure:
        raise typer.BadParameter(
            "it is for --live", param_hint="--adapter-url" if adapter_url else "--insecure"
        )
    try:
        artifact = read(ARTIFACT_PATH)
    except ArtifactError as error:
        fail(str(error))
    if json:
        print_json(canonical_text(artifact))
        return
    for namespace in artifact.namespaces:
        _show(namespace)
    if not artifact.namespaces:
        stdout.print("no namespaces: no controller has @Socket")
    stdout.print(Text.assemble(("fingerprint  ", "dim"), artifact.fingerprint), soft_wrap=True)


def _show(namespace: NamespaceRecord) -> None:
    title = Text.assemble(
        (namespace.path, "bold cyan"), f"  {namespace.controller}", f"  app {namespace.app}"
    )
    title.stylize("dim", len(namespace.path))
    stdout.print(title)
    if namespace.doc:
        stdout.print(Padding(Text(namespace.doc), (0, 0, 0, 2), expand=False))
    for table in (_events(namespace), _emits(namespace), _details(namespace)):
        if table.row_count:
            stdout.print()
            stdout.print(Padding(table, (0, 0, 0, 2), expand=False))
    stdout.print()


def _events(namespace: NamespaceRecord) -> Table:
    table = columns("clients send", "", "payload")
    for event in namespace.events:
        table.add_row(Text(event.name, "green"), _manner(event), _payload(event))
    return table


def _manner(event: EventRecord) -> Text:
    words = [*([event.kind] if event.kind != "event" else []), *(["ack"] if event.ack else [])]
    if event.delivery != "at_most_once":
        words.append(event.delivery.replace("_", " "))
    return Text(", ".join(words), "dim")


def _payload(event: EventRecord) -> Text:
    text = Text(shape(event.payload))
    if event.answer is not UNSET:
        text.append(" → ", "dim").append(shape(event.answer))
    for label, names in (("guards", event.guards), ("middleware", event.middleware)):
        if names:
            text.append(f"\n{label}: {', '.join(names)}", "dim")
    return text


def _emits(namespace: NamespaceRecord) -> Table:
    table = columns("clients get", "payload", "backpressure")
    for emits in namespace.emits:
        own = "" if emits.backpressure is UNSET else _spoken(emits.backpressure)
        table.add_row(Text(emits.name, "magenta"), shape(emits.payload), own)
    return table


def _details(namespace: NamespaceRecord) -> Table:
    table = columns("", "")
    if namespace.function is not UNSET:
        table.add_row("function", "has each connection as a whole; messages are no envelopes")
    for guard in namespace.guards:
        table.add_row("guard", f"{guard.name}, on the {' and '.join(guard.on)}, priority {guard.priority}")
    for name in namespace.middleware:
        table.add_row("middleware", name)
    for hook in namespace.hooks:
        table.add_row(f"on {hook.on}", hook.handler)
    for key, value in sorted(namespace.settings.items()):
        if value is not None and value != []:
            table.add_row(key, _spoken(value))
    table.columns[0].style = "dim"
    return table


def _spoken(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_spoken(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_spoken, value))
    return f"{value:,}".removesuffix(".0") if type(value) in (int, float) else str(value)
