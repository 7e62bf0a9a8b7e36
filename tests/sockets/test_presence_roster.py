"""Who is in a room, as each of several nodes knows it: what is lost, late or told twice leaves no trace."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aquilia.sockets.presence.roster import Look, Roster
from aquilia.sockets.presence.values import Change, Entry, Presence, Whole
from aquilia.sockets.resume.records import packed_presence, unpacked_presence

IDS = ("ada", "bob", "eve")
HELD = 2.0


class Node:
    """A node with one room, which opens and closes, and a member that believes what it is told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lives = 0
        self.room: Roster | None = None
        self.believed: dict[str, dict[str, int]] = {}
        self.wants: set[str] = set()
        self.connections: dict[str, str] = {}

    def open(self) -> Roster:
        if self.room is None:
            self.lives += 1
            self.room = Roster(self.lives, large=1000)
            self.believed = {}
        return self.room

    def whole(self) -> Whole:
        return Whole(self.lives + 1, 0, []) if self.room is None else self.room.whole()

    def look(self, now: float) -> list[Change]:
        changes = []
        more = self.room is not None
        while more and self.room is not None:
            look = self.room.look(now)
            assert not look.joins.keys() & look.leaves.keys()
            self.believed.update(look.joins)
            for id in look.leaves:
                del self.believed[id]
            if look.change is not None:
                changes.append(look.change)
            more = look.more
        if self.room is not None and self.room.idle:
            self.room = None
        return changes


