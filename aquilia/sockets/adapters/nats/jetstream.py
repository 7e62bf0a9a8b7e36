"""The few verbs of JetStream that the adapter uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import msgspec

from aquilia.sockets.adapters.nats.calls import Reply
from aquilia.sockets.adapters.nats.connection import NatsConnection
from aquilia.sockets.faults import ws_adapter_unavailable, ws_publish_failed

logger = logging.getLogger("aquilia.sockets.nats")

__all__ = ["JetStream", "Kept", "State", "StreamInfo"]

NOT_NOW = frozenset({10004, 10005, 10008, 10009})
"""A cluster without a leader, or with servers that are still missing: it passes, or it does not."""
AGAIN = 0.25
"""Seconds after which it is asked again."""
NOT_FOUND = frozenset({10059, 10037})
IN_PROCESS = 10158
"""A repeat of what waits for the other servers of the cluster: it is not stored so far."""
OVERLAP = 10065
NO_PEERS = 10005
NO_CLUSTER = 10074
NO_ROOM = frozenset({10023, 10028, 10047})
MORE_ROOM = "raise max_file_store of the server, or the limit of the account"
NAME_IN_USE = 10058
WRONG_LAST = 10071
BATCH_BYTES = 4 << 20
"""Of one answer, about: a node that is given more than it takes is cut off by its server."""
REST = "Nats-Num-Pending"
"""How many there are behind a message."""


T = TypeVar("T")


class Failure(msgspec.Struct):
    """An error of the API."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class State(msgspec.Struct):
    """What a stream holds."""

    first_seq: int = 0
    last_seq: int = 0
    subjects: dict[str, int] = {}


class Config(msgspec.Struct):
    """How a stream was made, as far as it matters here."""

    metadata: dict[str, str] = {}
    subjects: list[str] = []
    num_replicas: int = 1
    max_msgs_per_subject: int = -1
    allow_msg_ttl: bool = False


class StreamInfo(msgspec.Struct):
    """A stream, and the server's time."""

    config: Config
    state: State
    ts: datetime | None = None


class Kept(msgspec.Struct):
    """A message in a stream."""

    seq: int
    time: datetime
    data: bytes = b""


class _Answer(msgspec.Struct):
    error: Failure | None = None
    message: Kept | None = None
    seq: int = 0


_answer = msgspec.json.Decoder(_Answer).decode
_info = msgspec.json.Decoder(StreamInfo).decode


