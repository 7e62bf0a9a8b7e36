"""The record of a session as a machine: whatever comes, there is one owner, and no token for another's session."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aquilia.sockets.history import Position
from aquilia.sockets.resume.direct_log import DIRECT_SIZE, DIRECT_TTL, DirectLog, DirectLogs
from aquilia.sockets.resume.records import (
    MAX_STATE,
    RESUME_WINDOW,
    VERSION,
    Record,
    Ticket,
    Tokens,
    packed_state,
    unpacked_state,
)


class Session(RuleBasedStateMachine):
    """One store key, and clients that use any token that they ever saw, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.record: Record | None = Record(VERSION, "live", 0, "c0")
        self.tokens = Tokens(b"k" * 32)
        self.issued = [self.issue(1)]
        self.connections = 1
        self.newest = "c0"
        self.used = 0

    def issue(self, generation: int) -> str:
        return self.tokens.issue(Ticket("s", generation), "/a", "ann")

    @rule(data=st.data())
    def a_client_comes_with_a_token(self, data: st.DataObject) -> None:
        ticket = self.tokens.read(data.draw(st.sampled_from(self.issued)), "/a", "ann")
        assert ticket is not None
        if self.record is None:
            return
        owner = f"c{self.connections}"
        claimed = self.record.claimed(ticket.generation, owner)
        if isinstance(claimed, str):
            assert self.record.phase == "ended" or not 0 <= ticket.generation - self.used <= 1
            return
        assert self.record.phase != "ended"
        self.connections += 1
        self.record, self.newest, self.used = claimed, owner, ticket.generation
        self.issued.append(self.issue(claimed.generation + 1))

    @rule(phase=st.sampled_from(["away", "ended"]))
    def its_connection_ends(self, phase: Any) -> None:
        if self.record is not None and self.record.phase == "live":
            last = Record(VERSION, phase, self.record.generation, self.record.owner)
            self.record = Record.read(last.pack())

    @rule(forged=st.text(max_size=60))
    def somebody_makes_up_a_token(self, forged: str) -> None:
        assert self.tokens.read(forged, "/a", "ann") is None

    @rule(data=st.data(), namespace=st.sampled_from(["/a", "/b"]), identity=st.sampled_from(["ann", None, 1]))
    def somebody_else_has_the_token(self, data: st.DataObject, namespace: str, identity: Any) -> None:
        token = data.draw(st.sampled_from(self.issued))
        own = (namespace, identity) == ("/a", "ann")
        assert (self.tokens.read(token, namespace, identity) is not None) is own
        assert Tokens(b"x" * 32).read(token, "/a", "ann") is None

    @invariant()
    def the_newest_connection_owns_it(self) -> None:
        assert self.record is None or self.record.owner == self.newest

    @invariant()
    def the_newest_token_is_good_while_the_session_lasts(self) -> None:
        if self.record is not None and self.record.phase != "ended":
            newest = self.tokens.read(self.issued[-1], "/a", "ann")
            assert newest is not None
            assert not isinstance(self.record.claimed(newest.generation, "next"), str)


TestSession = Session.TestCase
TestSession.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_token_that_was_changed_anywhere_is_none():
    tokens = Tokens(b"k" * 32)
    token = tokens.issue(Ticket("a-session", 3), "/a", None)
    assert tokens.read(token, "/a", None) == Ticket("a-session", 3)
    for at in range(len(token)):
        other = "A" if token[at] != "A" else "E"
        assert tokens.read(token[:at] + other + token[at + 1 :], "/a", None) is None
    assert tokens.read(token, "/a", "None") is None


def test_the_anonymous_and_numbers_and_words_are_different_identities():
    tokens = Tokens(b"k" * 32)
    whose: list[Any] = [None, "None", 1, "1"]
    issued = [tokens.issue(Ticket("s", 1), "/a", each) for each in whose]
    for mine, token in zip(whose, issued, strict=True):
        good = [other for other in whose if tokens.read(token, "/a", other)]
        assert good == [mine]


def test_a_record_of_another_version_or_of_no_version_is_none():
    record = Record(VERSION, "away", 2, "o", ("a", "b"), b"state", Position("e", 4))
    assert Record.read(record.pack()) == record
    assert Record.read(Record(VERSION + 1, "live", 0, "o").pack()) is None
    assert Record.read(b"") is None
    assert Record.read(b"\xc0") is None
    assert Record.read(record.pack().replace(b"away", b"\xffway")) is None


