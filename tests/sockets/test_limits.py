"""Limits that count over time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.limits.buckets import ByteBucket, Strikes, TokenBucket


def test_a_full_bucket_lets_a_burst_pass_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=2, burst=4, now=0)
    assert [bucket.take(0) for _ in range(5)] == [True] * 4 + [False]
    assert [bucket.take(0.5), bucket.take(0.5)] == [True, False]
    assert [bucket.take(100) for _ in range(5)] == [True] * 4 + [False]


def test_a_clock_that_goes_back_refills_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1, now=10)
    assert bucket.take(10)
    assert not bucket.take(5)
    assert not bucket.take(10.5)
    assert bucket.take(11)


@given(st.lists(st.floats(0, 5), max_size=100))
def test_no_more_than_rate_and_burst_ever_pass(waits: list[float]) -> None:
    bucket, now, passed = TokenBucket(rate=3, burst=2, now=0), 0.0, 0
    for wait in waits:
        now += wait
        passed += bucket.take(now)
        assert passed <= 2 + 3 * now + 1e-6


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0.5)])
def test_a_bucket_that_lets_nothing_pass_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst, now=0)


def test_strikes_count_within_their_window() -> None:
    strikes = Strikes(limit=3, window=10)
    assert [strikes.strike(0), strikes.strike(6), strikes.strike(11)] == [False, False, False]
    assert strikes.strike(12)
    assert not strikes.strike(25)


def test_a_message_passes_whole_while_bytes_are_left_and_those_behind_it_wait_for_that() -> None:
    bucket = ByteBucket(rate=100, burst=200, now=0)
    assert [bucket.take(150, 0), bucket.take(250, 0), bucket.take(1, 0)] == [True, True, False]
    assert [bucket.take(1, 2), bucket.take(2, 2.02), bucket.take(1, 2.02)] == [False, True, False]
    assert bucket.take(10**9, 100), "a message of any size passes some day"
    assert not bucket.take(1, 99)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 500)), max_size=100))
def test_no_more_bytes_than_rate_and_burst_and_one_message_ever_pass(
    messages: list[tuple[float, int]],
) -> None:
    bucket, now, passed = ByteBucket(rate=100, burst=200, now=0), 0.0, 0
    for wait, size in messages:
        now += wait
        passed += size * bucket.take(size, now)
        assert passed <= 200 + 100 * now + 500 + 1e-6


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0.5)])
def test_a_bucket_that_lets_no_byte_pass_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        ByteBucket(rate, burst, now=0)
