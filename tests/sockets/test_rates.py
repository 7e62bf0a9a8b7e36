"""Rates of messages: the guard and the middleware, each with a bucket of its own for every connection."""

from __future__ import annotations

import contextlib
import gc
import time
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
    SocketGuard,
)
from aquilia.sockets.limits import TokenBucket

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


async def outcome(client: Client, event: str = "hit") -> str:
    answer = await client.request(event)
    return answer["status"] if answer["status"] == "ok" else answer["error"]["code"]


REFUSED = "WS_RATE_LIMIT_EXCEEDED"


@WIRES
@LIMITERS
async def test_beyond_its_burst_messages_are_refused(limiter: Any, place: str, transport: str) -> None:
    app = AquilaSockets.from_controllers([hit_controller(on_socket={place: [limiter(NEVER, 3)]})])
    async with (
        serving(app, ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/hit/a") as client,
    ):
        assert [await outcome(client) for _ in range(3)] == ["ok"] * 3
        answer = await client.request("free")
        assert answer["error"] == {
            "code": REFUSED,
            "message": "more than 0.001 messages a second",
            "retryable": True,
        }


@WIRES
@LIMITERS
async def test_its_bucket_fills_again_by_the_rate(limiter: Any, place: str, transport: str) -> None:
    app = AquilaSockets.from_controllers([hit_controller(on_socket={place: [limiter(1_000_000, 1)]})])
    async with (
        serving(app, ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/hit/a") as client,
    ):
        assert [await outcome(client) for _ in range(30)] == ["ok"] * 30


@WIRES
@LIMITERS
async def test_a_burst_is_twice_the_rate_unless_it_is_said(limiter: Any, place: str, transport: str) -> None:
    app = AquilaSockets.from_controllers([hit_controller(on_socket={place: [limiter(5)]})])
    async with (
        serving(app, ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/hit/a") as client,
    ):
        begun = time.monotonic()
        outcomes = [await outcome(client) for _ in range(25)]
        assert outcomes[:10] == ["ok"] * 10
        assert outcomes.count("ok") <= 10 + 5 * (time.monotonic() - begun)


@LIMITERS
async def test_without_arguments_it_is_ten_a_second(limiter: Any, place: str) -> None:
    app = AquilaSockets.from_controllers([hit_controller(on_socket={place: [limiter()]})])
    async with serving(app) as base, Client.connect(f"{base}/hit/a") as client:
        assert [await outcome(client) for _ in range(20)] == ["ok"] * 20
        for n in range(12):
            await client.send("hit", id=f"n{n}", ack=True)
        while (answer := (await client.receive())["payload"])["status"] == "ok":
            pass
        assert answer["error"]["message"] == "more than 10 messages a second"


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
    app = AquilaSockets.from_controllers([hit_controller(on_socket={place: [limiter(NEVER, 1)]})])
    async with serving(app) as base, Client.connect(f"{base}/hit/a") as ann:
        assert [await outcome(ann), await outcome(ann)] == ["ok", REFUSED]
        async with Client.connect(f"{base}/hit/a") as bob:
            assert [await outcome(bob), await outcome(bob)] == ["ok", REFUSED]


@WIRES
@LIMITERS
async def test_on_an_event_it_counts_the_events_that_have_it(
    limiter: Any, place: str, transport: str
) -> None:
    app = AquilaSockets.from_controllers([hit_controller(on_event={place: [limiter(NEVER, 2)]})])
    async with (
        serving(app, ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/hit/a") as client,
    ):
        events = ["hit", "other", "hit", "other", "free", "free", "free"]
        assert [await outcome(client, event) for event in events] == [
            *("ok", "ok", REFUSED, REFUSED),
            *("ok", "ok", "ok"),
        ]


@pytest.mark.parametrize(
    ("limiter", "setting"),
    [(RateLimitGuard, "guards"), (RateLimitMiddleware, "message_middleware")],
    ids=["guard", "middleware"],
)
async def test_an_app_may_have_one_for_all_its_controllers(limiter: Any, setting: str) -> None:
    app = AquilaSockets.from_controllers([hit_controller()], **{setting: [limiter(NEVER, 2)]})
    async with serving(app) as base, Client.connect(f"{base}/hit/a") as client:
        assert [await outcome(client) for _ in range(3)] == ["ok", "ok", REFUSED]


async def test_the_setting_the_guard_and_the_middleware_count_by_themselves() -> None:
    @Socket("/all", message_rate_limit=10, middleware=[RateLimitMiddleware(NEVER, 6)])
    class All(SocketController):
        @Event("a", guards=[RateLimitGuard(NEVER, 2)])
        async def a(self, conn: Connection) -> None: ...

        @Event("b", guards=[RateLimitGuard(NEVER, 1)])
        async def b(self, conn: Connection) -> None: ...

    async with (
        serving(AquilaSockets.from_controllers([All])) as base,
        Client.connect(f"{base}/all") as client,
    ):
        assert [await outcome(client, "a") for _ in range(3)] == ["ok", "ok", REFUSED]
        assert [await outcome(client, "b") for _ in range(2)] == ["ok", REFUSED]
        # one of six is left to the middleware; the setting, of twenty, has refused none
        assert (await client.request("b"))["error"]["message"] == "more than 0.001 messages a second"


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
    app = AquilaSockets.from_controllers([hit_controller(on_socket=given)])
    async with serving(app) as base, Client.connect(f"{base}/hit/a") as client:
        assert [await outcome(client), await outcome(client)] == ["WS_FORBIDDEN", second]


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
