"""What is promised of a client's message: that its handler runs to its end, and that it takes effect once.

A promised event is composed of this at boot; others pay nothing. Where an event takes effect once, each of its
messages is claimed in the store before the handler runs, and its answer is kept there for repeats. A process that
dies leaves a claim behind, which ends by itself: then a repeat runs the handler again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import Any
from uuid import uuid4

import msgspec

from aquilia.faults import Fault
from aquilia.sockets.adapters.base import Store
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_adapter_unavailable, ws_connection_closed
from aquilia.sockets.idempotence_claims import (
    Claim,
    Step,
    answer_of,
    done,
    failed,
    free,
    message_key,
    pause,
    read,
    releases,
    reused,
    running,
    step,
)
from aquilia.sockets.middleware import Handle

__all__ = ["Promises"]

logger = logging.getLogger("aquilia.sockets")

CLAIM = 10.0
"""Seconds that a claim lives; it is renewed three times within them while its handler runs. So long a repeat waits if
the process that has it is dead. A store that is away for longer lets go: it is taken again, if nobody else has."""


class _Keyed(MessageEnvelope, kw_only=True, dict=True, gc=True):
    """An envelope with the key of its message, which is for the server alone and in no codec."""

    @property
    def key(self) -> str | None:
        """See `MessageEnvelope`."""
        return self.__dict__.get("name")


class Promises:
    """The promised messages that this process handles. One for all dispatchers."""

    def __init__(self, store: Store, *, ttl: float) -> None:
        self._store = store
        self._ttl = ttl
        self._owner = uuid4().hex
        self._claims = 0
        self._kept: set[Connection] = set()
        self._here: dict[str, asyncio.Future[None]] = {}
        """What is handled in this process, until it has an answer."""

    def holds(self, conn: Connection) -> bool:
        """Whether a handler of this connection runs that must run to its end."""
        return conn in self._kept

    def kept(self, handle: Handle) -> Handle:
        """`handle`, which is not cancelled when its client has left. Its envelope has the message's key."""

        async def keep(conn: Connection, envelope: MessageEnvelope) -> Any:
            self._kept.add(conn)
            try:
                return await handle(conn, _keyed(conn, envelope))
            finally:
                self._kept.discard(conn)

        return keep

    def keyed(self, handle: Handle) -> Handle:
        """`handle`, whose envelope has the key even if a middleware made another one."""
        return lambda conn, envelope: handle(conn, _keyed(conn, envelope))

    def once(
        self, handle: Handle, judge: Callable[[Exception, Connection, MessageEnvelope], Fault]
    ) -> Handle:
        """`handle`, once for each message; a repeat gets the first answer. `judge` names an unforeseen error."""

        async def claimed(conn: Connection, envelope: MessageEnvelope) -> Any:
            key, digest = _store_key(conn, envelope), _digest(conn, envelope)
            looks = 0
            while True:
                if (here := self._here.get(key)) is None:
                    owner, first = await self._claim(key, digest)
                    if first is None:
                        return await self._handle(key, owner, digest, handle, judge, conn, envelope)
                    match step(first, digest):
                        case Step.REFUSE:
                            raise reused(envelope.id or "")
                        case Step.ANSWER:
                            return answer_of(first)
                await self._wait(conn, here, pause(looks))
                looks += here is None

        return claimed

    async def _claim(self, key: str, digest: bytes) -> tuple[str, Claim | None]:
        """Claim a message. The claim that was there before, if there is one."""
        self._claims += 1
        owner = f"{self._owner}-{self._claims}"
        try:
            there: bytes | None = None
            while not await self._store.compare_and_swap(key, there, running(owner, digest), CLAIM):
                there = await self._store.get(key)
                found = read(there)
                if found is not None and step(found, digest) is not Step.HANDLE:
                    return owner, found
        except Exception as error:
            if not isinstance(error, Fault):
                logger.exception("the store cannot be asked whether a message came before")
            told = "it cannot be known whether this message came before: the store is not available"
            raise ws_adapter_unavailable(told, told) from error
        return owner, None

    async def _wait(self, conn: Connection, here: asyncio.Future[None] | None, seconds: float) -> None:
        """Wait for the first one of a repeat. Nobody has to be waited for on behalf of a client that has left."""
        self._kept.discard(conn)
        if conn._close is not None:
            raise ws_connection_closed()
        if here is not None:
            await asyncio.shield(here)
        else:
            await asyncio.sleep(seconds)
        self._kept.add(conn)

    async def _handle(
        self,
        key: str,
        owner: str,
        digest: bytes,
        handle: Handle,
        judge: Callable[[Exception, Connection, MessageEnvelope], Fault],
        conn: Connection,
        envelope: MessageEnvelope,
    ) -> Any:
        claim = running(owner, digest)
        self._here[key] = ended = asyncio.get_running_loop().create_future()
        renewing = _Renewal(self._store, key, claim)
        try:
            data = await handle(conn, envelope)
            await self._record(key, claim, done(owner, digest, data))
            return data
        except asyncio.CancelledError:
            await self._release(key, claim)
            raise
        except Exception as error:
            fault = error if isinstance(error, Fault) else judge(error, conn, envelope)
            if releases(fault):
                await self._release(key, claim)
            else:
                await self._record(key, claim, failed(owner, digest, fault))
            if fault is error:
                raise
            raise fault from error
        finally:
            renewing.stop()
            del self._here[key]
            ended.set_result(None)

    async def _record(self, key: str, claim: bytes, record: bytes) -> None:
        """Put the answer into the place of the claim. What has taken effect is no error if that fails."""
        try:
            kept = await _replace(self._store, key, claim, record, self._ttl)
        except Exception:
            logger.exception("an answer cannot be kept: a repeat of its message runs the handler again")
        else:
            if not kept:
                logger.warning(
                    "a claim was lost while its handler ran: its message may have taken effect twice"
                )

    async def _release(self, key: str, claim: bytes) -> None:
        """Let a repeat run the handler again: soon, or when the claim ends by itself."""
        with suppress(Exception):
            await self._store.compare_and_swap(key, claim, free(self._owner), CLAIM)


