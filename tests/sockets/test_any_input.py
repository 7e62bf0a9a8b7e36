"""Whatever a client sends, it is answered as documented and the connection goes on: found by Hypothesis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from door import TEXT, house, written
from hypothesis import given
from hypothesis import strategies as st
from wire import PROFILES, TRANSPORTS, Client, serving

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("complaints")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def base() -> AsyncIterator[str]:
    async with serving(house(), ws=TRANSPORTS["native"], log_config=None) as base:
        yield base


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
keys = st.sampled_from(["type", "event", "id", "ack", "payload", "room", "meta"])
types = st.sampled_from(["event", "ack", "system", "control"])
events = st.sampled_from(["echo", "note", "enter", "hello", "ping", "auth", "error", "nothing"])
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "type": types,
        "event": events,
        "id": st.text(min_size=1, max_size=4),
        "ack": st.booleans(),
        "payload": values,
    },
)
mutated = st.builds(
    lambda envelope, wrong: {**envelope, **wrong}, envelopes, st.dictionaries(keys, values, max_size=2)
)

CODES = {"WS_MESSAGE_INVALID", "WS_UNSUPPORTED_EVENT", "WS_QUOTA_EXCEEDED"}


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=list(PROFILES))
async def survivor(request: pytest.FixtureRequest, base: str) -> AsyncIterator[Client]:
    """One connection that goes through all examples of a test: none may end it."""
    async with Client.connect(f"{base}/door/mutated", request.param) as client:
        client.profile = request.param
        yield client


async def check_survival(client: Client, data: Any) -> None:
    await client.raw(data)
    await client.send("echo", "marker", id="marker", ack=True)
    while True:
        frame = await client.receive()
        if frame.get("id") == "marker":
            assert frame["payload"] == {"status": "ok", "data": "marker"}
            return
        if frame["type"] == "system":
            assert frame["event"] in ("pong", "joined")
        elif frame["type"] == "event":
            assert frame["event"] == "error"
            assert frame["payload"]["code"] in CODES
        elif frame["payload"]["status"] == "error":
            assert frame["payload"]["error"]["code"] in CODES


@given(data=st.data())
async def test_mutated_envelopes_are_answered_as_documented(survivor: Client, data: st.DataObject) -> None:
    message = data.draw(mutated.filter(lambda envelope: envelope.get("id") != "marker"))
    await check_survival(survivor, written(survivor.profile, message))


@given(data=st.data())
async def test_random_bytes_are_answered_as_documented(survivor: Client, data: st.DataObject) -> None:
    noise = st.text(max_size=64) if survivor.profile in TEXT else st.binary(max_size=64)
    await check_survival(survivor, data.draw(noise))


@given(data=st.data())
async def test_damaged_messages_are_answered_as_documented(survivor: Client, data: st.DataObject) -> None:
    message = written(survivor.profile, data.draw(envelopes))
    at = data.draw(st.integers(0, len(message) - 1))
    if isinstance(message, str):
        damage = data.draw(st.sampled_from(["", "\\", '"', "{", "}", "[", "\x00", "9", "é"]))
        await check_survival(survivor, message[:at] + damage + message[at + 1 :])
    else:
        damage = data.draw(st.binary(max_size=2))
        await check_survival(survivor, message[:at] + damage + message[at + 1 :])
