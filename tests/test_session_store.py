"""The promises of stores in memory: ours, and one that a user wrote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest
from session_store_contract import BOUND, PassTime, SessionStoreContract

from aquilia import MemorySessionStore, SessionStore


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Rows:
    """A store of a user's own, over the rows of a table."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rows: dict[tuple[str, str], bytes] = {}
        self._ends: dict[str, float] = {}

    def _there(self, id: str) -> bool:
        if self._ends.get(id, 0) > self._clock():
            return True
        self._ends.pop(id, None)
        self._rows = {place: value for place, value in self._rows.items() if place[0] != id}
        return False

    def _require_fit(self, values: Mapping[str, bytes]) -> None:
        size = sum(len(key.encode()) + len(value) for key, value in values.items())
        if size > BOUND:
            raise ValueError(f"a session of {size} bytes is above max_session_size, {BOUND}")

    async def load(self, id: str) -> Mapping[str, bytes] | None:
        if not self._there(id):
            return None
        return {key: value for (owner, key), value in self._rows.items() if owner == id}

    async def create(self, id: str, values: Mapping[str, bytes], ttl: float) -> None:
        self._require_fit(values)
        self._ends[id] = self._clock() + ttl
        self._rows.update({(id, key): value for key, value in values.items()})

    async def update(
        self, id: str, changes: Mapping[str, bytes], removed: Collection[str], ttl: float
    ) -> int | None:
        if not self._there(id):
            return None
        left_over = {
            key: value for (owner, key), value in self._rows.items() if owner == id and key not in removed
        }
        self._require_fit(left_over | dict(changes))
        for key in removed:
            self._rows.pop((id, key), None)
        await self.create(id, changes, ttl)
        left = sum(1 for owner, _ in self._rows if owner == id)
        if not left:
            await self.delete(id)
        return left

    async def rename(self, id: str, new: str, ttl: float) -> bool:
        values = await self.load(id)
        if values is None:
            return False
        await self.delete(id)
        await self.create(new, values, ttl)
        return True

    async def delete(self, id: str) -> None:
        self._ends.pop(id, None)
        self._there(id)

    async def remaining(self, id: str) -> float | None:
        return self._ends[id] - self._clock() if self._there(id) else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


class _InMemory(SessionStoreContract):
    @pytest.fixture
    def other(self, store: SessionStore) -> SessionStore:
        return store

    @pytest.fixture
    def pass_time(self, clock: Clock) -> PassTime:
        async def pass_time(seconds: float) -> None:
            clock.now += seconds

        return pass_time


class TestMemory(_InMemory):
    @pytest.fixture
    def store(self, clock: Clock) -> SessionStore:
        return MemorySessionStore(max_session_size=BOUND, clock=clock)


class TestRows(_InMemory):
    @pytest.fixture
    def store(self, clock: Clock) -> SessionStore:
        return Rows(clock)


async def test_the_memory_makes_room_by_what_would_expire_first(clock: Clock) -> None:
    store = MemorySessionStore(max_sessions=2, clock=clock)
    await store.create("a", {"x": b"1"}, 10)
    await store.create("b", {"x": b"1"}, 10)
    await store.update("a", {}, (), 10)
    await store.create("c", {"x": b"1"}, 10)
    assert (len(store), store.evicted) == (2, 1)
    assert await store.load("b") is None
    assert await store.load("a") is not None


async def test_expired_sessions_leave_the_memory_and_count_as_no_loss(clock: Clock) -> None:
    store = MemorySessionStore(max_sessions=3, clock=clock)
    for id in "abc":
        await store.create(id, {"x": b"1"}, 10)
    clock.now += 10
    await store.create("d", {"x": b"1"}, 10)
    assert (len(store), store.evicted) == (1, 0)


async def test_a_session_in_memory_has_a_bound(clock: Clock) -> None:
    store = MemorySessionStore(max_session_size=10, clock=clock)
    with pytest.raises(ValueError, match="a session of 11 bytes is above max_session_size, 10"):
        await store.create("a", {"x": b"0123456789"}, 10)
    await store.create("a", {"x": b"01234"}, 10)
    with pytest.raises(ValueError, match="12 bytes"):
        await store.update("a", {"y": b"01234"}, (), 10)
    assert await store.load("a") == {"x": b"01234"}


@pytest.mark.parametrize("bound", [0, -1, 1.5, True, "9"])
def test_bounds_are_whole_numbers_above_zero(bound: object) -> None:
    with pytest.raises(ValueError, match="max_sessions: a whole number above 0 is needed"):
        MemorySessionStore(max_sessions=bound)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_session_size"):
        MemorySessionStore(max_session_size=bound)  # type: ignore[arg-type]
