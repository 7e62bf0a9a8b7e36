"""`aq ws audit show`: the records of an audit file, as people read them, verified on the way."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from rich.text import Text

from aquilia.cli.console import count, fail, note, print_json, stdout
from aquilia.sockets.accepted import unknown
from aquilia.sockets.audit.chain import Line, Verdict, Verifier
from aquilia.sockets.audit.file import AuditFileError, stamp
from aquilia.sockets.audit.records import WARNINGS, AuditEvent, safe
from aquilia.sockets.audit.trail import audit_secret

__all__ = ["show_command"]

LOOK = 0.5
"""Seconds between two looks for what is new."""
PATIENCE = 4
"""So many looks a torn line waits for the next process to seal it."""
BLOCK = 1 << 16
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_KINDS = get_args(AuditEvent)


def show_command(
    file: Annotated[Path, typer.Argument(help="An audit file.")] = Path("artifacts/audit.crous"),
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this event, like access.denied; may be repeated.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only from then on: 2026-01-31T12:00, which is UTC, or 90s, 15m, 2h, 7d."
        ),
    ] = None,
    identity: Annotated[str | None, typer.Option(metavar="ID", help="Only of this identity.")] = None,
    address: Annotated[str | None, typer.Option(help="Only of this client's address.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Whole records, one JSON object a line.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
) -> None:
    """Print the records of an audit file: when, what kind, who, from where, and what.

    Every line is verified before it is shown, with the writer's AQ_AUDIT_SECRET. At the first that is not as it was
    written it ends, with the exit code 1.
    """
    try:
        secret = audit_secret()
    except AuditFileError as error:
        fail(str(error))
    wanted = _Wanted(_kinds(kind or []), None if since is None else _moment(since), identity, address)

    def show(line: Line) -> None:
        if wanted.has(line.content):
            _show(line, as_json=as_json)

    with suppress(KeyboardInterrupt):
        while True:
            verdict = _read(file, Verifier(secret, each=show), follow=follow)
            if verdict.problem is not None:
                _fail(file, verdict)
            if not follow:
                break
            note(f"{file} is another file now")
        if verdict.torn:
            note("it ends in the middle of a line: it is written now, or its process was killed")


# What is wanted


@dataclass(frozen=True, slots=True)
class _Wanted:
    kinds: frozenset[str]
    since: str | None
    identity: str | None
    address: str | None

    def has(self, record: Mapping[str, Any]) -> bool:
        return (
            (not self.kinds or record.get("event") in self.kinds)
            and (self.since is None or str(record.get("time")) >= self.since)
            and self.identity in (None, record.get("identity"))
            and self.address in (None, record.get("address"))
        )


def _kinds(named: list[str]) -> frozenset[str]:
    for kind in named:
        if kind not in _KINDS:
            raise typer.BadParameter(unknown(f"event {kind!r}", kind, _KINDS), param_hint="--kind")
    return frozenset(named)


def _moment(text: str) -> str:
    """A time as the file has it, which sorts as time does."""
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text)
    try:
        if ago:
            return stamp(time.time() - int(ago[1]) * _UNITS[ago[2]])
        told = datetime.fromisoformat(text)
        return stamp((told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, OSError):
        needed = (
            f"a time like 2026-01-31T12:00, or how long ago, like 90s, 15m, 2h or 7d, is needed, not {text!r}"
        )
        raise typer.BadParameter(needed, param_hint="--since") from None


# Reading


def _read(file: Path, verifier: Verifier, *, follow: bool) -> Verdict:
    """All of a file; `follow`: until another has its name, or a line is wrong."""
    try:
        source = _Source(file)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
    with source:
        waited = 0
        while True:
            last = not follow or source.is_replaced()  # looked at before it is read for the last time
            if not all(verifier.take(line) for line in source.lines()):
                return verifier.verdict
            if source.is_cut():
                verifier.verdict.problem = "the file is shorter than it was: lines were cut off"
                return verifier.verdict
            waited = waited + 1 if verifier.waits else 0
            if last or waited > PATIENCE:
                break
            stdout.file.flush()
            time.sleep(LOOK)
        if rest := source.rest():
            verifier.take(rest)
        return verifier.finish()


class _Source:
    """A file that grows. Its writer may take back what is no whole line yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._offset = 0

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def lines(self) -> Iterator[bytes]:
        """The whole lines that were not read yet, each with its newline."""
        size = BLOCK
        while True:
            block = self._at_offset(size)
            whole, newline, _ = block.rpartition(b"\n")
            if newline:
                for line in whole.split(b"\n"):
                    self._offset += len(line) + 1
                    yield line + b"\n"
            elif len(block) < size:
                return
            else:
                size *= 2

    def rest(self) -> bytes:
        """What stands behind the last whole line."""
        return self._at_offset(BLOCK)

    def _at_offset(self, size: int) -> bytes:
        self._file.seek(self._offset)
        return self._file.read(size) or b""

    def is_cut(self) -> bool:
        """Whether there is less than was read already."""
        return os.fstat(self._file.fileno()).st_size < self._offset

    def is_replaced(self) -> bool:
        """Whether another file has its name. While none has, one may come."""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        return not os.path.samestat(now, os.fstat(self._file.fileno()))


# Showing


def _show(line: Line, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.json.encode({**line.content, "hash": line.hash}).decode())
        return
    record = {name: safe(value) for name, value in line.content.items()}
    event = record.get("event", "")
    shown = Text.assemble(
        (record.get("time", "").ljust(24), "dim"),
        "  ",
        (event.ljust(21), "yellow" if event in WARNINGS else ""),
        "  ",
        (record.get("identity") or "-").ljust(16),
        "  ",
        (record.get("address") or "-").ljust(15),
        "  ",
        _what(record),
    )
    stdout.print(shown, soft_wrap=True)


def _what(record: Mapping[str, str]) -> str:
    parts = [record.get(name, "") for name in ("code", "message")]
    parts.append(record.get("namespace") or record.get("pattern", ""))
    if record.get("origin") and record.get("event") == "handshake.refused":
        parts.append(f"origin {record['origin']}")
    if record.get("count", "1") != "1":
        parts.append(f"{record['count']} times in a second")
    told = " ".join(part for part in parts if part)
    return ": ".join(part for part in (told, record.get("reason", "")) if part)


def _fail(file: Path, verdict: Verdict) -> None:
    before = f"; before that: {count(verdict.lines, 'line')} as written" if verdict.lines else ""
    fail(f"{file}:{verdict.line}: {verdict.problem}{before}")
