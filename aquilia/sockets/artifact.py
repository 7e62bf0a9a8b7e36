"""The artifact: what clients may send to each namespace and get from it, as `artifacts/ws.crous`.

It is written by `aq compile`, checked by `aq serve`, and read by generators in any language. The file is JSON in one
canonical form (UTF-8, sorted keys, two spaces of indentation, a newline at its end) and holds nothing of the machine
or the moment that wrote it, so equal sources give equal bytes. `fingerprint` is the SHA-256, in hex, of the rest of
it as JSON with sorted keys and without spaces.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from aquilia.sockets.declaration import Delivery, EventKind

__all__ = [
    "ARTIFACT_PATH",
    "FORMAT",
    "AppRecord",
    "Artifact",
    "ArtifactError",
    "EmitRecord",
    "EventRecord",
    "GuardRecord",
    "HookRecord",
    "Moment",
    "NamespaceRecord",
    "ParameterRecord",
    "canonical_text",
    "differences",
    "read",
    "write",
]

FORMAT = "aquilia.ws/1"
ARTIFACT_PATH = Path("artifacts", "ws.crous")
"""Where it lies in a workspace."""

Moment = Literal["handshake", "message", "room"]

_AGAIN = "run `aq compile`"


class ArtifactError(Exception):
    """A file that is no artifact of this version, or cannot be read or written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path} {self.problem}"


class AppRecord(Struct, frozen=True):
    """An app, from its manifest."""

    name: str
    version: str
    depends_on: tuple[str, ...] = ()
    auth: str | None = None
    """Its AuthManager, as `module:Class`."""


class ParameterRecord(Struct, frozen=True):
    """A parameter of a namespace's path. `kind` is one of those in `aquilia.patterns`."""

    name: str
    kind: str


class EventRecord(Struct, frozen=True):
    """A message that clients may send. `payload` and `answer` (the ack's data) are JSON Schemas."""

    name: str
    kind: EventKind
    handler: str
    doc: str
    ack: bool
    payload: dict[str, Any]
    delivery: Delivery
    guards: tuple[str, ...] = ()
    middleware: tuple[str, ...] = ()
    answer: dict[str, Any] | UnsetType = UNSET


class EmitRecord(Struct, frozen=True):
    """A message that clients may get. `payload` is a JSON Schema; `backpressure` its own, if it has one.

    `durable` is True of what outlives its node, and else left out.
    """

    name: str
    payload: dict[str, Any]
    backpressure: dict[str, Any] | UnsetType = UNSET
    durable: bool | UnsetType = UNSET


class GuardRecord(Struct, frozen=True):
    """Who may refuse: a method of the controller, or a guard of it or of its app, as `module:Class`."""

    name: str
    priority: int
    on: tuple[Moment, ...]


class HookRecord(Struct, frozen=True):
    """A method that runs when a connection opens or ends, or when somebody comes to a room or leaves it."""

    handler: str
    on: Literal["connect", "disconnect", "presence"]


class NamespaceRecord(Struct, frozen=True):
    """A controller, by the pattern of its path. `settings` are those in force, sizes in bytes."""

    path: str
    app: str
    controller: str
    doc: str
    parameters: tuple[ParameterRecord, ...]
    settings: dict[str, Any]
    events: tuple[EventRecord, ...]
    emits: tuple[EmitRecord, ...]
    guards: tuple[GuardRecord, ...]
    middleware: tuple[str, ...]
    hooks: tuple[HookRecord, ...]
    function: str | UnsetType = UNSET
    """What has each connection as a whole, in the place of a controller: its messages are no envelopes."""


class Artifact(Struct, frozen=True):
    """The contract of all socket controllers of a workspace; namespaces and events are sorted by name."""

    apps: tuple[AppRecord, ...]
    namespaces: tuple[NamespaceRecord, ...]
    format: str = FORMAT

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content, in hex."""
        return _fingerprint(msgspec.to_builtins(self))


def canonical_text(artifact: Artifact) -> str:
    """The artifact as its file has it."""
    content = {**msgspec.to_builtins(artifact), "fingerprint": artifact.fingerprint}
    return json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: Path, artifact: Artifact) -> None:
    """Put the artifact into place at once, so that nobody ever reads half of it. Makes the folder if need be.

    Raises:
        ArtifactError: it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(canonical_text(artifact).encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise ArtifactError(path, f"cannot be written: {error.strerror or error}") from error


def read(path: Path) -> Artifact:
    """Read an artifact, and check that it is whole.

    Raises:
        ArtifactError: it is missing, damaged, of another format, or was changed by hand.
    """
    content = _content(path)
    stated = content.get("format") if isinstance(content, dict) else None
    if not isinstance(stated, str) or not stated.startswith("aquilia.ws/"):
        raise ArtifactError(
            path, f"is no artifact of `aq compile`: its format should be {FORMAT!r}; {_AGAIN}"
        )
    if stated != FORMAT:
        raise ArtifactError(
            path, f"has the format {stated!r}, and this version of Aquilia reads {FORMAT!r}; {_AGAIN}"
        )
    if content.pop("fingerprint", None) != _fingerprint(content):
        raise ArtifactError(path, f"was changed by hand: its content does not fit its fingerprint; {_AGAIN}")
    try:
        return msgspec.convert(content, Artifact)
    except msgspec.ValidationError as error:
        raise ArtifactError(path, f"is damaged: {error}; {_AGAIN}") from error


def _content(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(path, f"does not exist; {_AGAIN}") from None
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(path, f"is damaged: {error}; {_AGAIN}") from error


def _fingerprint(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Artifact, after: Artifact) -> list[str]:
    """What has been added, removed and changed, as lines for people; empty if nothing has."""
    lines = _changes("app", _by(before.apps, "name"), _by(after.apps, "name"))
    olds, news = _by(before.namespaces, "path"), _by(after.namespaces, "path")
    lines += _changes("namespace", olds, news, changed=False)
    for path in sorted(olds.keys() & news.keys()):
        lines += [f"namespace {path}: {change}" for change in _namespace_changes(olds[path], news[path])]
    return lines


def _namespace_changes(before: NamespaceRecord, after: NamespaceRecord) -> list[str]:
    lines = _changes("event", _by(before.events, "name"), _by(after.events, "name"))
    lines += _changes("emitted event", _by(before.emits, "name"), _by(after.emits, "name"))
    for name in NamespaceRecord.__struct_fields__:
        if name not in ("events", "emits") and getattr(before, name) != getattr(after, name):
            lines.append(f"{name} changed")
    return lines


def _changes(what: str, before: dict[str, Any], after: dict[str, Any], *, changed: bool = True) -> list[str]:
    same = before.keys() & after.keys()
    return [
        *(f"{what} {name} added" for name in sorted(after.keys() - before.keys())),
        *(f"{what} {name} removed" for name in sorted(before.keys() - after.keys())),
        *(f"{what} {name} changed" for name in sorted(same) if changed and before[name] != after[name]),
    ]


def _by(records: tuple[Any, ...], key: str) -> dict[str, Any]:
    return {getattr(record, key): record for record in records}
