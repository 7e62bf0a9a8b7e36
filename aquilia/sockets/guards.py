"""Guards: who may open a connection, who may enter a room, and which messages may pass. And some that are ready."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from aquilia.sockets.faults import ws_forbidden
from aquilia.sockets.handshake.request import Handshake, check_origin, origin_problem
from aquilia.sockets.history import fits
from aquilia.sockets.limits.rates import ConnectionRate
from aquilia.sockets.middleware import accepts

if TYPE_CHECKING:
    from aquilia.sockets.connection import Connection
    from aquilia.sockets.envelope import MessageEnvelope

__all__ = [
    "CHECK_ARGUMENTS",
    "Check",
    "OriginGuard",
    "RateLimitGuard",
    "RoomGuard",
    "SocketGuard",
    "guard_checks",
    "guard_problems",
    "is_priority",
    "judge",
    "passes",
]

Check = Callable[..., Any]


class SocketGuard:
    """Extend this, and override one check or more. A check refuses by returning False or raising a fault.

    A check may be async or not. Lower priorities run first.
    """

    priority: int = 50

    def check_handshake(self, handshake: Handshake) -> bool | Awaitable[bool | None] | None:
        """Called once, before the upgrade."""

    def check_message(
        self, conn: Connection, envelope: MessageEnvelope
    ) -> bool | Awaitable[bool | None] | None:
        """Called for each event; the envelope's payload is still raw."""

    def check_room(self, conn: Connection, room: str) -> bool | Awaitable[bool | None] | None:
        """Called before the connection enters a room, whoever puts it there, and when it comes back to one.

        And for each room that it is in when another token brings other roles, scopes or attributes.
        """


class OriginGuard(SocketGuard):
    """Lets in browsers only from pages of these origins; other clients, which say no origin, are let in.

    The entries are those of the setting `allowed_origins`, which is asked first: the guard narrows it. Who is
    refused gets WS_ORIGIN_NOT_ALLOWED before the upgrade (RFC 6455 section 10.2).

    Raises:
        ValueError: for an entry that no page can have as its origin.
    """

    def __init__(self, allowed_origins: Collection[str]) -> None:
        if isinstance(allowed_origins, str | Mapping) or not isinstance(allowed_origins, Collection):
            raise ValueError(
                f"OriginGuard: allowed_origins: a list of strings is needed, not {allowed_origins!r}"
            )
        problem = next(filter(None, map(origin_problem, allowed_origins)), None)
        if problem is not None:
            raise ValueError(f"OriginGuard: allowed_origins: {problem}")
        self.allowed_origins = tuple(allowed_origins)

    def check_handshake(self, handshake: Handshake) -> None:
        """See `SocketGuard`."""
        check_origin(handshake.connection, self.allowed_origins)


class RateLimitGuard(SocketGuard):
    """Lets each connection have so many events a second, and `burst` at once: by default twice as many.

    It counts the events that it is asked about: of all that have this very guard. Beyond, they are refused with
    WS_RATE_LIMIT_EXCEEDED; 20 such refusals in 10 seconds end the connection with 4529.

    Raises:
        ValueError: for values that would let nothing pass.
    """

    def __init__(self, messages_per_second: float = 10, burst: float | None = None) -> None:
        self._rate = ConnectionRate("RateLimitGuard", messages_per_second, burst)

    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> None:
        """See `SocketGuard`."""
        self._rate.take(conn)


class RoomGuard(SocketGuard):
    """Asks `guards` who want to enter the rooms that fit `pattern`, in which `*` stands for any characters.

    Raises:
        ValueError: for what is no pattern, and for guards that say nothing of rooms.
    """

    def __init__(self, pattern: str, *guards: SocketGuard) -> None:
        if not isinstance(pattern, str) or not pattern:
            raise ValueError(f"RoomGuard: a room pattern is a string like 'staff:*', not {pattern!r}")
        if not guards:
            raise ValueError(
                f"RoomGuard: it asks nobody; give it guards, as in RoomGuard({pattern!r}, RoleGuard('staff'))"
            )
        for guard in guards:
            if isinstance(guard, type) or not _has(guard, "check_room"):
                raise ValueError(f"RoomGuard: {guard!r} is no guard of rooms; it needs check_room")
            if problem := next(_misfits(guard, type(guard).__qualname__, ["check_room"]), None):
                raise ValueError(f"RoomGuard: {problem.removeprefix('guards: ')}")
        self.pattern = pattern
        self.guards = guards
        self._checks = [check for _, check in sorted(guard_checks(guards, "check_room"), key=itemgetter(0))]

    def check_room(self, conn: Connection, room: str) -> Awaitable[None] | None:
        """See `SocketGuard`."""
        return self._ask(conn, room) if fits(room, self.pattern) else None

    async def _ask(self, conn: Connection, room: str) -> None:
        for check in self._checks:
            await passes(check, conn, room)


CHECK_ARGUMENTS = {
    "check_message": ("conn", "envelope"),
    "check_handshake": ("handshake",),
    "check_room": ("conn", "room"),
}
"""What each check of a guard takes; a `@Guard()` method takes what the check of its moment does."""


def guard_checks(guards: Sequence[Any], check: str) -> list[tuple[int, Check]]:
    """The checks of one kind that these guards have, with their priorities."""
    return [(getattr(guard, "priority", 50), getattr(guard, check)) for guard in guards if _has(guard, check)]


def guard_problems(guards: Sequence[Any], *, of_event: bool) -> Iterator[str]:
    """Why these could not guard a controller, or one of its events: a guard is never passed over in silence."""
    for guard in guards:
        checks = [check for check in CHECK_ARGUMENTS if _has(guard, check)]
        name = guard.__qualname__ if isinstance(guard, type) else type(guard).__qualname__
        if not checks:
            yield f"guards: {guard!r} is no guard; it needs check_message, check_handshake or check_room"
        elif isinstance(guard, type):
            yield f"guards: {name} is a class; write {name}()"
        elif of_event and "check_message" not in checks:
            guarded = "handshakes" if "check_handshake" in checks else "rooms"
            yield f"guards: {name} has no check_message: it guards {guarded}; put it on @Socket"
        else:
            yield from _misfits(guard, name, checks)


def is_priority(value: object) -> bool:
    """Whether guards can be ordered by this."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # no NaN


def _has(guard: Any, check: str) -> bool:
    """A guard has the checks that it defines itself; those of `SocketGuard` only say what they are for."""
    if guard is SocketGuard:
        return True  # a class anyhow, and told so
    kind = guard if isinstance(guard, type) else type(guard)
    own = getattr(kind, check, None) is not getattr(SocketGuard, check)
    return own and callable(getattr(guard, check, None))


def _misfits(guard: Any, name: str, checks: Sequence[str]) -> Iterator[str]:
    priority = getattr(guard, "priority", 50)
    if not is_priority(priority):
        yield f"guards: {name}: priority is a number, not {priority!r}"
    for check in checks:
        arguments = CHECK_ARGUMENTS[check]
        if not accepts(getattr(guard, check), len(arguments)):
            yield f"guards: {name}.{check} must take ({', '.join(arguments)})"


async def passes(check: Check, *arguments: Any) -> None:
    """Run one check.

    Raises:
        SocketFault: WS_FORBIDDEN if it returned False; whatever it raised.
    """
    verdict = check(*arguments)
    if inspect.isawaitable(verdict):
        verdict = await verdict
    judge(verdict)


def judge(verdict: Any) -> None:
    """Raise WS_FORBIDDEN for a check's False."""
    if verdict is False:
        raise ws_forbidden()
