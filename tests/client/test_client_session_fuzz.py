"""The pure machine of the client, fed with envelopes of all kinds of nonsense, in each codec: nothing is raised."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.client.options import Options
from aquilia.client.session import Session
from aquilia.client.steps import Phase
from aquilia.sockets.codecs import codec

WRITE: dict[str, Any] = {
    "json": json.dumps,  # NaN and Infinity, which are no JSON, among it
    "msgpack": msgspec.msgpack.encode,
    "cbor": cbor2.dumps,
}
WORDS = [
    "welcome",
    "resumed",
    "joined",
    "left",
    "gap",
    "presence",
    "goaway",
    "pong",
    "error",
    "m",
    "",
    "x" * 129,
]
KEYS = [
    "room",
    "epoch",
    "offset",
    "rooms",
    "recovered",
    "cause",
    "connection",
    "heartbeat",
    "expires",
    "resume",
]
KEYS += ["reconnect_in", "reason", "status", "data", "error", "code", "message", "joins", "count"]

numbers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(), st.sampled_from([0, 1, 5, 1e12, 2**63]))
leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5), st.sampled_from(["a", "ok", "e"]))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=8,
)
envelopes = st.fixed_dictionaries(
    {"type": st.sampled_from(["event", "ack", "system", "control", "other"])},
    optional={
        "event": st.sampled_from(WORDS),
        "payload": trees,
        "id": st.one_of(st.sampled_from(["c1", "c2", "s1"]), leaves),
        "ack": st.one_of(st.booleans(), leaves),
        "room": leaves,
        "meta": st.one_of(trees, st.fixed_dictionaries({"epoch": leaves, "offset": leaves})),
    },
)


def greeted(name: str, welcome: Any) -> Session:
    machine = Session(codec(name), random=lambda: 0.5, options=Options(keep_trying=True, renewable=True))
    machine.start(0.0)
    machine.opened("token", 0.0, today=1_800_000_000.0)
    payload = {"connection": "c", "heartbeat": 1, "resume": "r", **welcome}
    machine.received(WRITE[name]({"type": "system", "event": "welcome", "payload": payload}), 0.0)
    return machine


@pytest.mark.parametrize("name", list(WRITE))
@given(
    welcome=st.dictionaries(st.sampled_from(["heartbeat", "expires", "resume"]), leaves),
    script=st.lists(st.one_of(envelopes, trees, st.integers(1, 10_000)), max_size=12),
    cut=st.integers(0, 3),
)
def test_nothing_that_a_server_says_raises(name: str, welcome: Any, script: list[Any], cut: int) -> None:
    machine, now = greeted(name, welcome), 0.0
    if machine.phase is Phase.LIVE:
        machine.call("put", None, now=now, timeout=5)
    for step in script:
        if isinstance(step, int):
            now += step / 100
            machine.tick(now)
        else:
            data = WRITE[name](step)
            machine.received(data[: len(data) - cut], now)
        while machine.next_frame() is not None:
            pass
        machine.take_events()
        due = machine.deadline()
        assert due is None or due == due, "a NaN"
        if machine.closing is not None:
            machine.lost(machine.closing.code, "", now, ours=True)
        if machine.phase is Phase.WAITING:
            machine.tick(machine.deadline() or now)
        if machine.phase is Phase.DIALING:
            machine.opened(None, now)
    machine.close(now)
    machine.lost(1000, "", now)
    assert machine.phase is Phase.CLOSED
