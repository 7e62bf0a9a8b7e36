"""Who lives, as a node knows it: whatever is lost, late or frozen."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.cluster.nodes import BEAT, LEASE, MAX_NODES, TOUCH, VERSION, Happening, Node, Nodes

SLACK = 1e-6


def beat(id: str, number: int, *, phase: Any = "live", life: int = 0) -> Node:
    return Node(VERSION, id, number, life, phase, 0.0, "host", 1, "print", 0)


@dataclass
class Process:
    """A node, driven by the time of the test."""

    id: str
    nodes: Nodes
    number: int = 0
    heard: dict[str, float] = field(default_factory=dict)
    """When what each of the others told last has come."""
    told: list[tuple[float, Happening]] = field(default_factory=list)


class World:
    """Nodes that beat; the way of each beat takes as long as the test says, or has no end."""

    def __init__(self, names: str, delays: Any) -> None:
        self.now = 0.0
        self.processes = {name: Process(name, Nodes(name, 0.0)) for name in names}
        self.asleep: set[str] = set()
        self.delays = delays
        self._turns = count()
        self._queue: list[tuple[float, int, str, Node | None]] = []
        for offset, name in enumerate(names):
            self._push(offset * 0.1, name, None)

    def _push(self, at: float, name: str, message: Node | None) -> None:
        heapq.heappush(self._queue, (at, next(self._turns), name, message))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, name, message = heapq.heappop(self._queue)
            if name in self.asleep:
                continue
            process = self.processes[name]
            if message is None:
                process.told += [(self.now, each) for each in process.nodes.check(self.now)]
                self._beat(process)
                self._push(self.now + BEAT, name, None)
            else:
                before = process.nodes.others.get(message.id)
                if before is None or message.number > before.number:
                    process.heard[message.id] = self.now
                process.told += [(self.now, each) for each in process.nodes.heard(message, self.now)]
        self.now = until

    def _beat(self, process: Process) -> None:
        process.number += 1
        told = beat(process.id, process.number, life=process.nodes.life)
        for name in self.processes:
            delay = self.delays(process.id, name)
            if delay is not None:
                self._push(self.now + delay, name, told)

    def happened(self, at: str, what: str) -> list[str]:
        return [each.node for _, each in self.processes[at].told if each.what == what]


late = st.floats(0, 0.9)
ways = st.lists(st.one_of(st.none(), late), min_size=50, max_size=400)


def lossy(drawn: list[float | None]) -> Any:
    """Of each two beats on one way at least one comes through, whenever and in whatever order."""
    sent: dict[tuple[str, str], int] = {}
    lost: set[tuple[str, str]] = set()
    turns = count()

    def delay(sender: str, receiver: str) -> float | None:
        way = (sender, receiver)
        sent[way] = sent.get(way, 0) + 1
        drawn_delay = drawn[next(turns) % len(drawn)]
        if sender == receiver:
            return 0.0 if drawn_delay is None else drawn_delay / 10
        if drawn_delay is None and way not in lost and sent[way] > 1:
            lost.add(way)
            return None
        lost.discard(way)
        return drawn_delay or 0.0

    return delay


@given(ways)
def test_a_node_that_beats_is_never_dead_though_beats_are_lost_late_or_overtake_each_other(
    drawn: list[float | None],
) -> None:
    world = World("abc", lossy(drawn))
    world.run(30.0)
    for name, process in world.processes.items():
        assert set(process.nodes.others) == set("abc") - {name}
        assert sorted(world.happened(name, "came")) == sorted(set("abc") - {name})
        assert world.happened(name, "died") == []


@given(ways, st.floats(2.0, 12.0))
def test_one_that_dies_is_known_to_be_dead_within_a_lease_and_a_beat(
    drawn: list[float | None], end: float
) -> None:
    world = World("abc", lossy(drawn))
    world.run(end)
    world.asleep.add("c")
    world.run(end + 10.0)
    for name in "ab":
        process = world.processes[name]
        (died,) = [at for at, each in process.told if each.what == "died"]
        assert LEASE < died - process.heard["c"] <= LEASE + BEAT + SLACK
        assert set(process.nodes.others) == set("ab") - {name}
        assert world.happened(name, "came").count("c") == 1


@given(st.floats(0.1, 60.0), st.floats(0.0, 1.0))
def test_a_node_that_was_frozen_takes_nobody_for_dead_and_says_that_it_was_away(
    frozen: float, phase: float
) -> None:
    """All that came meanwhile waits for it, and comes behind its first look at the clock."""
    nodes, now = Nodes("me", 0.0), 0.0
    nodes.heard(beat("me", 1), now)
    nodes.heard(beat("other", 1), now + phase)
    now += 1.0 + frozen
    assert nodes.check(now) == []
    assert nodes.heard(beat("me", 2), now) == []
    assert nodes.life == (1 if 1.0 + frozen > LEASE else 0)
    for number in range(2, 5):
        now += BEAT
        nodes.heard(beat("me", number + 1), now)
        assert nodes.check(now) == []
        assert "other" in nodes
        nodes.heard(beat("other", number), now)


def test_the_others_take_a_frozen_node_for_dead_and_see_it_come_back() -> None:
    frozen: set[str] = set()
    world = World("abc", lambda sender, receiver: None if {sender, receiver} & frozen else 0.01)
    world.run(5.0)
    frozen.add("c")
    world.run(15.0)
    frozen.clear()
    world.run(20.0)
    for name in "ab":
        assert [each.what for _, each in world.processes[name].told if each.node == "c"][:3] == [
            "came",
            "died",
            "came",
        ]
        assert "c" in world.processes[name].nodes
    assert world.processes["c"].nodes.life == 1
    assert world.happened("c", "died") == []


def test_where_the_broker_was_away_nobody_has_died_and_all_say_that_they_may_have_missed_something() -> None:
    away: list[bool] = []
    world = World("abc", lambda sender, receiver: None if away else 0.01)
    world.run(5.0)
    away.append(True)
    world.run(65.0)
    away.clear()
    world.run(75.0)
    for name, process in world.processes.items():
        others = sorted(set("abc") - {name})
        assert sorted(process.nodes.others) == others
        assert world.happened(name, "died") == []
        assert sorted(world.happened(name, "came")) == sorted(2 * others)


def test_one_that_dies_while_this_one_is_out_of_touch_is_dead_a_lease_after_that() -> None:
    nodes = Nodes("me", 0.0)
    nodes.heard(beat("other", 1), 0.0)
    nodes.heard(beat("me", 1), 10.0)
    for second in (11.0, 12.0, 13.0, 14.0):
        nodes.heard(beat("me", round(second)), second)
        assert nodes.check(second) == []
    nodes.heard(beat("me", 20), 15.0)
    assert nodes.check(15.0) == [Happening("other", "died")]
    assert nodes.check(16.0) == []


def test_a_node_says_that_it_leaves_and_that_it_has_left() -> None:
    nodes = Nodes("me", 0.0)
    assert nodes.heard(beat("other", 1), 0.0) == [Happening("other", "came")]
    assert nodes.heard(beat("other", 2, phase="leaving"), 0.0) == [Happening("other", "leaving")]
    assert nodes.heard(beat("other", 3, phase="leaving"), 0.0) == []
    assert nodes.others["other"].phase == "leaving"
    assert nodes.heard(beat("other", 4, phase="left"), 0.0) == [Happening("other", "left")]
    assert nodes.heard(beat("other", 3, phase="leaving"), 0.0) == []  # it was late
    assert len(nodes) == 0
    assert nodes.heard(beat("third", 1, phase="leaving"), 0.0) == [
        Happening("third", "came"),
        Happening("third", "leaving"),
    ]


def test_late_beats_of_one_that_died_do_not_bring_it_back_and_new_ones_do() -> None:
    nodes = Nodes("me", 0.0)
    nodes.heard(beat("other", 5), 0.0)
    nodes.heard(beat("me", 1), LEASE + 1)
    nodes.heard(beat("me", 2), 2 * LEASE + 2)
    nodes.heard(beat("me", 3), 2 * LEASE + 2 + TOUCH)
    for second in range(1, 6):
        nodes.heard(beat("me", 3 + second), 2 * LEASE + 2 + TOUCH + second)
    assert nodes.check(2 * LEASE + 7 + TOUCH) == [Happening("other", "died")]
    assert nodes.heard(beat("other", 5), 20.0) == []
    assert nodes.heard(beat("other", 6), 20.0) == [Happening("other", "came")]


def test_more_nodes_than_there_can_be_are_refused() -> None:
    nodes = Nodes("me", 0.0)
    for number in range(MAX_NODES):
        nodes.heard(beat(f"n{number}", 1), 0.0)
    with pytest.raises(ValueError, match="more than 1000 nodes"):
        nodes.heard(beat("one more", 1), 0.0)
    assert nodes.heard(beat("n0", 2), 0.0) == []
    assert len(nodes) == MAX_NODES
