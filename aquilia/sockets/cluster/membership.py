"""The cluster: this node among those that share its broker. Who is there, and what is told and asked among them.

Nodes talk in a namespace that no client can open, by what every broker has: its publications. What cannot be read
there is counted and ignored. With a broker that reaches no other process there is one node, and nothing is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from inspect import isawaitable
from itertools import count
from typing import Any, Literal, TypeVar
from uuid import uuid4

import msgspec

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.cluster.control import Call, Part, Parts, ToldFault, pack, parts, unpack
from aquilia.sockets.cluster.nodes import BEAT, VERSION, Happening, Node, Nodes
from aquilia.sockets.cluster.questions import Answers, Question
from aquilia.sockets.faults import SocketFault, ws_internal_error
from aquilia.sockets.tasks import TaskSet

__all__ = ["CONTROL", "Cluster", "Handler"]

logger = logging.getLogger("aquilia.sockets")

CONTROL = "\0cluster"
"""A namespace that no client's can be: a path begins with a slash."""
FAREWELL = 1.0
"""Seconds for which the broker may take the last word of a node that stops."""

Handler = Callable[[Any], Any]
"""Takes a payload, as builtins, and returns the answer or an awaitable of it. A `SocketFault` is an answer, too."""
Phase = Literal["live", "leaving", "left"]
Message = TypeVar("Message", Node, Call, Part)