class Nodes(RuleBasedStateMachine):
    """Three nodes, with wires that lose, repeat and mix up."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.count = 0
        self.nodes = {name: Node(name) for name in "XYZ"}
        self.wires: list[tuple[str, str, Change]] = []
        self.dead: set[str] = set()

    def alive(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.name not in self.dead]

    def truth(self) -> set[str]:
        return {id for node in self.alive() for id in node.connections.values()}

    def newest(self) -> dict[str, dict[str, int]]:
        """What each identity has set last, by its connections that live."""
        found: dict[str, tuple[float, int]] = {}
        for node in self.alive():
            for connection, id in node.connections.items():
                assert node.room is not None
                stamp, meta = node.room.meta_of(connection) or (0.0, {})
                found[id] = max(found.get(id, (0.0, 0)), (stamp, meta.get("at", 0)))
        return {id: {"at": at} if at else {} for id, (_, at) in found.items()}

    def take(self, node: Node) -> None:
        for change in node.look(self.now):
            self.wires += [(node.name, other.name, change) for other in self.alive() if other is not node]

    def bring(self, sender: str, receiver: str, change: Change) -> None:
        node = self.nodes[receiver]
        if sender in self.dead or receiver in self.dead or node.room is None:
            return
        if not node.room.heard(sender, change):
            node.wants.add(sender)

    @rule(name=st.sampled_from("XYZ"), id=st.sampled_from(IDS))
    def enter(self, name: str, id: str) -> None:
        node = self.nodes[name]
        if name in self.dead:
            return
        if node.room is None:
            node.wants = set(self.nodes) - {name}
        self.count += 1
        connection = f"c{self.count}"
        node.connections[connection] = id
        node.open().enter(connection, id, self.now)

    @rule(name=st.sampled_from("XYZ"), lost=st.booleans(), data=st.data())
    def part(self, name: str, lost: bool, data: st.DataObject) -> None:
        node = self.nodes[name]
        if not node.connections or node.room is None or name in self.dead:
            return
        connection = data.draw(st.sampled_from(sorted(node.connections)))
        del node.connections[connection]
        node.room.part(connection, self.now + HELD if lost else 0.0)

    @rule(name=st.sampled_from("XYZ"), to=st.sampled_from("XYZ"), data=st.data())
    def resume(self, name: str, to: str, data: st.DataObject) -> None:
        """A client loses its connection, and comes back with its session, here or elsewhere."""
        node, other = self.nodes[name], self.nodes[to]
        if not node.connections or node.room is None or {name, to} & self.dead:
            return
        connection = data.draw(st.sampled_from(sorted(node.connections)))
        kept = node.room.meta_of(connection)
        id = node.connections.pop(connection)
        node.room.part(connection, self.now + HELD)
        if other.room is None:
            other.wants = set(self.nodes) - {to}
        other.connections[connection] = id
        other.open().enter(connection, id, self.now, again=True, kept=kept)
        assert ((other.room and other.room.meta_of(connection)) or (0.0, {})) >= (kept or (0.0, {}))

    @rule(name=st.sampled_from("XYZ"), data=st.data())
    def update(self, name: str, data: st.DataObject) -> None:
        node = self.nodes[name]
        if not node.connections or node.room is None:
            return
        connection = data.draw(st.sampled_from(sorted(node.connections)))
        self.count += 1
        assert node.room.update(connection, {"at": self.count}, self.now)

    @rule(name=st.sampled_from("XYZ"))
    def look(self, name: str) -> None:
        if name not in self.dead:
            self.take(self.nodes[name])

    @rule(seconds=st.floats(0.1, 3.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.wires)
    @rule(data=st.data(), again=st.booleans())
    def arrive(self, data: st.DataObject, again: bool) -> None:
        place = data.draw(st.integers(0, len(self.wires) - 1))
        message = self.wires[place] if again else self.wires.pop(place)
        self.bring(*message)

    @precondition(lambda self: self.wires)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        sender, receiver, _ = self.wires.pop(data.draw(st.integers(0, len(self.wires) - 1)))
        self.nodes[receiver].wants.add(sender)  # it learns that the broker was away

    @rule(name=st.sampled_from("XYZ"), left=st.booleans())
    def die(self, name: str, left: bool) -> None:
        if name in self.dead:
            return
        self.dead.add(name)
        for other in self.alive():
            if other.room is not None:
                if left:
                    other.room.leaving(name, self.now + 5.0)
                other.room.lose(name, self.now)

    @rule(name=st.sampled_from("XYZ"))
    def come_back(self, name: str) -> None:
        """It was taken for dead, and lives."""
        if name not in self.dead:
            return
        self.dead.remove(name)
        for other in self.nodes.values():
            if other.name != name:
                other.wants.add(name)
                self.nodes[name].wants.add(other.name)
        for other_name in self.dead:
            room = self.nodes[name].room
            if room is not None:
                room.lose(other_name, self.now)

    @rule(name=st.sampled_from("XYZ"), data=st.data())
    def ask(self, name: str, data: st.DataObject) -> None:
        node = self.nodes[name]
        if name not in self.dead and node.wants:
            self.resync(node, data.draw(st.sampled_from(sorted(node.wants))))

    def resync(self, node: Node, other: str) -> None:
        node.wants.discard(other)
        if node.room is not None and other not in self.dead:
            node.room.learn(other, self.nodes[other].whole())

    @rule()
    def settle(self) -> None:
        self.now += 10.0
        for _ in range(2):
            for node in self.alive():
                self.take(node)
            for message in self.wires:
                self.bring(*message)
            self.wires = []
            for node in self.alive():
                for other in sorted(node.wants):
                    self.resync(node, other)
        truth = self.truth()
        newest = self.newest()
        for node in self.alive():
            self.take(node)
            if node.room is None:
                assert not node.connections
                continue
            assert set(node.room.shown) == truth
            page = node.room.page(100, None)
            assert [entry.id for entry in page.entries] == sorted(truth)
            assert page.count == len(truth)
            tabs = [id for other in self.alive() for id in other.connections.values()]
            assert {entry.id: entry.connections for entry in page.entries} == {
                id: tabs.count(id) for id in truth
            }
            assert node.room.shown == newest

    @invariant()
    def members_believe_what_is_shown(self) -> None:
        for node in getattr(self, "nodes", {}).values():
            if node.room is not None:
                assert node.believed == node.room.shown


TestNodes = Nodes.TestCase
TestNodes.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def room(large: int = 100) -> Roster:
    return Roster(1, large)


def test_who_is_back_at_once_has_not_been_away() -> None:
    roster = room()
    roster.enter("c1", "ada", 0.0)
    assert roster.look(1.0).joins == {"ada": {}}
    roster.part("c1", 1.5 + HELD)
    away = roster.look(2.0)
    assert (away.change, away.leaves) == (None, {})
    roster.enter("c2", "ada", 2.4)
    assert roster.look(9.0) == Look(None, {}, {}, False)


def test_who_stays_away_has_left_once_that_has_lasted() -> None:
    roster = room()
    roster.enter("c1", "ada", 0.0)
    roster.look(1.0)
    roster.part("c1", 3.5)
    assert roster.page(9, None).entries[0].connections == 0
    assert roster.look(3.4).leaves == {}
    gone = roster.look(3.5)
    assert gone.leaves == {"ada": {}}
    assert gone.change == Change(1, 2, [], ["ada"])
    assert roster.idle
    assert not roster.waits


def test_coming_and_going_between_two_looks_is_nothing() -> None:
    roster = room()
    roster.enter("c1", "ada", 0.0)
    roster.part("c1", 0.0)
    assert not roster.waits
    assert roster.look(1.0) == Look(None, {}, {}, False)


def test_what_is_known_is_newer_than_what_was_kept() -> None:
    roster = room()
    other = Entry("ada", {"at": "there"}, 1.0, 5.0, 1)
    assert roster.heard("other", Change(1, 1, [other], []))
    roster.leaving("other", 10.0)
    roster.enter("c1", "ada", 6.0, again=True, kept=(4.0, {"at": "kept"}))
    (ada,) = roster.page(9, None).entries
    assert (ada.meta, ada.since, ada.connections) == ({"at": "there"}, 1.0, 1)
    roster.enter("c2", "ada", 7.0, again=True, kept=(6.5, {"at": "newer"}))
    assert roster.look(8.0).joins == {"ada": {"at": "newer"}}


def test_a_session_keeps_the_metadata_of_many_rooms_as_far_as_they_fit() -> None:
    kept = {f"room{number}": (1.5, {"x": "x" * 1000}) for number in range(100)}
    assert unpacked_presence(packed_presence({"a": (1.0, {"b": None})})) == {"a": (1.0, {"b": None})}
    data = packed_presence(kept)
    assert 60_000 < len(data) <= 65_536
    assert unpacked_presence(data).items() <= kept.items()
    assert unpacked_presence(packed_presence({})) == {}


def test_the_newest_metadata_of_several_tabs_counts_and_the_next_once_its_tab_has_gone() -> None:
    roster = room()
    roster.enter("c1", "ada", 0.0)
    roster.enter("c2", "ada", 1.0)
    roster.update("c2", {"at": "b"}, 3.0)
    roster.update("c1", {"at": "a"}, 3.0)
    (ada,) = roster.page(9, None).entries
    assert (ada.meta, ada.since, ada.connections) == ({"at": "a"}, 0.0, 2)
    roster.part("c1", 0.0)
    assert roster.look(4.0).joins == {"ada": {"at": "b"}}


def test_a_large_room_counts_until_it_is_clearly_small_again() -> None:
    roster = room(large=10)
    for number in range(11):
        roster.enter(f"c{number}", f"id{number}", 0.0)
    roster.look(1.0)
    assert roster.counting
    counting = []
    for number in range(4):
        roster.part(f"c{number}", 0.0)
        roster.look(2.0)
        counting.append(roster.counting)
    assert counting == [True, True, False, False]


def test_ten_thousand_are_looked_at_in_parts_that_a_broker_takes() -> None:
    roster = room()
    for number in range(10_000):
        roster.enter(f"c{number}", f"id{number}", 0.0)
    changes, joined, more = [], 0, True
    while more:
        look = roster.look(1.0)
        assert look.change is not None
        assert len(look.change.put) <= 256
        changes.append(look.change)
        joined += len(look.joins)
        more = look.more
    assert joined == 10_000
    assert [change.number for change in changes] == list(range(1, len(changes) + 1))


def test_a_page_follows_a_page() -> None:
    roster = room()
    for id in ("d", "a", "c", "b"):
        roster.enter(f"conn-{id}", id, 0.0)
    first = roster.page(3, None)
    assert ([each.id for each in first.entries], first.next, first.count) == (["a", "b", "c"], "c", 4)
    rest = roster.page(3, first.next)
    assert ([each.id for each in rest.entries], rest.next) == (["d"], None)
    assert roster.page(4, None).next is None


def test_clients_of_a_node_that_leaves_are_awaited_elsewhere() -> None:
    roster = room()
    roster.enter("c1", "ada", 0.0)
    entries = [Entry(id, {}, 0.0, 0.0, 1) for id in ("bob", "eve")]
    assert roster.heard("other", Change(1, 1, entries, []))
    roster.look(1.0)
    roster.leaving("other", 10.0)
    roster.lose("other", 2.0)
    assert roster.look(3.0).leaves == {}
    roster.enter("c2", "bob", 4.0)  # it has come here
    roster.part("c2", 0.0)
    roster.enter("c3", "bob", 4.1)
    assert roster.look(5.0).leaves == {}
    roster.part("c3", 0.0)
    assert set(roster.look(6.0).leaves) == {"bob"}
    assert set(roster.look(10.0).leaves) == {"eve"}
    assert not roster.waits


def test_a_hole_is_noticed_and_a_repeat_is_nothing() -> None:
    roster = room()
    ada = Entry("ada", {}, 0.0, 0.0, 1)
    assert not roster.heard("other", Change(1, 3, [ada], []))
    roster.learn("other", Whole(1, 3, [ada]))
    assert roster.heard("other", Change(1, 4, [], ["ada"]))
    assert roster.heard("other", Change(1, 3, [ada], []))
    assert roster.look(1.0) == Look(None, {}, {}, False)
    assert not roster.heard("other", Change(1, 6, [], []))


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"rooms": "team:*"}, TypeError, "a list of room patterns"),
        ({"rooms": ()}, ValueError, "patterns like 'team:*'"),
        ({"rooms": [""]}, ValueError, "patterns like 'team:*'"),
        ({"large": 0}, ValueError, "at least 1 and at most 10000"),
        ({"large": True}, TypeError, "a whole number"),
        ({"meta_bytes": 1 << 20}, ValueError, "at most 16384"),
    ],
)
def test_what_presence_cannot_be_is_refused(
    options: dict[str, object], error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem.replace("*", r"\*")):
        Presence(**options)  # type: ignore[arg-type]


def test_who_has_come_here_already_is_not_awaited_of_a_node_that_leaves_and_tells_of_it_later() -> None:
    roster = room()
    roster.enter("c1", "ada", 1.0)
    roster.look(1.0)
    entries = [Entry(id, {}, 0.0, 0.0, 1) for id in ("ada", "bob")]
    roster.learn("other", Whole(1, 3, entries), until=10.0)
    assert [(who.id, who.connections) for who in roster.page(9, None).entries] == [("ada", 1), ("bob", 1)]
    roster.part("c1", 0.0)
    assert set(roster.look(2.0).leaves) == {"ada"}