class JetStream:
    """On one connection. Raises WS_ADAPTER_UNAVAILABLE where it cannot be reached or used."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._told: set[str] = set()
        """Streams of which it was said that they are kept more or less often than is wanted."""

    async def open_stream(self, name: str, config: dict[str, Any], until: float | None = None) -> StreamInfo:
        """The stream of this name, made if there is none."""
        until = until or self._connection.deadline()
        while True:
            found = await self.info(name, until=until)
            if found is not None:
                self._note_replicas(name, found.config.num_replicas, config["num_replicas"])
                return found
            config = {"name": name, "retention": "limits", "storage": "file", "discard": "old", **config}
            data, answer = await self._api(f"STREAM.CREATE.{name}", config, until)
            error = answer.error
            if error is None:
                return _info(data)
            if error.err_code != NAME_IN_USE:  # which another node has just made
                raise ws_adapter_unavailable(
                    f"JetStream does not make the stream {name}: {error.description} ({error.err_code})"
                    + self._advice(error, config)
                )

    def _note_replicas(self, name: str, there: int, wanted: int) -> None:
        if there != wanted and name not in self._told:
            self._told.add(name)
            logger.warning(
                "the stream %s on NATS is kept %d times, and the adapter's URL says replicas=%d: what exists is not "
                "changed by it; `nats stream edit %s --replicas %d` does that",
                *(name, there, wanted, name, wanted),
            )

    def _advice(self, error: Failure, config: dict[str, Any]) -> str:
        replicas = config["num_replicas"]
        if replicas > 1 and error.err_code in (NO_CLUSTER, NO_PEERS):
            return f": replicas={replicas} needs a cluster of {replicas} servers with JetStream"
        if error.err_code == OVERLAP:
            return ": another stream takes what this application publishes; give the adapter's URL another prefix"
        if error.err_code in NO_ROOM:
            size = config.get("max_bytes", 0) >> 20
            reserves = f"it reserves {size} MiB, " if size else ""
            return f": {reserves and reserves + 'so '}{MORE_ROOM}"
        return ""

    async def info(
        self, name: str, subject: str | None = None, until: float | None = None
    ) -> StreamInfo | None:
        """A stream, or None; with the number of messages of one subject."""
        query = {"subjects_filter": subject} if subject else {}
        data, answer = await self._api(f"STREAM.INFO.{name}", query, until)
        error = answer.error
        if error is None:
            return _info(data)
        if error.err_code in NOT_FOUND:
            return None
        raise ws_adapter_unavailable(f"JetStream: {error.description} ({error.err_code})")

    async def last(self, name: str, subject: str, until: float | None = None) -> Kept | None:
        """The last message of a subject, from the stream's leader."""
        return await self._kept(name, {"last_by_subj": subject}, until)

    async def first(self, name: str, subject: str, until: float | None = None) -> Kept | None:
        """The first one, from there as well."""
        return await self._kept(name, {"seq": 1, "next_by_subj": subject}, until)

    async def _kept(self, name: str, query: dict[str, Any], until: float | None) -> Kept | None:
        _, answer = await self._api(f"STREAM.MSG.GET.{name}", query, until)
        if answer.error is not None and answer.error.err_code not in NOT_FOUND:
            raise ws_adapter_unavailable(f"JetStream: {answer.error.description} ({answer.error.err_code})")
        return answer.message

    async def purge(self, name: str, subject: str, before: int, until: float | None = None) -> None:
        """Delete the messages of a subject that stand before a sequence."""
        _, answer = await self._api(f"STREAM.PURGE.{name}", {"filter": subject, "seq": before}, until)
        if answer.error is not None and answer.error.err_code not in NOT_FOUND:
            raise ws_adapter_unavailable(f"JetStream: {answer.error.description} ({answer.error.err_code})")

    async def direct(self, name: str, query: dict[str, Any], until: float | None = None) -> list[Reply]:
        """Messages of a stream by ADR-31, in a batch; the server's closing word is left out.

        Any server of a cluster may answer, also one that has not the newest yet.
        """
        found: list[Reply] = []
        while True:
            replies = await self._batch(name, {**query, "max_bytes": BATCH_BYTES}, until)
            found += replies
            if not replies or len(replies) >= query["batch"] or replies[-1].headers.get(REST, "0") == "0":
                return found
            behind = int(replies[-1].headers["Nats-Sequence"]) + 1
            query = {**query, "seq": behind, "batch": query["batch"] - len(replies)}

    async def _batch(self, name: str, query: dict[str, Any], until: float | None) -> list[Reply]:
        data = msgspec.json.encode(query)
        replies = await self._connection.call(f"$JS.API.DIRECT.GET.{name}", data, batch=True, until=until)
        if any(reply.status == "503" for reply in replies):
            raise ws_adapter_unavailable(f"JetStream: no server answers for the stream {name} now")
        return [reply for reply in replies if not reply.status]

    async def store(
        self, subject: str, data: bytes, headers: dict[str, str], until: float | None = None
    ) -> tuple[Reply, bool]:
        """Publish into a stream: the answer, and whether it was said twice."""
        until = until or self._connection.deadline()
        times = 0

        async def say() -> tuple[Reply, bool]:
            nonlocal times
            reply, resent = await self._connection.call_telling(subject, data, headers, until)
            times += 1 + resent
            return reply, times > 1

        return await persist(say, lambda said: _passes(acknowledged(said[0])), until)

    async def _api(
        self, verb: str, request: dict[str, Any], until: float | None = None
    ) -> tuple[bytes, _Answer]:
        """The answer, and what it says. What a cluster cannot do at the moment is asked again."""
        until = until or self._connection.deadline()
        return await persist(
            partial(self._once, verb, request, until), lambda said: _passes(said[1].error), until
        )

    async def _once(self, verb: str, request: dict[str, Any], until: float) -> tuple[bytes, _Answer]:
        data = msgspec.json.encode(request)
        (reply,) = await self._connection.call(f"$JS.API.{verb}", data, again=True, until=until)
        if reply.status == "503":
            raise ws_adapter_unavailable(
                f"NATS at {self._connection.target} has no JetStream: start nats-server with -js"
            )
        answer = _answer(reply.data)
        error = answer.error
        if error is not None and error.err_code == 10076:
            raise ws_adapter_unavailable(
                f"NATS at {self._connection.target} has JetStream not enabled: start nats-server with -js; if it "
                "was, its log says what ended it, such as a full disk"
            )
        if error is not None and error.err_code == 10039:
            raise ws_adapter_unavailable(
                f"NATS at {self._connection.target} has no JetStream for the account of this login: give the "
                "account `jetstream: enabled`, or limits that are not 0"
            )
        return reply.data, answer


def acknowledged(reply: Reply) -> int | Failure | None:
    """What an acknowledgement says: the sequence, a failure, or None: there is no such stream."""
    if reply.status == "503":
        return None
    answer = _answer(reply.data)
    return answer.error if answer.error is not None else answer.seq


async def persist(ask: Callable[[], Awaitable[T]], passes: Callable[[T], bool], until: float) -> T:
    """The first answer that does not pass; the last one, if that does not come in time."""
    while True:
        answer = await ask()
        if not passes(answer) or asyncio.get_running_loop().time() + AGAIN > until:
            return answer
        await asyncio.sleep(AGAIN)


def _passes(answer: object) -> bool:
    return isinstance(answer, Failure) and answer.err_code in NOT_NOW | {IN_PROCESS}


def refused(failure: Failure) -> Exception:
    """A publication that was not stored, or is perhaps."""
    told = f"{failure.description} ({failure.err_code})"
    if _passes(failure):
        return ws_adapter_unavailable(f"JetStream: {told}")
    advice = f": {MORE_ROOM}" if failure.err_code in NO_ROOM else ""
    return ws_publish_failed(f"JetStream did not take it: {told}{advice}")
