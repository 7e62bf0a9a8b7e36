"""The audit of a process: from what happens to records, summed up where clients flood it, to the log and the file."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import HTTPConnection

from aquilia.aquilary import BootError, Problem
from aquilia.clock import Clock
from aquilia.exchange import route_path
from aquilia.sockets.audit.file import AuditFile, AuditFileError, stamp
from aquilia.sockets.audit.records import SUMMED, WARNINGS, AuditEvent, AuditRecord, Outcome, safe
from aquilia.sockets.connection import Connection
from aquilia.sockets.handshake.request import Handshake

__all__ = ["AUDIT_SECRET", "AuditTrail", "audit_secret"]

logger = logging.getLogger("aquilia.audit")

AUDIT_SECRET = "AQ_AUDIT_SECRET"
"""The environment variable with the secret of the chain."""
LEAST_SECRET = 32
WINDOW = 1.0
"""Seconds in which what clients cause is summed up."""
DISTINCT = 200
"""Records for what clients cause in a window, before those of several clients are summed up in one."""


def audit_secret() -> bytes | None:
    """What the environment has; None: nothing.

    Raises:
        AuditFileError: it is too short.
    """
    secret = os.environ.get(AUDIT_SECRET, "").encode()
    if secret and len(secret) < LEAST_SECRET:
        raise AuditFileError(
            f"{AUDIT_SECRET} has {len(secret)} bytes, and {LEAST_SECRET} are needed; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return secret or None


class AuditTrail:
    """An `AuditLog` that tells the logger `aquilia.audit`, and with a `path` the file there, once it is started.

    Of what clients cause, the first of its kind in a second is told at once, and the rest as one record with their
    `count` when the second is over. Alike are event, code, pattern, address and identity.
    """

    def __init__(self, clock: Clock, path: str | None = None) -> None:
        self._clock = clock
        self._path = path
        self._file: AuditFile | None = None
        self._window: dict[tuple[str, ...], tuple[AuditRecord, int]] = {}

    def start(self) -> None:
        """Open the file, if there is to be one. Again it does nothing.

        Raises:
            BootError: it cannot be had, or the secret in the environment is too short.
        """
        if self._path is None or self._file is not None:
            return
        try:
            secret = audit_secret()
            file = AuditFile(Path(self._path), secret, self._clock.time)
            file.open()
        except AuditFileError as error:
            raise BootError([Problem("audit", str(error))]) from error
        self._file = file
        how = "HMAC-SHA-256" if secret else f"SHA-256, for want of {AUDIT_SECRET}"
        logger.info("the audit goes to %s (%s), after line %d, %s", file.path, how, file.lines, file.head)

    async def stop(self) -> None:
        """Write what waits, and say with which line and hash the file ends."""
        self._sum_up()
        file, self._file = self._file, None
        if file is None:
            return
        last = self._record("audit.closed", None, {"outcome": "done", "reason": f"process {os.getpid()}"})
        await asyncio.to_thread(file.close, last)
        logger.info("the audit in %s ends with line %d, %s", file.path, file.lines, file.head)

    def note(
        self,
        event: AuditEvent,
        about: Any = None,
        *,
        outcome: Outcome,
        code: str = "",
        identity: Any = None,
        message: str = "",
        reason: str = "",
        pattern: str = "",
    ) -> None:
        """See `AuditLog`."""
        if self._file is None and not logger.isEnabledFor(logging.INFO):
            return
        told = {"outcome": outcome, "code": code, "message": message, "reason": reason, "pattern": pattern}
        record = self._record(event, about, told, identity)
        if event in SUMMED:
            self._sum(record)
        else:
            self._tell(record)

    def _record(
        self, event: AuditEvent, about: Any, told: Mapping[str, Any], identity: Any = None
    ) -> AuditRecord:
        fields = {**_of(about, identity), **{name: value for name, value in told.items() if value}}
        texts: dict[str, Any] = {name: safe(value) for name, value in fields.items()}
        return AuditRecord(time=stamp(self._clock.time()), event=event, **texts)

    def _sum(self, record: AuditRecord) -> None:
        if not self._window:
            asyncio.get_running_loop().call_later(WINDOW, self._sum_up)
        # The reason of others may have a client's words, of which there is no end.
        reason = record.reason if record.event == "authentication.failed" else ""
        client = (record.pattern, record.address, record.identity)
        key: tuple[str, ...] = (record.event, record.outcome, record.code, reason, *client)
        found = self._window.get(key)
        if found is None and len(self._window) < DISTINCT:
            self._window[key] = record, 0
            self._tell(record)
            return
        if found is None:
            key = (record.event, record.outcome, record.code)
            several = AuditRecord(
                time=record.time,
                event=record.event,
                outcome=record.outcome,
                code=record.code,
                reason="several clients",
            )
            found = self._window.get(key) or (several, 0)
        self._window[key] = found[0], found[1] + 1

    def _sum_up(self) -> None:
        window, self._window = self._window, {}
        for record, count in window.values():
            if count:
                self._tell(msgspec.structs.replace(record, count=count))

    def _tell(self, record: AuditRecord) -> None:
        if self._file is not None:
            self._file.append(record)
        level = logging.WARNING if record.event in WARNINGS else logging.INFO
        if logger.isEnabledFor(level):
            fields = msgspec.structs.asdict(record)
            told = {name: value for name, value in fields.items() if value != "" and name != "message"}
            if record.message:
                told["of"] = record.message  # `message` is the line's own
            logger.log(level, "%s", _line(record), extra=told)


def _of(about: Any, identity: Any) -> dict[str, Any]:
    """What a connection, a handshake or an ASGI scope says of a client."""
    found: dict[str, Any] = {}
    if isinstance(about, Connection):
        identity = about.identity if identity is None else identity
        found = {
            "pattern": about._home.pattern,
            "namespace": about.namespace,
            "connection": about.id,
            "address": about._address,
            "origin": about.headers.get("origin"),
        }
    elif isinstance(about, Handshake):
        identity = about.identity if identity is None else identity
        found = {**_of(about.connection.scope, None), "namespace": about.namespace}
    elif isinstance(about, Mapping):
        found = {
            "namespace": route_path(about),
            "address": (about.get("client") or ("",))[0],
            "origin": HTTPConnection(dict(about)).headers.get("origin"),
        }
    return {**found, "identity": identity if isinstance(identity, str) else getattr(identity, "id", None)}


def _line(record: AuditRecord) -> str:
    parts = [record.event, record.code, record.message, record.namespace or record.pattern]
    if record.address:
        parts.append(f"from {record.address}")
    if record.identity:
        parts.append(f"as {record.identity}")
    if record.count > 1:
        parts.append(f"{record.count} times in a second")
    return " ".join(part for part in parts if part) + (f": {record.reason}" if record.reason else "")
