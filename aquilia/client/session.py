"""One client's side of protocol v1, without a network: what came is put in, and what to do is asked for.

It is told of the link (`opened`, `received`, `lost`, `refused`, `unreachable`) and of the time, and never waits.
After each step there may be frames to write (`next_frame`), events for the user (`take_events`), a wish to end the
link (`closing`), a link to be dialled (`phase` is DIALING), and a moment at which `tick` is due (`deadline`). What a
server does wrong ends the link; it raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from aquilia.client.advice import Advice, Backoff, delay_told
from aquilia.client.faults import AckTimeout, ClientFault, ConnectionEnded, ConnectionLost
from aquilia.client.frames import RecoveryWord, WelcomeWord, position_of
from aquilia.client.notices import Connected, Disconnected, GoAway, Recovery, Resumed, State
from aquilia.client.options import Options
from aquilia.client.outgoing import Outgoing, Outgoings
from aquilia.client.positions import Positions, losses
from aquilia.client.pulse import Pulse
from aquilia.client.reading import Reading
from aquilia.client.renewal import Renewal
from aquilia.client.speaking import Speaking
from aquilia.client.steps import (
    LINKED,
    STEPS,
    Answered,
    CallFailed,
    Closing,
    Event,
    Phase,
    TokenWanted,
)
from aquilia.client.verdict import Verdict, closed, final, passing, refused
from aquilia.sockets.codecs import Codec
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import CloseCode, SocketFault

__all__ = ["Session"]

LEAVE_WITHIN = 5.0
"""Seconds that a client which was told to go away waits for the acks that are due."""


class Session(Speaking):
    """What protocol v1 asks of a client, over any number of links. `random` gives numbers from 0 to 1.

    Every `now` is in seconds since some moment, and never goes back.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        random: Callable[[], float],
        options: Options | None = None,
        server: str = "the server",
    ) -> None:
        self.server = server
        """What errors call the other side."""
        self.options = options = options or Options()
        super().__init__(codec, Outgoings(options.queue_size, options.queue_bytes))
        self.positions = Positions()
        self.phase = Phase.IDLE
        self.closing: Closing | None = None
        """How the link is to be ended now."""
        self.ended: ConnectionEnded | None = None
        """Why the session is CLOSED."""
        self.link = 0
        """The number of the link, counted from 1."""
        self.unmatched = 0
        """How many acks answered nothing."""
        self._backoff = Backoff(options.backoff_base, options.backoff_cap, random)
        self._reading = Reading(codec, self.positions)
        self._events: list[Event] = []
        self._told = State.CLOSED
        self._resume: str | None = None
        self._asked = False
        self._ever = False
        self._renewed = False
        self._opened_at = self._retry_at = 0.0
        self.pulse = Pulse(0.0)
        self._random = random
        self._renewal = Renewal(random)
        self._renewing: str | None = None  # the id of our own `auth`
        self._ahead: float | None = None  # seconds that the time of day is ahead of `now`
        self._live_since: float | None = None
        self._asked_at: float | None = None  # to go away
        self._greeting = Connected(connection="", heartbeat=0)
        self._anew = True  # another session, as the connection's name tells
        self._verdict: Verdict | None = None

    # What to do

    @property
    def state(self) -> State:
        """Where the session stands, as the user sees it."""
        if self.phase in (Phase.IDLE, Phase.CLOSED):
            return State.CLOSED
        if self.phase is Phase.LIVE:
            return State.CONNECTED
        return State.RECONNECTING if self._ever else State.CONNECTING

    @property
    def doubles(self) -> int:
        """How many messages were dropped because they had come before."""
        return self._reading.doubles

    def take_events(self) -> list[Event]:
        """What there is to tell the user, since the last time."""
        events, self._events = self._events, []
        if self._told is not self.state:
            self._told = self.state
            events.append(self._told)
        return events

    def has_frames(self) -> bool:
        """Whether `next_frame` would return one."""
        return self.phase in LINKED and bool(self._urgent or (self._may_send() and len(self.outgoing)))

    def next_frame(self) -> bytes | None:
        """The next message for the link, which counts as sent."""
        if self.phase not in LINKED:
            return None
        if self._urgent:
            return self._urgent.popleft()
        return self.outgoing.next() if self._may_send() else None

    def _may_send(self) -> bool:
        return self.phase is Phase.LIVE and self._asked_at is None

    def deadline(self) -> float | None:
        """When `tick` is due; None: not before something else happens."""
        moments = [self.outgoing.deadline()]
        if self.phase is Phase.WAITING:
            moments.append(self._retry_at)
        elif self.phase in (Phase.GREETING, Phase.RESUMING):
            moments.append(self._opened_at + self.options.open_timeout)
        elif self.phase is Phase.LIVE:
            moments += [self.pulse.due(), self._leave_at(), self._renewal_at()]
        return min((moment for moment in moments if moment is not None), default=None)

    def _renewal_at(self) -> float | None:
        return self._renewal.due() if self._asked_at is None else None

    def _leave_at(self) -> float | None:
        if self._asked_at is None:
            return None
        return self._asked_at + LEAVE_WITHIN if self.outgoing.awaited else self._asked_at

    def tick(self, now: float) -> None:
        """Time has passed."""
        for call in self.outgoing.expired(now):
            assert call.id is not None
            assert call.timeout is not None
            self._fail(call, AckTimeout(call.event, call.timeout, sent=call.tried))
        if self.phase is Phase.WAITING:
            if now >= self._retry_at:
                self._step(Phase.DIALING)
        elif self.phase in (Phase.GREETING, Phase.RESUMING):
            if now >= self._opened_at + self.options.open_timeout:
                missing = "welcome" if self.phase is Phase.GREETING else "resumed"
                self._break(f"{self.server} said no `{missing}` within {self.options.open_timeout:g} s")
        elif self.phase is Phase.LIVE:
            self._watch(now)

    def _watch(self, now: float) -> None:
        silent_at = self.pulse.due()
        if silent_at is not None and now >= silent_at:
            if not self.pulse.asked(now):
                self._break(f"{self.server} is silent, and did not answer a ping")
                return
            self._urgent.append(self._encode(MessageEnvelope(type="control", event="ping")))
        renewal_at = self._renewal_at()
        if renewal_at is not None and now >= renewal_at:
            self._renewal.asked()
            self._events.append(TokenWanted(self.link))
        leave_at = self._leave_at()
        if leave_at is not None and now >= leave_at:
            self._leave(Closing(CloseCode.GOING_AWAY, ""), passing("the server asked to go"))

    # The link

    def start(self, now: float) -> None:
        """Be connected, from now on. A session that has ended begins again, and resumes where the server lets it."""
        self._step(Phase.DIALING)
        self.ended = None
        self._ever = self._renewed = False
        self._backoff.reset()

    def opened(
        self, token: str | None, now: float, *, today: float | None = None, ticket: str | None = None
    ) -> None:
        """A link is up: `hello` is the first frame on it.

        `today` is the same moment in seconds since 1970. Without it no token is renewed.
        """
        self._step(Phase.GREETING)
        self.link += 1
        self._opened_at = now
        self.pulse = Pulse(now)
        self._renewal = Renewal(self._random)
        self._renewing = None
        self._ahead = None if today is None else today - now
        self._live_since = self._asked_at = None
        self._backoff.met()
        self._verdict = None
        shown = {"token": token, "ticket": ticket}
        hello: dict[str, Any] = {kind: text for kind, text in shown.items() if text is not None}
        self._asked = self._resume is not None
        if self._asked:
            hello["resume"] = {"token": self._resume, "rooms": self.positions.asked()}
        self._urgent.append(
            self._encode(MessageEnvelope(type="control", event="hello", payload=hello or None))
        )

    def renew(self, link: int, token: str | None, now: float) -> None:
        """The token that `TokenWanted` asked for on that link; None: there is none."""
        if link != self.link or self.phase is not Phase.LIVE or self._asked_at is not None:
            return  # the next `hello` has one of its own
        if token is None:
            self._renewal.failed(now)
        else:
            self._renewing = self._say_auth(token)

    def lost(self, code: int, reason: str, now: float, *, ours: bool = False) -> None:
        """The link has ended. `ours`: the code is this side's, for what the server did wrong."""
        if self.phase not in LINKED:
            return
        if code == CloseCode.RESTART and (told := delay_told(reason)) is not None:
            self._backoff.restarting(told, now)
        verdict = self._verdict or closed(code, reason, ours=ours)
        if (return_at := self._backoff.return_at) is not None:
            verdict = msgspec.structs.replace(verdict, delay=max(0.0, return_at - now))
        self._urgent.clear()
        self.closing = None
        for call in self.outgoing.lost():
            self._fail(call, ConnectionLost(call.event, verdict.code, verdict.reason))
        if self._live_since is not None and now - self._live_since >= self.options.stable_after:
            self._backoff.reset()
        self._settle(verdict, now)

    def refused(
        self, status: int, code: str, message: str, now: float, *, retry_after: float | None = None
    ) -> None:
        """The server answered the handshake with an HTTP status that is no upgrade."""
        self._settle(refused(self.server, status, code, message, retry_after), now)

    def unreachable(self, message: str, now: float, *, cause: Exception | None = None) -> None:
        """There is no link, for a reason that may pass."""
        self._settle(passing(message, cause=cause), now)

    def unusable(self, fault: ConnectionEnded, now: float) -> None:
        """There is no link, and none is to be had."""
        self._settle(final(fault), now)

    def fail(self, error: Exception, now: float) -> None:
        """The program that drives this session has failed."""
        if self.phase is not Phase.CLOSED:
            fault = ConnectionEnded(f"the client itself failed: {error!r}")
            fault.__cause__ = error
            self._settle(final(fault), now)

    def close(self, now: float) -> None:
        """Be connected no more: what waits is dropped, and open calls fail."""
        fault = ConnectionEnded("this client was closed", close_code=CloseCode.NORMAL)
        verdict = final(fault, CloseCode.NORMAL, "")
        if self.phase in LINKED:
            self._leave(Closing(CloseCode.NORMAL, ""), verdict)
        elif self.phase is not Phase.CLOSED:
            self._settle(verdict, now)

    def _break(self, reason: str) -> None:
        self._leave(Closing(CloseCode.GOING_AWAY, reason, abort=True), passing(reason))

    def _leave(self, closing: Closing, verdict: Verdict) -> None:
        if self.phase is not Phase.LEAVING:
            self._step(Phase.LEAVING)
        self.closing = closing
        self._verdict = verdict

    def _settle(self, verdict: Verdict, now: float) -> None:
        advice = self._followed(verdict)
        if advice is not Advice.RETURN:
            self._stop(verdict)
            return
        delay = verdict.delay
        if delay is None:
            delay = (verdict.after or 0.0) + self._backoff.next(now)
        self._retry_at = now + delay
        self._step(Phase.WAITING)
        self._events.append(Disconnected(code=verdict.code, reason=verdict.reason, retry_in=delay))

    def _followed(self, verdict: Verdict) -> Advice:
        """The advice, as far as this session can follow it."""
        if verdict.advice is Advice.RENEW and self.options.renewable and not self._renewed:
            self._renewed = True
            return Advice.RETURN
        if verdict.advice is Advice.TAKEN_OVER:
            self._resume = None
            return Advice.RETURN if self.options.rejoin_after_takeover else Advice.STOP
        if verdict.advice is Advice.RETURN and not (self._ever or self.options.keep_trying):
            return Advice.STOP
        return verdict.advice

    def _stop(self, verdict: Verdict) -> None:
        self._step(Phase.CLOSED)
        self.ended = verdict.fault
        for call in self.outgoing.drop_all():
            lost = ConnectionLost(call.event, verdict.code, verdict.reason)
            self._fail(call, lost if call.tried else verdict.fault)
        self._events.append(Disconnected(code=verdict.code, reason=verdict.reason, retry_in=None))

    def _step(self, phase: Phase) -> None:
        if phase not in STEPS[self.phase]:
            raise RuntimeError(f"a session that is {self.phase.value} cannot become {phase.value}")
        self.phase = phase

    # What came

    def received(self, data: bytes | str, now: float) -> None:
        """A message came, in a text or in a binary frame."""
        if self.phase not in LINKED or self.phase is Phase.LEAVING:
            return
        self.pulse.heard(now)
        if isinstance(data, str) is self.codec.binary:
            kind = "text" if isinstance(data, str) else "binary"
            self._complain(CloseCode.UNSUPPORTED_DATA, f"a {kind} frame is no {self.codec.name}")
            return
        try:
            self._take(self.codec.decode(data.encode() if isinstance(data, str) else data), now)
        except (SocketFault, UnicodeEncodeError) as error:
            told = error.message if isinstance(error, SocketFault) else "not UTF-8"
            self._complain(CloseCode.PROTOCOL_ERROR, told)

    def _complain(self, code: int, problem: str) -> None:
        """The server does not speak the protocol."""
        message = f"the server does not speak protocol v1: {problem}"
        fault = ConnectionEnded(message, close_code=code, reason=problem)
        closing = Closing(code, problem.encode()[:123].decode(errors="ignore"))
        self._leave(closing, final(fault, code, problem))

    def _take(self, envelope: MessageEnvelope, now: float) -> None:
        if self.phase is Phase.GREETING and (envelope.type, envelope.event) != ("system", "welcome"):
            raise SocketFault("WS_MESSAGE_INVALID", "something came before the welcome")
        if envelope.type == "event":
            news = self._reading.event(envelope)
            if news is not None:
                self._events.append(news)
        elif envelope.type == "ack":
            self._acked(envelope, now)
        elif envelope.type == "system":
            self._system(envelope, now)

    def _acked(self, envelope: MessageEnvelope, now: float) -> None:
        word = self._reading.words.ack(envelope.payload)
        failed = word.error is not None and word.status != "ok"
        if self._renewing is not None and envelope.id == self._renewing:
            self._renewing = None
            if failed:
                self._renewal.failed(now)
            else:
                self._renewed_until(word.data, now)
            return
        call = self.outgoing.close_call(envelope.id)
        if call is None or call.id is None:
            self.unmatched += 1
        elif failed and word.error is not None:
            self._fail(call, word.error.fault())
        else:
            if call.control:
                self._renewed_until(word.data, now)
            self._events.append(Answered(call.id, word.data))

    def _renewed_until(self, data: Any, now: float) -> None:
        word = None if data is None else self._reading.words.renewed(data)
        self._expires(None if word is None else word.expires, now)

    def _expires(self, moment: float | None, now: float) -> None:
        """The server says when the identity expires, in milliseconds since 1970."""
        if self.options.renewable and self._ahead is not None:
            self._renewal.good_for(None if moment is None else moment / 1000 - self._ahead - now, now)

    def _fail(self, call: Outgoing, fault: ClientFault) -> None:
        if call.id is not None:
            self._events.append(CallFailed(call.id, fault))

    def _system(self, envelope: MessageEnvelope, now: float) -> None:
        name = envelope.event or ""
        read = self._reading.words.system.get(name)
        if read is None:  # pong, whose coming is all; and words of later versions
            return
        word = read(envelope.payload)
        if name == "welcome":
            self._welcome(word, now)
        elif name == "resumed":
            self._resumed(word.rooms, now)
        elif name == "goaway":
            self._backoff.restarting(word.reconnect_in / 1000, now)
            if self._asked_at is None:  # told again, it waits no longer for its acks
                self._asked_at = now  # what is said from here on waits for the next link
            self._events.append(GoAway(reason=word.reason, reconnect_in=word.reconnect_in / 1000))
        else:
            self._events.append(getattr(self._reading, name)(word))

    def _welcome(self, word: WelcomeWord, now: float) -> None:
        if self.phase is not Phase.GREETING:
            raise SocketFault("WS_MESSAGE_INVALID", "a second welcome")
        self._resume = word.resume
        expires = None if word.expires is None else word.expires / 1000
        self._anew = word.connection != self._greeting.connection
        self._greeting = Connected(connection=word.connection, heartbeat=word.heartbeat, expires=expires)
        self.pulse.heartbeat = word.heartbeat
        self._expires(word.expires, now)
        if self._asked:
            self._step(Phase.RESUMING)
        else:
            self._go_live({}, now)

    def _resumed(self, rooms: dict[str, RecoveryWord], now: float) -> None:
        if self.phase is not Phase.RESUMING:
            raise SocketFault("WS_MESSAGE_INVALID", "a `resumed` that was not asked for")
        told = {
            room: Recovery(recovered=word.recovered, position=position_of(word.epoch, word.offset))
            for room, word in rooms.items()
        }
        self._go_live(told, now)

    def _go_live(self, rooms: dict[str, Recovery], now: float) -> None:
        self._step(Phase.LIVE)
        self._ever = True
        self._renewed = False
        self._live_since = now
        self._events.append(self._greeting)
        lost = self.positions.resumed(rooms, anew=self._anew)
        if self._asked:
            self._events.append(Resumed(rooms=rooms))
        self._events += losses(rooms, lost)
