"""Guards and middleware of all three levels, in every form that they may have: who is asked, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aquilia import Fault
from aquilia.sockets import (
    Connection,
    Event,
    Guard,
    Handshake,
    MessageEnvelope,
    Socket,
    SocketController,
    SocketFault,
    SocketGuard,
    Subscribe,
)
from aquilia.testing import HandshakeRefused, sockets_test

ASKED: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    ASKED.clear()


async def later(verdict: Any) -> Any:
    await asyncio.sleep(0)
    return verdict


def future(verdict: Any) -> asyncio.Future[Any]:
    answer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(answer.set_result, verdict)
    return answer


FORMS: dict[str, Callable[[Any], Any]] = {"sync": lambda verdict: verdict, "async": later, "future": future}


class Named(SocketGuard):
    """Notes that it was asked, and refuses whoever names it."""

    def __init__(self, name: str, priority: float = 50, form: str = "sync") -> None:
        self.name, self.priority, self.form = name, priority, FORMS[form]  # type: ignore[assignment]

    def check_handshake(self, handshake: Handshake) -> Any:
        ASKED.append(self.name)
        return self.form(handshake.query_params.get("refuse") != self.name)

    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> Any:
        ASKED.append(self.name)
        return self.form(conn.headers.get("refuse") != self.name)


# Order

DOOR = ["-1", "app early", "socket early", "app", "app async", "socket", "socket future"]
ORDER = [*DOOR[:3], "method early", *DOOR[3:], "event", "event async", "method", "method late"]
SUBSCRIBE = [name for name in ORDER if not name.startswith("event")]


@Socket("/levels", guards=[Named("socket"), Named("socket early", 10), Named("socket future", form="future")])
class Levels(SocketController):
    @Guard(priority=20)
    async def early(self, conn: Connection, envelope: MessageEnvelope) -> bool:
        ASKED.append("method early")
        return conn.headers.get("refuse") != "method early"

    @Guard()
    async def method(self, conn: Connection, envelope: MessageEnvelope) -> bool:
        ASKED.append("method")
        return conn.headers.get("refuse") != "method"

    @Guard(priority=60)
    def late(self, conn: Connection, envelope: MessageEnvelope) -> bool:
        ASKED.append("method late")
        return conn.headers.get("refuse") != "method late"

    @Guard(on="handshake", priority=60)
    async def later_at_the_door(self, handshake: Handshake) -> None:
        ASKED.append("method late")

    @Guard(on="handshake", priority=10)
    def early_at_the_door(self, handshake: Handshake) -> None:
        ASKED.append("method early")

    @Event("say", guards=[Named("event"), Named("event async", form="async")])
    async def say(self, conn: Connection) -> None:
        ASKED.append("handler")

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> None:
        ASKED.append("handler")


APP = [Named("app"), Named("app async", form="async"), Named("app early", 10), Named("-1", -1)]


async def test_guards_are_asked_by_priority_and_of_equals_from_the_app_inwards() -> None:
    async with sockets_test(Levels, guards=APP) as t:
        client = await t.connect("/levels")
        assert [*DOOR, "method early", "method late"] == ASKED
        ASKED.clear()
        await client.request("say")
        assert [*ORDER, "handler"] == ASKED
        ASKED.clear()
        await client.request("enter")
        assert [*SUBSCRIBE, "handler"] == ASKED


@pytest.mark.parametrize("name", ORDER)
async def test_behind_a_refusal_nobody_is_asked(name: str) -> None:
    async with sockets_test(Levels, guards=APP) as t:
        client = await t.connect("/levels", headers={"refuse": name})
        ASKED.clear()
        with pytest.raises(SocketFault, match="WS_FORBIDDEN"):
            await client.request("say")
        assert ORDER[: ORDER.index(name) + 1] == ASKED


@pytest.mark.parametrize("name", DOOR)
async def test_behind_a_refused_handshake_nobody_is_asked(name: str) -> None:
    async with sockets_test(Levels, guards=APP) as t:
        with pytest.raises(HandshakeRefused, match="WS_FORBIDDEN"):
            await t.connect("/levels", query={"refuse": name})
        assert DOOR[: DOOR.index(name) + 1] == ASKED


# Verdicts


class Judge(SocketGuard):
    """Returns or raises what it was made with."""

    def __init__(self, verdict: Any, form: str, at: str) -> None:
        self.verdict, self.form, self.at = verdict, FORMS[form], at

    def check_handshake(self, handshake: Handshake) -> Any:
        return self.judge() if self.at == "handshake" else None

    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> Any:
        return self.judge() if self.at == "message" else None

    def judge(self) -> Any:
        if not isinstance(self.verdict, Exception):
            return self.form(self.verdict)
        if self.form is later:
            return self.raise_later()
        raise self.verdict

    async def raise_later(self) -> None:
        await asyncio.sleep(0)
        raise self.verdict


VERDICTS = [
    (True, None),
    (None, None),
    (0, None),  # only False refuses: a guard may end with any expression
    ("", None),
    (False, "WS_FORBIDDEN"),
    (Fault("CLUB_CLOSED", "come back tomorrow", status=403), "CLUB_CLOSED"),
    (ZeroDivisionError("a secret"), "WS_INTERNAL_ERROR"),
]


@pytest.mark.parametrize("at", ["handshake", "message"])
@pytest.mark.parametrize("level", ["app", "socket", "event"])
@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize(("verdict", "told"), VERDICTS, ids=[repr(verdict) for verdict, _ in VERDICTS])
async def test_a_guard_refuses_by_false_or_by_raising(
    verdict: Any, told: str | None, form: str, level: str, at: str
) -> None:
    judge = [Judge(verdict, form, at)]

    @Socket("/court", guards=judge if level == "socket" else [])
    class Court(SocketController):
        @Event("say", guards=judge if level == "event" else [])
        async def say(self, conn: Connection) -> str:
            return "heard"

    guards = judge if level == "app" else []
    async with sockets_test(Court, guards=guards) as t:
        try:
            answer = await (await t.connect("/court")).request("say")
        except (HandshakeRefused, SocketFault) as refused:
            assert refused.code == told
            assert "a secret" not in str(refused)
            assert isinstance(refused, HandshakeRefused) is (at == "handshake")
        else:
            assert answer == "heard"
            assert told is None or (level, at) == ("event", "handshake")  # there is no event yet


# What is settled at boot


async def test_guards_and_middleware_are_chained_at_boot() -> None:
    async def noting(conn: Connection, envelope: MessageEnvelope, next: Any) -> Any:
        ASKED.append("middleware")
        return await next(conn, envelope)

    app: dict[str, list[Any]] = {"guards": [Named("app")], "message_middleware": [noting]}
    own: dict[str, list[Any]] = {"guards": [Named("socket")], "middleware": [noting]}
    event: dict[str, list[Any]] = {"guards": [Named("event")], "middleware": [noting]}

    @Socket("/chained", **own)  # type: ignore[arg-type]
    class Chained(SocketController):
        @Event("say", **event)  # type: ignore[arg-type]
        async def say(self, conn: Connection) -> None: ...

    async with sockets_test(Chained, **app) as t:
        for lists in (app, own, event):
            for entries in lists.values():
                entries.clear()
        client = await t.connect("/chained")
        ASKED.clear()
        for _ in range(2):
            await client.request("say")
        assert [*["middleware"] * 3, "app", "socket", "event"] * 2 == ASKED


async def test_a_middleware_may_answer_refuse_ask_twice_and_change_the_answer() -> None:
    class Around:
        async def __call__(self, conn: Connection, envelope: MessageEnvelope, next: Any) -> Any:
            match conn.headers.get("mood"):
                case "answers":
                    return "of its own"
                case "refuses":
                    raise Fault("CLUB_CLOSED", "not today")
                case "asks twice":
                    return [await next(conn, envelope), await next(conn, envelope)]
            return ["changed", await next(conn, envelope)]

    @Socket("/moods", middleware=[Around()])
    class Moods(SocketController):
        @Guard()
        def guard(self, conn: Connection, envelope: MessageEnvelope) -> None:
            ASKED.append("guard")

        @Event("say")
        async def say(self, conn: Connection, payload: int) -> int:
            return payload

    async def answer(mood: str) -> Any:
        return await (await t.connect("/moods", headers={"mood": mood})).request("say", 7)

    async with sockets_test(Moods) as t:
        assert await answer("answers") == "of its own"
        with pytest.raises(SocketFault, match="CLUB_CLOSED"):
            await answer("refuses")
        assert not ASKED
        assert await answer("asks twice") == [7, 7]
        assert ASKED == ["guard", "guard"]
        assert await answer("changes") == ["changed", 7]
