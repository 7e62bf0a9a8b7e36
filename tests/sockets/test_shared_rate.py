"""A rate that many nodes hold together: never too much, and never too little for who has one node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.limits.buckets import TokenBucket
from aquilia.sockets.limits.shared_rate import Level, Share


class Node:
    """One node: its share, and what it has written to the store and not been answered."""

    def __init__(self, rate: float, burst: float) -> None:
        self.share = Share(rate, burst, 0.0)
        self.written: tuple[float, float, float] | None = None

    def tell(self, record: Level, now: float) -> Level:
        share = self.share
        if self.written is not None:
            return record
        level = record.after(share.rate, share.burst, share.used, now)
        self.written = (level.tokens, share.used, now)
        return level

    def hear(self) -> None:
        if self.written is not None:
            self.share.told(*self.written)
            self.written = None


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["take", "flood", "tell", "hear", "wait", "rest"])),
    max_size=120,
)


@given(st.sampled_from([0.5, 1, 4, 40]), st.integers(1, 4), STEPS)
def test_whatever_comes_when_each_further_node_lets_a_second_s_worth_more_through_and_no_more(
    rate: float, nodes: int, steps: list[tuple[int, str]]
) -> None:
    burst, now = max(1.0, 2 * rate), 0.0
    all_nodes = [Node(rate, burst) for _ in range(nodes)]
    record = Level.full(burst, now)
    slack = (nodes - 1) * max(1.0, burst / 2)
    bound = TokenBucket(rate, burst + slack + 0.01, now)
    for which, action in steps:
        node = all_nodes[which % nodes]
        match action:
            case "take" | "flood":
                for _ in range(1 if action == "take" else 100):
                    if node.share.take(1.0, now):
                        assert bound.take(now)
            case "tell":
                record = node.tell(record, now)
            case "hear":
                node.hear()
            case "wait":
                now += 0.07
            case "rest":
                now += 3.0


@given(st.sampled_from([0.5, 1, 4, 40]), st.lists(st.sampled_from(["take", "wait", "rest"]), max_size=200))
def test_one_node_whose_store_answers_at_once_lets_through_what_a_bucket_does(
    rate: float, steps: list[str]
) -> None:
    burst, now = max(1.0, 2 * rate), 0.0
    node, bucket = Node(rate, burst), TokenBucket(rate, burst, 0.0)
    record = Level.full(burst, now)
    for step in steps:
        now += {"take": 0.0, "wait": 0.0625, "rest": 3.0}[step]
        assert node.share.take(1.0, now) is bucket.take(now)
        if node.share.due:
            record = node.tell(record, now)
            node.hear()


def test_half_of_what_may_come_at_once_passes_before_the_store_has_answered() -> None:
    share = Share(50, 100, 0.0)
    assert sum(share.take(1.0, 0.0) for _ in range(100)) == 50


def test_a_node_tells_of_a_quarter_second_s_worth_or_when_it_runs_out() -> None:
    share = Share(40, 80, 0.0)
    assert [share.take(1.0, 0.0) and share.due for _ in range(10)] == [False] * 9 + [True]
    share.told(1.0, share.used, 0.0)
    assert share.take(1.0, 0.0)
    assert share.due


def test_what_is_refused_is_nothing_to_tell_of() -> None:
    share = Share(40, 80, 0.0)
    share.told(0.0, 0.0, 0.0)
    assert not share.take(1.0, 0.0)
    assert not share.due


def test_a_node_alone_holds_the_whole_rate_by_itself() -> None:
    share, now, passed = Share(10, 20, 0.0), 0.0, 0
    for _ in range(100):
        now += 0.1
        for _ in range(5):
            passed += share.take(1.0, now)
            if share.due:
                share.go_alone(now)
    assert 119 <= passed <= 120


def test_a_share_is_forgotten_when_a_new_one_would_let_through_the_same() -> None:
    share = Share(0.1, 1, 0.0)
    assert share.take(1.0, 0.0)
    share.told(-10.0, share.used, 0.0)
    assert not share.forgettable(100)
    assert share.forgettable(111)
    assert not Share(100, 200, 0.0).forgettable(59)


def test_what_the_store_has_is_read_as_it_was_written_and_a_later_version_is_not() -> None:
    level = Level.full(3.5, 17.0)
    assert Level.read(level.pack()) == level
    assert Level.read(Level(2, 17.0, 3.5).pack()) is None
    assert Level.read(b"\xc1") is None
    assert Level.read(None) is None
