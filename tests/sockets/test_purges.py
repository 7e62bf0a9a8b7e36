"""What a node remembers of rooms that were purged."""

from __future__ import annotations

from types import SimpleNamespace

from aquilia.sockets.purges import KEPT, MOST, Purges


def entered(at: float) -> SimpleNamespace:
    """A session whose client entered a room then."""
    return SimpleNamespace(entered=at)


def test_who_entered_before_is_barred_and_who_did_behind_it_is_not() -> None:
    purges = Purges()
    purges.note("/a", "r", 100.0)
    assert purges.bar("/a", "r", entered(99.0), 101.0)
    assert not purges.bar("/a", "r", entered(100.5), 101.0)
    assert not purges.bar("/a", "s", entered(99.0), 101.0)
    assert not purges.bar("/b", "r", entered(99.0), 101.0)
    purges.note("/a", "r", 102.0)
    assert purges.bar("/a", "r", entered(100.5), 103.0)
    assert not purges.bar("/a", "r", None, 103.0)


def test_a_purge_is_forgotten_when_no_session_can_be_older() -> None:
    purges = Purges()
    purges.note("/a", "r", 100.0)
    assert purges.bar("/a", "r", entered(99.0), 99.9 + KEPT)
    assert not purges.bar("/a", "r", entered(99.0), 100.0 + KEPT)
    purges.note("/a", "s", 101.0 + KEPT)
    assert len(purges) == 1


def test_however_many_are_purged_the_newest_are_known() -> None:
    purges = Purges()
    for number in range(MOST + 5):
        purges.note("/a", str(number), 100.0)
    assert len(purges) == MOST
    assert not purges.bar("/a", "4", entered(99.0), 101.0)
    assert purges.bar("/a", "5", entered(99.0), 101.0)
