"""Which addresses count as one, and how often each may knock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.limits.addresses import AddressRates, address_key


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("testclient", "testclient", True),
        ("testclient", "_hidden", False),
    ],
)
def test_clients_are_told_apart_by_their_address_and_sites_of_ipv6_as_a_whole(
    one: str, other: str, same: bool
) -> None:
    assert (address_key(one) == address_key(other)) is same


def test_each_address_has_a_burst_and_then_the_rate() -> None:
    rates = AddressRates(rate=2, burst=3)
    assert [rates.take("a", 10) for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.take("b", 10) == 0
    assert rates.take("a", 10.5) == 0
    assert rates.take("a", 10.5) == pytest.approx(0.5)


def test_an_address_that_is_refused_need_not_wait_longer_for_it() -> None:
    rates = AddressRates(rate=1, burst=1)
    rates.take("a", 0)
    assert [rates.take("a", 0.5) for _ in range(100)] == [0.5] * 100
    assert rates.take("a", 1) == 0


@given(st.lists(st.floats(0, 5), max_size=100))
def test_no_more_than_rate_and_burst_ever_come_in(waits: list[float]) -> None:
    rates, now, passed = AddressRates(rate=3, burst=2), 0.0, 0
    for wait in waits:
        now += wait
        passed += rates.take("a", now) == 0
        assert passed <= 2 + 3 * now + 1e-6


def test_an_address_is_forgotten_when_its_bucket_is_full_again() -> None:
    rates = AddressRates(rate=1, burst=1)
    for number in range(1000):
        rates.take(f"old {number}", 0)
    assert len(rates) == 1000
    for number in range(1000):
        rates.take(f"new {number}", 1 + number / 1000)
    assert len(rates) == 1000
    rates.take("another", 10)
    assert len(rates) <= 1000
    assert rates.take("old 1", 10) == 0


def test_at_the_bound_the_one_that_came_longest_ago_is_forgotten() -> None:
    rates = AddressRates(rate=0.001, burst=1, limit=3)
    for name in ("a", "b", "c"):
        rates.take(name, 0)
    assert rates.take("a", 1) > 0, "which makes b the one that came longest ago"
    rates.take("d", 2)
    assert len(rates) == 3
    assert rates.take("a", 3) > 0
    assert rates.take("b", 3) == 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0.5)])
def test_rates_that_let_nobody_in_are_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        AddressRates(rate, burst)