def test_state_comes_back_as_it_was_or_not_at_all():
    loop: dict[str, Any] = {}
    loop["self"] = loop
    fit = {"a": 1, "b": [None, True, 2.5, "x", b"y", {"z": {}}], 3: "number"}
    data, unfit = packed_state(
        {**fit, "tuple": (1,), "set": {1}, "big": 1 << 70, "o": object(), "loop": loop}
    )
    assert unpacked_state(data) == fit
    assert unfit == ["tuple", "set", "big", "o", "loop"]
    data, unfit = packed_state({"long": "x" * MAX_STATE, "short": "x"})
    assert (unpacked_state(data), unfit) == ({"short": "x"}, ["long"])
    assert len(packed_state(dict.fromkeys(range(100), "x" * 1000))[0]) <= MAX_STATE


KIND = object()


def written(logs: DirectLogs, count: int, *, owner: str = "o", at: float = 0.0) -> DirectLog:
    log = DirectLog("e", KIND, owner)
    for n in range(1, count + 1):
        logs.append(log, b"%d" % n, at)
    return log


def go_on(
    logs: DirectLogs, log: DirectLog | None, record: Record, position: Position | None, **more: Any
) -> Any:
    return logs.go_on(
        log, record, position, **{"owner": "p", "kind": KIND, "known": True, "now": 0.0, **more}
    )


AWAY = Record(VERSION, "away", 0, "o")


def test_a_direct_log_gives_what_is_behind_a_position():
    for position, missed in (
        (Position("e", 1), [b"2", b"3"]),
        (None, [b"1", b"2", b"3"]),
        (Position("e", 3), []),
    ):
        logs = DirectLogs()
        found = go_on(logs, written(logs, 3), AWAY, position)
        assert (found.recovered, found.missed) == (True, missed)
        assert found.position == Position("e", 3 - len(missed))
        assert found.log.owner == "p"


def test_what_the_bounds_let_go_of_is_not_recovered():
    logs = DirectLogs()
    log = written(logs, DIRECT_SIZE + 5)
    assert go_on(logs, log, AWAY, Position("e", 5)).recovered
    log.owner = "o"
    found = go_on(logs, log, AWAY, Position("e", 4))
    assert (found.recovered, found.missed, found.position) == (False, [], Position("e", DIRECT_SIZE + 5))
    log = written(logs, 3)
    assert not go_on(logs, log, AWAY, Position("e", 1), now=DIRECT_TTL + 1).recovered


def test_a_node_without_the_log_knows_by_the_record_whether_anything_is_missing():
    logs = DirectLogs()
    assert go_on(logs, None, AWAY, None).recovered  # nothing was ever sent
    assert not go_on(logs, None, AWAY, None, known=False).recovered  # the former node died: who knows
    away = Record(VERSION, "away", 0, "o", direct=Position("e", 7))
    found = go_on(logs, None, away, Position("e", 7))
    assert (found.recovered, found.position) == (True, Position("e", 7))
    assert not go_on(logs, None, away, Position("e", 6)).recovered
    assert not go_on(logs, None, away, None).recovered


def test_a_log_that_another_node_has_written_on_is_of_no_use():
    logs = DirectLogs()
    elsewhere = Record(VERSION, "away", 1, "q", direct=Position("e", 9))
    found = go_on(logs, written(logs, 3), elsewhere, Position("e", 2))
    assert (found.recovered, found.position, logs.bytes) == (False, Position("e", 9), 0)
    same = Record(VERSION, "away", 1, "q", direct=Position("e", 3))
    assert go_on(logs, written(logs, 3), same, Position("e", 2)).missed == [b"3"]


def test_frames_are_not_for_a_client_of_another_codec():
    logs = DirectLogs()
    assert not go_on(logs, written(logs, 3), AWAY, Position("e", 2), kind=object()).recovered
    found = go_on(logs, written(logs, 3), AWAY, Position("e", 3), kind=object())
    assert (found.recovered, found.position) == (True, Position("e", 3))


def test_the_logs_of_those_who_are_away_are_bounded_and_forgotten_in_time():
    logs = DirectLogs(limit=100)
    logs.put_away("old", written(logs, 9), 0.0)
    log = DirectLog("f", KIND, "o")
    logs.append(log, b"x" * 95, 0.0)
    assert logs.fetch("old") is None
    logs.append(log, b"y" * 60, 0.0)
    assert (logs.bytes, log.lost) == (60, 1)
    logs.put_away("new", log, 1.0)
    logs.expire(RESUME_WINDOW)
    assert len(logs) == 1
    logs.expire(RESUME_WINDOW + 1)
    assert (len(logs), logs.bytes) == (0, 0)
