"""Rates of messages: the guard and the middleware, each with a bucket of its own for every connection."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest
import websockets
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    MessageEnvelope,
    RateLimitGuard,
    RateLimitMiddleware,
    Socket,
    SocketController,
    SocketFault,
    SocketGuard,
)
from aquilia.sockets.limits.buckets import TokenBucket
from aquilia.testing import Client as KitClient
from aquilia.testing import sockets_test

NEVER = 0.001
"""Messages a second: within a test, none comes back."""

LIMITERS = pytest.mark.parametrize(
    ("limiter", "place"),
    [(RateLimitGuard, "guards"), (RateLimitMiddleware, "middleware")],
    ids=["guard", "middleware"],
)
WIRES = pytest.mark.parametrize("transport", list(TRANSPORTS))


def hit_controller(*, on_socket: Any = None, on_event: Any = None) -> type[SocketController]:
    @Socket("/hit/:name", **(on_socket or {}))
    class Hit(SocketController):
        @Event("hit", **(on_event or {}))
        async def hit(self, conn: Connection) -> None: ...

        @Event("other", **(on_event or {}))
        async def other(self, conn: Connection) -> None: ...

        @Event("free")
        async def free(self, conn: Connection) -> None: ...

    return Hit


async def outcome(client: KitClient, event: str = "hit") -> str:
    try:
        await client.request(event)
    except SocketFault as fault:
        return fault.code
    return "ok"


REFUSED = "WS_RATE_LIMIT_EXCEEDED"


@LIMITERS
async def test_beyond_its_burst_messages_are_refused(limiter: Any, place: str) -> None:
    async with sockets_test(hit_controller(on_socket={place: [limiter(NEVER, 3)]})) as t:
        ann = await t.connect("/hit/a")
        assert [await outcome(ann) for _ in range(3)] == ["ok"] * 3
        with pytest.raises(SocketFault) as refused:
            await ann.request("free")
    assert (refused.value.code, refused.value.retryable) == (REFUSED, True)
    assert refused.value.message == "more than 0.001 messages a second"


@LIMITERS
async def test_its_bucket_fills_again_by_the_rate(limiter: Any, place: str) -> None:
    async with sockets_test(hit_controller(on_socket={place: [limiter(4, 1)]})) as t:
        t.clock.freeze()
        ann = await t.connect("/hit/a")
        assert [await outcome(ann), await outcome(ann)] == ["ok", REFUSED]
        await t.clock.advance(0.249)
        assert await outcome(ann) == REFUSED
        await t.clock.advance(0.001)
        assert [await outcome(ann), await outcome(ann)] == ["ok", REFUSED]


@LIMITERS
async def test_a_burst_is_twice_the_rate_unless_it_is_said(limiter: Any, place: str) -> None:
    async with sockets_test(hit_controller(on_socket={place: [limiter(5)]})) as t:
        t.clock.freeze()
        ann = await t.connect("/hit/a")
        assert [await outcome(ann) for _ in range(12)] == ["ok"] * 10 + [REFUSED] * 2
        await t.clock.advance(3600)
        assert [await outcome(ann) for _ in range(12)] == ["ok"] * 10 + [REFUSED] * 2


@LIMITERS
async def test_without_arguments_it_is_ten_a_second(limiter: Any, place: str) -> None:
    async with sockets_test(hit_controller(on_socket={place: [limiter()]})) as t:
        t.clock.freeze()
        ann = await t.connect("/hit/a")
        assert [await outcome(ann) for _ in range(20)] == ["ok"] * 20
        with pytest.raises(SocketFault, match="more than 10 messages a second"):
            await ann.request("hit")
        await t.clock.advance(0.1)
        assert [await outcome(ann), await outcome(ann)] == ["ok", REFUSED]


async def answers_until_the_end(client: Client, messages: int) -> list[str]:
    for n in range(messages):
        await client.send("hit", id=str(n), ack=True)
    answers = []
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            answers.append((await client.receive())["payload"])
    assert await client.closed() == (4529, '{"after":10000}')
    return [answer["error"]["code"] for answer in answers if answer["status"] == "error"]


@WIRES
@LIMITERS
async def test_the_twentieth_refusal_ends_the_connection(limiter: Any, place: str, transport: str) -> None:
    app = AquilaSockets.from_controllers([hit_controller(on_socket={place: [limiter(NEVER, 2)]})])
    async with (
        serving(app, ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/hit/a") as client,
    ):
        assert await answers_until_the_end(client, 30) == [REFUSED] * 19


async def test_refusals_by_the_guard_and_by_the_setting_count_together() -> None:
    limits = {"guards": [RateLimitGuard(NEVER, 1)], "message_rate_limit": 5}
    app = AquilaSockets.from_controllers([hit_controller(on_socket=limits)])
    async with serving(app) as base, Client.connect(f"{base}/hit/a") as client:
        assert await answers_until_the_end(client, 40) == [REFUSED] * 19


@LIMITERS
async def test_each_connection_has_a_bucket(limiter: Any, place: str) -> None:
    async with sockets_test(hit_controller(on_socket={place: [limiter(NEVER, 1)]})) as t:
        for _ in range(2):
            client = await t.connect("/hit/a")
            assert [await outcome(client), await outcome(client)] == ["ok", REFUSED]


@LIMITERS
async def test_on_an_event_it_counts_the_events_that_have_it(limiter: Any, place: str) -> None:
    async with sockets_test(hit_controller(on_event={place: [limiter(NEVER, 2)]})) as t:
        ann = await t.connect("/hit/a")
        events = ["hit", "other", "hit", "other", "free", "free", "free"]
        assert [await outcome(ann, event) for event in events] == [
            *("ok", "ok", REFUSED, REFUSED),
            *("ok", "ok", "ok"),
        ]


@pytest.mark.parametrize(
    ("limiter", "setting"),
    [(RateLimitGuard, "guards"), (RateLimitMiddleware, "message_middleware")],
    ids=["guard", "middleware"],
)
async def test_an_app_may_have_one_for_all_its_controllers(limiter: Any, setting: str) -> None:
    async with sockets_test(hit_controller(), **{setting: [limiter(NEVER, 2)]}) as t:
        ann = await t.connect("/hit/a")
        assert [await outcome(ann) for _ in range(3)] == ["ok", "ok", REFUSED]


async def test_the_setting_the_guard_and_the_middleware_count_by_themselves() -> None:
    @Socket("/all", message_rate_limit=10, middleware=[RateLimitMiddleware(NEVER, 6)])
    class All(SocketController):
        @Event("a", guards=[RateLimitGuard(NEVER, 2)])
        async def a(self, conn: Connection) -> None: ...

        @Event("b", guards=[RateLimitGuard(NEVER, 1)])
        async def b(self, conn: Connection) -> None: ...

    async with sockets_test(All) as t:
        ann = await t.connect("/all")
        assert [await outcome(ann, "a") for _ in range(3)] == ["ok", "ok", REFUSED]
        assert [await outcome(ann, "b") for _ in range(2)] == ["ok", REFUSED]
        # one of six is left to the middleware; the setting, of twenty, has refused none
        with pytest.raises(SocketFault, match=r"more than 0.001 messages a second"):
            await ann.request("b")


class No(SocketGuard):
    priority = 10

    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> bool:
        return False


@pytest.mark.parametrize(
    ("given", "second"),
    [
        ({"guards": [No(), RateLimitGuard(NEVER, 1)]}, "WS_FORBIDDEN"),
        ({"guards": [No()], "middleware": [RateLimitMiddleware(NEVER, 1)]}, REFUSED),
    ],
    ids=["guard", "middleware"],
)
async def test_the_middleware_counts_what_guards_refuse(given: dict[str, Any], second: str) -> None:
    async with sockets_test(hit_controller(on_socket=given)) as t:
        ann = await t.connect("/hit/a")
        assert [await outcome(ann), await outcome(ann)] == ["WS_FORBIDDEN", second]


def buckets() -> int:
    gc.collect()
    return sum(type(each) is TokenBucket for each in gc.get_objects())


@WIRES
@LIMITERS
async def test_nothing_is_left_of_a_connection_that_has_gone(
    limiter: Any, place: str, transport: str
) -> None:
    app = AquilaSockets.from_controllers([hit_controller(on_socket={place: [limiter()]})])
    before = buckets()
    async with serving(app, ws=TRANSPORTS[transport]) as base:
        async with Client.connect(f"{base}/hit/a") as ann, Client.connect(f"{base}/hit/b") as bob:
            await ann.request("hit")
            assert buckets() == before + 1  # who sends nothing has none
            await bob.request("hit")
            assert buckets() == before + 2
        await eventually(lambda: buckets() == before)


@pytest.mark.parametrize("limiter", [RateLimitGuard, RateLimitMiddleware])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"messages_per_second": 0}, "messages_per_second: a number above 0 is needed, not 0"),
        ({"messages_per_second": "10"}, "messages_per_second: a number above 0 is needed, not '10'"),
        ({"messages_per_second": True}, "messages_per_second: a number above 0 is needed, not True"),
        ({"messages_per_second": float("inf")}, "messages_per_second: a number above 0 is needed, not inf"),
        ({"burst": 0.5}, "burst: a number of at least 1 is needed, or None, not 0.5"),
        ({"burst": float("nan")}, "burst: a number of at least 1 is needed, or None, not nan"),
    ],
)
def test_a_rate_that_lets_nothing_pass_is_refused(limiter: Any, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        limiter(**arguments)
    assert str(refused.value) == f"{limiter.__name__}: {told}"
