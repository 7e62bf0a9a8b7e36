"""Effects that come once: repeats that meet the first one, over connections, processes, codecs and broken stores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import integers, sampled_from
from wire import Client, eventually, serving

from aquilia import AppManifest, Identity
from aquilia.aquilary import Registry
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Socket,
    SocketController,
    SocketFault,
    idempotence,
)
from aquilia.sockets.adapters.inmemory import InMemoryBroker, InMemoryStore
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.idempotence_claims import Step, answer_of, done, free, read, running, step
from aquilia.testing import sockets_test

RUNS: list[Any] = []
GATE: list[asyncio.Event] = []


@Socket("/pay")
class Pay(SocketController):
    @Event("pay", delivery="effectively_once")
    async def pay(self, conn: Connection, payload: Any) -> int:
        RUNS.append(payload)
        run = len(RUNS)
        await GATE[0].wait()
        return run

    @Event("become")
    async def become(self, conn: Connection, payload: Any) -> None:
        conn.identity = Identity(payload)


class Shared(InMemoryStore):
    """A store of several processes, whose time stands still until it is moved, and which may be away."""

    def __init__(self) -> None:
        self.now = 0.0
        self.away = False
        super().__init__(lambda: self.now)

    async def get(self, key: str) -> bytes | None:
        self._reach()
        return await super().get(key)

    async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._reach()
        await super().put(key, value, ttl)

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> bool:
        self._reach()
        return await super().compare_and_swap(key, expected, value, ttl)

    def claimed(self) -> bool:
        """Whether some message is being handled, or has been."""
        return any(key.startswith("once.") and self._live(key) for key in list(self._values))

    def _reach(self) -> None:
        if self.away:
            raise ws_adapter_unavailable("the store is away")


class Adapter:
    def __init__(self, store: InMemoryStore) -> None:
        self.broker = InMemoryBroker()
        self.store = store


def node(store: InMemoryStore) -> AquilaSockets:
    registry = Registry.build([AppManifest("pay", controllers=[Pay])])
    return AquilaSockets(registry, adapter=Adapter(store))


@pytest.fixture
def store() -> Shared:
    RUNS.clear()
    GATE[:] = [asyncio.Event()]
    return Shared()


@contextlib.asynccontextmanager
async def arriving(base: str, token: str | None = None, profile: str = "v1.json") -> AsyncIterator[Client]:
    """A client, which comes back to its session if it has a token; `resume` of its welcome is the next one."""
    async with Client.connect(f"{base}/pay", profile, hello=False) as client:
        payload = {} if token is None else {"resume": {"token": token, "rooms": {}}}
        await client.send("hello", payload, type="control")
        client.welcome = (await client.expect("welcome"))["payload"]
        if token is not None:
            await client.expect("resumed")
        yield client


async def acked(client: Client, id: str = "i") -> dict[str, Any]:
    frame = await client.receive()
    assert (frame["type"], frame["id"]) == ("ack", id)
    answer: dict[str, Any] = frame["payload"]
    return answer


async def test_repeats_that_come_while_the_first_one_runs_get_its_answer(store: Shared) -> None:
    async with serving(node(store)) as base, Client.connect(f"{base}/pay") as client:
        for _ in range(3):
            await client.send("pay", 5, id="i")
        await eventually(lambda: RUNS)
        GATE[0].set()
        assert [await acked(client) for _ in range(3)] == [{"status": "ok", "data": 1}] * 3
    assert RUNS == [5]


async def repeat_elsewhere(one: str, other: str) -> None:
    """Say it, lose the connection while it is handled, and say it again where the client comes back."""
    async with arriving(one) as client:
        await client.send("pay", 5, id="i")
        await eventually(lambda: RUNS)
        client.socket.transport.abort()
    async with arriving(other, client.welcome["resume"]) as again:
        assert again.welcome["connection"] == client.welcome["connection"]
        await again.send("pay", 5, id="i")
        await again.send(event="ping", type="control")
        await again.expect("pong")
        GATE[0].set()
        assert await acked(again) == {"status": "ok", "data": 1}
    assert RUNS == [5]


async def test_a_repeat_behind_a_resume_waits_for_the_first_one(store: Shared) -> None:
    async with serving(node(store)) as base:
        await repeat_elsewhere(base, base)


@pytest.mark.parametrize("profile", ["v1.json", "v1.msgpack", "v1.cbor"])
async def test_a_repeat_may_come_in_another_codec(store: Shared, profile: str) -> None:
    GATE[0].set()
    payload = {"b": [1.5, None, True], "a": "ä"}
    async with serving(node(store)) as base:
        async with arriving(base) as client:
            await client.send("pay", payload, id="i")
            first = await acked(client)
            client.socket.transport.abort()
        async with arriving(base, client.welcome["resume"], profile) as again:
            await again.send("pay", payload, id="i")
            assert await acked(again) == first
    assert len(RUNS) == 1


@pytest.mark.parametrize("payload", [2**63, {1: "a", 2: "b"}, {b"x": 1}, {1.5: 2}, b"\0\xff", [[{"x": b""}]]])
@pytest.mark.parametrize("profile", ["v1.msgpack", "v1.cbor"])
async def test_what_other_codecs_can_say_can_be_said_once(store: Shared, profile: str, payload: Any) -> None:
    GATE[0].set()
    async with serving(node(store)) as base, arriving(base, profile=profile) as client:
        for _ in range(2):
            await client.send("pay", payload, id="i")
            assert await acked(client) == {"status": "ok", "data": 1}
    assert len(RUNS) == 1


@pytest.mark.parametrize("profile", ["v1.msgpack", "v1.cbor"])
async def test_a_payload_that_no_handler_can_be_given_is_the_fault_of_the_client(
    store: Shared, profile: str
) -> None:
    async with serving(node(store)) as base, arriving(base, profile=profile) as client:
        await client.send("pay", {None: 1, True: 2}, id="i")
        assert (await acked(client))["error"]["code"] == "WS_MESSAGE_INVALID"
    assert not RUNS


async def test_another_process_waits_for_the_answer_of_the_one_that_has_the_claim(store: Shared) -> None:
    async with serving(node(store)) as one, serving(node(store)) as other:
        await repeat_elsewhere(one, other)


async def test_a_claim_that_is_not_renewed_ends_and_the_message_is_handled_elsewhere(
    store: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(node(store)) as one, serving(node(store)) as other:
        async with arriving(one) as client:
            await client.send("pay", 5, id="i")
            await eventually(lambda: RUNS)
            client.socket.transport.abort()
        async with arriving(other, client.welcome["resume"]) as again:
            store.now += 10.1  # the process that has it is as good as dead
            await again.send("pay", 5, id="i")
            await eventually(lambda: len(RUNS) == 2)
            GATE[0].set()
            assert await acked(again) == {"status": "ok", "data": 2}
            await eventually(lambda: "a claim was lost while its handler ran" in caplog.text)
            await again.send("pay", 5, id="i")
            assert await acked(again) == {"status": "ok", "data": 2}
    assert RUNS == [5, 5]


async def test_a_claim_is_renewed_while_its_handler_runs(store: Shared) -> None:
    async with sockets_test(Pay, handler_timeout=None) as t:
        client = await t.connect("/pay")
        asked = asyncio.create_task(client.request("pay", 5, timeout=10_000))
        await eventually(lambda: RUNS)
        for _ in range(20):
            await t.clock.advance(15)
        GATE[0].set()
        assert await asked == 1
        client._requests -= 1  # the same id again
        assert await client.request("pay", 5) == 1
    assert RUNS == [5]


async def test_without_the_store_a_message_takes_no_effect_and_may_come_again(store: Shared) -> None:
    GATE[0].set()
    async with serving(node(store)) as base, Client.connect(f"{base}/pay") as client:
        store.away = True
        await client.send("pay", 5, id="i")
        error = (await acked(client))["error"]
        assert (error["code"], error["retryable"]) == ("WS_ADAPTER_UNAVAILABLE", True)
        assert not RUNS
        store.away = False
        await client.send("pay", 5, id="i")
        assert await acked(client) == {"status": "ok", "data": 1}


async def test_a_store_that_fails_behind_the_effect_takes_no_answer_away(
    store: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(node(store)) as base, Client.connect(f"{base}/pay") as client:
        await client.send("pay", 5, id="i")
        await eventually(lambda: RUNS)
        store.away = True
        GATE[0].set()
        assert await acked(client) == {"status": "ok", "data": 1}
        assert "an answer cannot be kept" in caplog.text
        store.away = False
        store.now += 10.1
        await client.send("pay", 5, id="i")
        assert await acked(client) == {"status": "ok", "data": 2}


async def test_a_store_that_was_away_for_longer_than_a_claim_lives_gets_the_answer(store: Shared) -> None:
    async with serving(node(store)) as one, serving(node(store)) as other:
        async with arriving(one) as client:
            await client.send("pay", 5, id="i")
            await eventually(lambda: RUNS)
            store.now += 10.1  # it was away: the claim has ended, and nobody has renewed it
            GATE[0].set()
            assert await acked(client) == {"status": "ok", "data": 1}
            client.socket.transport.abort()
        async with arriving(other, client.welcome["resume"]) as again:
            await again.send("pay", 5, id="i")
            assert await acked(again) == {"status": "ok", "data": 1}
    assert RUNS == [5]


async def test_a_claim_that_ended_while_the_store_was_away_is_taken_again(
    store: Shared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(idempotence, "CLAIM", 0.3)  # renewed each 0.1 s
    async with serving(node(store)) as one, serving(node(store)) as other:
        async with arriving(one) as client:
            await client.send("pay", 5, id="i")
            await eventually(lambda: RUNS)
            client.socket.transport.abort()
        async with arriving(other, client.welcome["resume"]) as again:
            store.away = True
            await eventually(lambda: "a claim cannot be renewed" in caplog.text)
            store.now += 10.1
            assert not store.claimed()
            store.away = False
            await eventually(store.claimed)
            await again.send("pay", 5, id="i")
            await again.send(event="ping", type="control")
            await again.expect("pong")
            GATE[0].set()
            assert await acked(again) == {"status": "ok", "data": 1}
    assert RUNS == [5]


async def test_nobody_gets_the_answer_of_another_identity(store: Shared) -> None:
    GATE[0].set()
    async with serving(node(store)) as base, Client.connect(f"{base}/pay") as client:
        answers = []
        for identity in (None, "ann", "bob", "ann"):
            if identity is not None:
                await client.request("become", identity)
            await client.send("pay", 5, id="i")
            answers.append((await acked(client))["data"])
        assert answers == [1, 2, 3, 2]


class Claims(RuleBasedStateMachine):
    """Processes that claim, handle, give back and die, over a store whose entries end by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: bytes | None = None
        self.holder: int | None = None
        self.digest = b""
        self.owners = 0
        self.answer: int | None = None

    @rule(digest=sampled_from([b"a", b"b"]))
    def come(self, digest: bytes) -> None:
        """A message with this digest comes to a process."""
        found = read(self.stored)
        what = step(found, digest)
        if what is Step.HANDLE:
            assert self.holder is None
            assert self.answer is None
            self.owners += 1
            self.holder, self.digest = self.owners, digest
            self.stored = running(str(self.owners), digest)
        elif digest != self.digest:
            assert what is Step.REFUSE
        elif self.holder is not None:
            assert what is Step.WAIT
        else:
            assert what is Step.ANSWER
            assert found is not None
            assert answer_of(found) == self.answer

    @rule(answer=integers(-(2**63), 2**63 - 1))
    def finish(self, answer: int) -> None:
        """Who has the claim has an answer."""
        if self.holder is not None:
            self.stored = done(str(self.holder), self.digest, answer)
            self.holder, self.answer = None, answer

    @rule()
    def give_back(self) -> None:
        """Who has the claim could not handle the message."""
        if self.holder is not None:
            self.stored = free(str(self.holder))
            self.holder = None

    @rule()
    def expire(self) -> None:
        """The time of what is stored is over."""
        self.stored = self.holder = self.answer = None

    @invariant()
    def what_is_stored_can_be_read_and_has_one_owner(self) -> None:
        claim = read(self.stored)
        if self.holder is not None:
            assert claim is not None
            assert (claim.owner, claim.state) == (str(self.holder), "running")


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x95\x01", b"\x95\x02\xa1o\xc4\x00\xa2ok\xc0"])
def test_what_is_no_claim_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no claim|version 2"):
        read(data)


def test_an_answer_too_large_to_keep_is_told_apart() -> None:
    claim = read(done("me", b"d", "x" * 70_000))
    assert claim is not None
    assert step(claim, b"d") is Step.ANSWER
    with pytest.raises(SocketFault, match="WS_ALREADY_HANDLED"):
        answer_of(claim)