class _Renewal:
    """Renews a claim for as long as its handler runs. Without a task, unless that is long."""

    def __init__(self, store: Store, key: str, claim: bytes) -> None:
        self._store, self._key, self._claim = store, key, claim
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(CLAIM / 3, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        while True:
            try:
                if not await _replace(self._store, self._key, self._claim, self._claim, CLAIM):
                    return
            except Exception:
                logger.exception("a claim cannot be renewed")
            await asyncio.sleep(CLAIM / 3)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


async def _replace(store: Store, key: str, claim: bytes, value: bytes, ttl: float) -> bool:
    """Put a value into the place of a claim, also of one that has ended and that nobody else has taken since."""
    if await store.compare_and_swap(key, claim, value, ttl):
        return True
    return await store.get(key) is None and await store.compare_and_swap(key, None, value, ttl)


def _keyed(conn: Connection, envelope: MessageEnvelope) -> MessageEnvelope:
    if envelope.key is not None:
        return envelope
    fields = {name: getattr(envelope, name) for name in MessageEnvelope.__struct_fields__}
    keyed = _Keyed(**fields)
    keyed.__dict__["name"] = message_key(conn.namespace, conn.id, envelope.id or "")
    return keyed


def _store_key(conn: Connection, envelope: MessageEnvelope) -> str:
    """A key of fixed length; nobody gets the answer of somebody else."""
    identity = repr(getattr(conn.identity, "id", None))
    named = msgspec.msgpack.encode([conn.namespace, conn.id, identity, envelope.id])
    return f"once.{hashlib.sha256(named).hexdigest()}"


def _digest(conn: Connection, envelope: MessageEnvelope) -> bytes:
    """Of the event and the payload, whatever codec they came in."""
    plain = conn._codec.plain(envelope.payload)
    try:
        plain = msgspec.to_builtins(plain, str_keys=True)
    except TypeError:  # maps of MessagePack and CBOR may have keys that JSON has no text for
        plain = msgspec.to_builtins(_in_lists(plain), str_keys=True)
    return hashlib.sha256(msgspec.json.encode([envelope.event, plain], order="sorted")).digest()


def _in_lists(value: Any) -> Any:
    """The same for equal values, and without maps."""
    if isinstance(value, dict):
        return sorted(([repr(key), _in_lists(item)] for key, item in value.items()), key=itemgetter(0))
    return [_in_lists(item) for item in value] if isinstance(value, list | tuple) else value