class Cluster:
    """See the head of this module. `connections` says how many this node has."""

    def __init__(
        self,
        broker: Broker,
        tasks: TaskSet,
        clock: Clock,
        *,
        fingerprint: str = "",
        connections: Callable[[], int] = lambda: 0,
        ignored: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = ""
        """This node's, another one after each start."""
        self._broker = broker
        self._tasks = tasks
        self._clock = clock
        self._fingerprint = fingerprint
        self._host = socket.gethostname()[:256]
        self._connections = connections
        self.ignored = ignored
        """Called for each thing on the channel that cannot be read."""
        self._alone: bool = getattr(broker, "alone", False)
        self._handlers: dict[str, Handler] = {}
        self._listeners: list[Callable[[Happening], None]] = []
        self._nodes = Nodes("", 0.0)
        self._phase: Phase = "live"
        self._started = self._awaited = 0.0
        self._beaten = 0
        """How often."""
        self._numbers = count(1)
        self._questions: dict[int, Question] = {}
        self._running: asyncio.Task[None] | None = None

    # Its life

    async def start(self) -> None:
        """Come among the others. The broker must be running.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        self.id = uuid4().hex[:16]
        self._nodes = Nodes(self.id, self._clock.monotonic())
        self._phase, self._awaited, self._started = "live", 0.0, self._clock.time()
        self._beaten = 0
        if not self._alone:
            await self._broker.subscribe(CONTROL, None)
            await self._broker.subscribe(CONTROL, self.id)
            await self._say("beat", self._next())
            self._running = asyncio.get_running_loop().create_task(self._beat())

    async def stop(self) -> None:
        """Leave. Whoever still waits for answers has none."""
        running, self._running = self._running, None
        for question in list(self._questions.values()):
            question.end()
        if running is None:
            return
        running.cancel()
        await asyncio.wait([running])
        self._phase = "left"
        if self._broker.connected:
            with contextlib.suppress(SocketFault, TimeoutError):  # the others will know by its silence
                async with asyncio.timeout(FAREWELL):
                    await self._say("beat", self._next())
        self.id = ""

    def leave(self, awaited: float) -> None:
        """Tell the others that this node drains, and for how many seconds its clients are to be awaited elsewhere."""
        self._phase, self._awaited = "leaving", awaited
        self._beat_now()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        telling: set[asyncio.Task[None]] = set()
        try:
            while True:
                await asyncio.sleep(BEAT)
                self._happened(self._nodes.check(self._clock.monotonic()))
                if self._broker.connected:
                    # Nobody waits for it: where much comes in, the broker's answer is behind all that.
                    task = loop.create_task(self._beat_once())
                    telling.add(task)
                    task.add_done_callback(telling.discard)
        finally:
            for task in telling:
                task.cancel()

    async def _beat_once(self) -> None:
        try:
            await self._say("beat", self._next())
        except SocketFault as fault:  # the next one may get through
            logger.debug("a beat was lost: %s", fault)
        except Exception:
            logger.exception("a beat was lost")

    def _beat_now(self, to: str | None = None) -> None:
        # What stops does not wait for a broker that is away.
        if self._running is not None and self._broker.connected:
            self._tasks.start(self._tell_quietly("beat", self._next(), to))

    def _next(self) -> Node:
        self._beaten += 1
        return self._myself()

    def _myself(self) -> Node:
        return Node(
            version=VERSION,
            id=self.id,
            number=self._beaten,
            life=self._nodes.life,
            phase=self._phase,
            started=self._started,
            host=self._host,
            pid=os.getpid(),
            fingerprint=self._fingerprint,
            connections=self._connections(),
            awaited=self._awaited,
        )

    # Who is there

    def nodes(self) -> Mapping[str, Node]:
        """Who lives, by id, with what it told last; this one among them, while it runs."""
        return {self.id: self._myself(), **self._nodes.others} if self.id else {}

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot be reached: see the head of `adapters.base`. None while it can."""
        if self._broker.connected:
            return None
        return getattr(self._broker, "trouble", None) or "unreachable"

    @property
    def store_trouble(self) -> str | None:
        """The same of the store, which may be apart from the broker."""
        trouble: str | None = getattr(self._broker, "store_trouble", self.trouble)
        return trouble

    @property
    def alone(self) -> bool:
        """Whether no other node is known."""
        return not self._nodes

    @property
    def others(self) -> list[str]:
        """The ids of the other nodes that live."""
        return list(self._nodes.others)

    def __contains__(self, id: str) -> bool:
        """Whether another node of this id lives."""
        return id in self._nodes

    def on_node(self, listener: Callable[[Happening], None]) -> None:
        """Have this called when another node came, is leaving, has left or has died."""
        self._listeners.append(listener)

    def lost_touch(self) -> None:
        """The broker was away, and is back."""
        self._beat_now()

    def _happened(self, happenings: Iterable[Happening]) -> None:
        for happening in happenings:
            if happening.what in ("left", "died"):
                for question in list(self._questions.values()):
                    question.lose(happening.node)
            for listener in self._listeners:
                try:
                    listener(happening)
                except Exception:
                    logger.exception("what was to hear that a node %s", happening.what)

    # Telling and asking

    def on(self, verb: str, handler: Handler) -> None:
        """Have a handler answer what is told or asked under this verb, here and for other nodes."""
        self._handlers[verb] = handler

    async def tell(self, verb: str, payload: Any = None, *, node: str | None = None) -> None:
        """Tell all other nodes, or one. Whether they heard it is not known.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, WS_PUBLISH_FAILED.
        """
        if not self._alone:
            await self._say("call", Call(VERSION, self.id, 0, verb, pack(payload)), node)

    async def ask(
        self,
        verb: str,
        payload: Any = None,
        *,
        timeout: float,
        node: str | None = None,
        here: Callable[[], Any] | None = None,
        enough: Callable[[Any], bool] | None = None,
    ) -> Answers:
        """Ask all nodes, or one, and wait for their answers, `timeout` seconds at most.

        It ends when each that lived has answered, died or left; or with an answer that is `enough`. This node is
        asked as well, once the others were: its handler, or what is to answer `here` in the place of that.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, WS_PUBLISH_FAILED: then no other node was asked.
        """
        asked = [*self._nodes.others, self.id] if node is None else [node]
        call = Call(VERSION, self.id, next(self._numbers), verb, pack(payload))
        question = self._questions[call.question] = Question(asked, enough)
        mine: asyncio.Task[None] | None = None
        try:
            if node is not None and node != self.id and node not in self._nodes:
                question.lose(node)
            elif asked != [self.id]:
                await self._say("call", call, node)
            if self.id in asked:
                mine = self._tasks.start(self._answer_myself(question, call, here))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await question.complete
        finally:
            del self._questions[call.question]
            if mine is not None:
                mine.cancel()
        return question.answers()

    async def _say(self, event: str, message: Call | Part | Node, to: str | None = None) -> None:
        publication = Publication(
            id=uuid4().hex,
            namespace=CONTROL,
            event=event,
            payload=list(msgspec.structs.astuple(message)),
            ts=int(self._clock.time() * 1000),
            room=to,
        )
        await self._broker.publish(publication)

    async def _tell_quietly(self, event: str, message: Part | Node, to: str | None) -> None:
        with contextlib.suppress(SocketFault):  # whoever waits for it does so for its own time
            await self._say(event, message, to)

    # What comes

    def deliver(self, publication: Publication) -> None:
        """Called by the hub with what was published to `CONTROL`."""
        try:
            match publication.event:
                case "beat":
                    self._heard(_read(publication, Node), to_all=publication.room is None)
                case "call":
                    self._called(_read(publication, Call))
                case "part":
                    self._answered(_read(publication, Part))
                case other:
                    raise ValueError(f"a message of the kind {other!r}")
        except (ValueError, msgspec.ValidationError) as error:
            logger.debug("a message between nodes is ignored: %s", error)
            self.ignored()

    def _heard(self, beat: Node, *, to_all: bool) -> None:
        unknown = beat.id not in self._nodes
        life = self._nodes.life
        happenings = self._nodes.heard(beat, self._clock.monotonic())
        if unknown and to_all and beat.id in self._nodes:
            self._beat_now(beat.id)  # it has come, and does not know who is there
        if self._nodes.life > life:
            self._beat_now()
        self._happened(happenings)

    def _called(self, call: Call) -> None:
        if call.sender != self.id:
            self._tasks.start(self._answer(call, unpack(call.payload)))

    async def _answer(self, call: Call, payload: Any) -> None:
        handler = self._handlers.get(call.verb)
        if handler is None:
            pieces = [Part(VERSION, self.id, call.question, "unknown", 0, 1, b"")]
        else:
            try:
                answer = await _handled(handler, payload)
                pieces = list(parts(self.id, call.question, "answer", answer))
            except SocketFault as fault:
                pieces = list(parts(self.id, call.question, "fault", pack(ToldFault.of(fault))))
        if call.question:
            for piece in pieces:
                await self._tell_quietly("part", piece, call.sender)

    async def _answer_myself(self, question: Question, call: Call, here: Callable[[], Any] | None) -> None:
        handler = self._handlers.get(call.verb)
        try:
            if here is not None:
                question.settle(self.id, await _awaited(here()))
            elif handler is not None:
                question.settle(self.id, unpack(await _handled(handler, unpack(call.payload))))
            else:
                question.close(self.id)
        except SocketFault as fault:
            question.settle(self.id, fault=fault)

    def _answered(self, part: Part) -> None:
        question = self._questions.get(part.question)
        if question is None or not question.waits_for(part.sender):  # it came too late
            return
        data = question.parts.setdefault(part.sender, Parts()).add(part)
        if data is None:
            return
        if part.kind == "answer":
            question.settle(part.sender, unpack(data))
        elif part.kind == "fault":
            question.settle(part.sender, fault=msgspec.convert(unpack(data), ToldFault).fault())
        else:
            question.pass_over(part.sender)


def _read(publication: Publication, kind: type[Message]) -> Message:
    message = msgspec.convert(publication.payload, kind)
    if message.version != VERSION:
        raise ValueError(f"a message of version {message.version}; this is version {VERSION}")
    return message


async def _handled(handler: Handler, payload: Any) -> bytes:
    """What a handler answers.

    Raises:
        SocketFault: its answer; WS_PUBLISH_FAILED for one that cannot be told, WS_INTERNAL_ERROR for what it did not
            foresee.
    """
    try:
        return pack(await _awaited(handler(payload)))
    except SocketFault:
        raise
    except Exception as error:
        incident = uuid4().hex[:12]
        logger.exception("incident %s: a question of another node", incident)
        raise ws_internal_error(incident) from error


async def _awaited(answer: Any) -> Any:
    return await answer if isawaitable(answer) else answer
