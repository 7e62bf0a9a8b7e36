"""What the soaks hold against a run: each thing that may not be is seen, and what is excused is not."""

from __future__ import annotations

import pytest
from judgement import judge, presence
from peers import Publisher, Subscriber
from rolling import storms

from aquilia.sockets.drain import reconnection_times

LOG, PLAIN = "room 0", "plain 0"


class Run:
    """One subscriber, which was given all that two publishers said, but what a test changes."""

    def __init__(self) -> None:
        self.publishers = [
            Publisher([1], LOG, "say", range(20), 10, 1),
            Publisher([1], PLAIN, "say", range(20, 40), 10, 1),
        ]
        for publisher in self.publishers:
            publisher.acked = list(publisher.numbers)
        self.subscriber = Subscriber("0", [1], "json", [LOG, PLAIN], 0)
        self.subscriber.sessions, self.subscriber.moved = ["ann"], 1
        self.log, self.plain = self.subscriber.seen[LOG], self.subscriber.seen[PLAIN]

    def give(self, but: int = -1, gap_at: int = -1) -> None:
        for number in range(40):
            seen = self.log if number < 20 else self.plain
            if number == gap_at:
                seen.miss("history_expired", ("e", number) if number < 20 else None)
            if number != but:
                seen.take(("e", number) if number < 20 else ("", 0), number)

    def problems(self) -> list[str]:
        return judge([self.subscriber], self.publishers).problems


async def test_a_run_in_which_all_came_has_no_problem() -> None:
    run = Run()
    run.give()
    assert run.problems() == []


@pytest.mark.parametrize(
    ("but", "gap_at", "problem"),
    [
        (5, -1, "room 0: 1 lost: [(5, None)]"),
        (25, -1, "plain 0: 1 lost without a word: [25]"),
        (25, 30, "plain 0: 1 lost without a word: [25]"),
        (25, 25, None),
        (25, 26, None),
    ],
)
async def test_what_did_not_come_is_lost_but_where_a_gap_was_told(
    but: int, gap_at: int, problem: str | None
) -> None:
    run = Run()
    run.give(but, gap_at)
    assert run.problems() == ([] if problem is None else [f"subscriber 0, {problem}"])


async def test_what_came_twice_or_in_another_order_is_seen() -> None:
    run = Run()
    run.give()
    run.log.items[3], run.log.items[4] = run.log.items[4], run.log.items[3]
    run.log.take(("e", 19), 19)
    run.plain.take(("", 0), 30)
    assert run.problems() == [
        "subscriber 0, room 0: 1 doubled",
        "subscriber 0, room 0: 3 out of order",
        "subscriber 0, plain 0: 1 doubled",
    ]


async def test_what_takes_effect_once_and_did_twice_is_seen_but_where_somebody_was_killed() -> None:
    run = Run()
    run.give()
    run.log.take(("e", 20), 19)
    assert run.problems() == ["room 0: 1 that take effect once did so twice: [19]"]
    run.publishers[0].rough.add(19)
    assert run.problems() == []


async def test_sessions_durable_events_and_a_soak_in_which_nobody_moved_are_looked_at() -> None:
    run = Run()
    run.give()
    run.subscriber.bookings = [1, 2]
    run.subscriber.booked.update([1, 1])
    run.subscriber.sessions, run.subscriber.moved = ["ann", "bob"], 0
    run.subscriber.put_out = [LOG]
    assert run.problems() == [
        "subscriber 0: it had 2 sessions",
        "subscriber 0: it was put out of ['room 0']",
        "subscriber 0: 1 of 2 durable events lost: [2]",
        "subscriber 0: 1 of 2 durable events came twice: [1]",
        "nobody came back to another node",
    ]


async def test_ghosts_are_seen_in_what_servers_say_and_in_what_members_were_told() -> None:
    run = Run()
    run.subscriber.rosters[LOG].ids = {"ann"}
    assert list(presence([run.subscriber], {LOG: [{"ann"}]})) == []
    run.subscriber.rosters[LOG].ids = {"ann", "bob"}
    assert list(presence([run.subscriber], {LOG: [{"ann", "eve"}]})) == [
        "room 0 has 1 members; its presence lacks 0 and has 1 ghosts",
        "subscriber 0 was told of others in room 0 than those who are there",
    ]


@pytest.mark.parametrize("count", [1, 2, 30, 500, 2_000])
def test_clients_that_are_spread_as_a_drain_does_it_are_no_storm(count: int) -> None:
    assert storms({1: reconnection_times(count), 2: [5.0 + time for time in reconnection_times(count)]}) == []


@pytest.mark.parametrize(
    "times",
    [[0.5] * 500, [n / 5_000 for n in range(500)], [n / 50 for n in range(500)]],
    ids=["at once", "within a tenth", "too late"],
)
def test_clients_that_all_come_at_once_are_a_storm(times: list[float]) -> None:
    assert len(storms({1: times})) == 1
