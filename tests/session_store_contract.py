"""What every store of sessions promises, as tests: a store of your own is tested by them too.

    class TestMyStore(SessionStoreContract):
        @pytest.fixture
        async def store(self): ...

        @pytest.fixture
        async def other(self): ...

        @pytest.fixture
        def pass_time(self): ...

`store` and `other` keep sessions in the same place, as two processes do, with `max_session_size=1000`. `pass_time`
is awaited with the seconds that go by for it: by a clock of the test, or by what the place can do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aquilia import SessionStore

PassTime = Callable[[float], Awaitable[None]]
BOUND = 1000


class SessionStoreContract:
    async def test_what_was_created_is_loaded_by_all(self, store: SessionStore, other: SessionStore) -> None:
        await store.create("a", {"x": b"1", "y": b"2"}, 10)
        assert await store.load("a") == await other.load("a") == {"x": b"1", "y": b"2"}
        assert await store.load("b") is None

    async def test_an_update_changes_its_keys_and_no_others(self, store: SessionStore) -> None:
        await store.create("a", {"x": b"1", "y": b"2", "z": b"3"}, 10)
        assert await store.update("a", {"x": b"4", "n": b"5"}, {"z", "unknown"}, 10) == 3
        assert await store.load("a") == {"x": b"4", "y": b"2", "n": b"5"}

    async def test_concurrent_updates_of_different_keys_all_hold(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        await store.create("a", {"x": b"1", "gone": b"2"}, 60)
        writes = [(store, other)[n % 2].update("a", {f"k{n}": b"%d" % n}, (), 60) for n in range(30)]
        await asyncio.gather(*writes, other.update("a", {}, ["gone"], 60))
        assert await store.load("a") == {"x": b"1"} | {f"k{n}": b"%d" % n for n in range(30)}

    async def test_of_concurrent_removals_one_takes_the_last_key(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        await store.create("a", {str(n): b"" for n in range(10)}, 60)
        removals = [(store, other)[n % 2].update("a", {}, [str(n)], 60) for n in range(10)]
        assert sorted(left or 0 for left in await asyncio.gather(*removals)) == list(range(10))
        assert await store.load("a") is None

    async def test_a_session_without_keys_is_deleted(self, store: SessionStore) -> None:
        await store.create("a", {"x": b"1"}, 10)
        assert await store.update("a", {}, {"x"}, 10) == 0
        assert await store.load("a") is None
        assert await store.update("a", {"x": b"1"}, (), 10) is None

    async def test_no_update_brings_back_what_is_gone(self, store: SessionStore, other: SessionStore) -> None:
        await store.create("a", {"x": b"1"}, 10)
        await other.delete("a")
        assert await store.update("a", {"y": b"2"}, (), 10) is None
        assert await store.load("a") is None
        await store.delete("a")

    async def test_no_update_survives_an_end_at_the_same_time(
        self, store: SessionStore, other: SessionStore
    ) -> None:
        for n in range(5):
            await store.create(f"s{n}", {"x": b"1"}, 10)
            writes = [store.update(f"s{n}", {f"k{m}": b""}, (), 10) for m in range(5)]
            await asyncio.gather(*writes, other.delete(f"s{n}"))
            assert await store.load(f"s{n}") is None

    async def test_a_renamed_session_has_one_id(self, store: SessionStore, other: SessionStore) -> None:
        await store.create("a", {"x": b"1"}, 10)
        assert await store.rename("a", "b", 10)
        assert await other.load("a") is None
        assert await other.load("b") == {"x": b"1"}
        assert not await store.rename("a", "c", 10)
        assert await store.load("c") is None
        assert await store.update("a", {"x": b"2"}, (), 10) is None

    async def test_of_concurrent_renames_one_succeeds(self, store: SessionStore, other: SessionStore) -> None:
        await store.create("a", {"x": b"1"}, 10)
        renames = [(store, other)[n % 2].rename("a", f"b{n}", 10) for n in range(6)]
        renamed = await asyncio.gather(*renames)
        assert renamed.count(True) == 1
        assert [await store.load(f"b{n}") is not None for n in range(6)] == renamed

    async def test_a_session_ends_when_it_was_not_written_for_its_time(
        self, store: SessionStore, pass_time: PassTime
    ) -> None:
        await store.create("a", {"x": b"1"}, 100)
        await pass_time(90)
        assert await store.update("a", {}, (), 100) == 1
        await pass_time(90)
        assert await store.rename("a", "b", 100)
        await pass_time(90)
        assert await store.load("b") == {"x": b"1"}  # which is no use of it
        await pass_time(11)
        assert await store.load("b") is None
        assert await store.update("b", {"x": b"1"}, (), 100) is None
        assert not await store.rename("b", "c", 100)

    async def test_it_tells_how_long_a_session_lives_if_nobody_writes_it(
        self, store: SessionStore, other: SessionStore, pass_time: PassTime
    ) -> None:
        await store.create("a", {"x": b"1"}, 100)
        assert await other.remaining("a") == pytest.approx(100, abs=9)
        await pass_time(50)
        assert await store.remaining("a") == pytest.approx(50, abs=9)
        assert await store.update("a", {"x": b"2"}, (), 100) == 1
        assert await store.rename("a", "b", 200)
        assert await store.remaining("b") == pytest.approx(200, abs=9)
        assert await store.remaining("a") is None
        await pass_time(201)
        assert await store.remaining("b") is None

    async def test_what_was_loaded_is_the_callers_own(self, store: SessionStore) -> None:
        values = {"x": b"1"}
        await store.create("a", values, 10)
        values["x"] = b"2"
        loaded = await store.load("a")
        await store.update("a", {"y": b"3"}, (), 10)
        assert loaded == {"x": b"1"}
        assert await store.load("a") == {"x": b"1", "y": b"3"}

    async def test_any_key_and_any_bytes_come_back(self, store: SessionStore) -> None:
        values = {
            key: key.encode() + bytes(range(256))[::9] for key in ("", "\0", "a\nb", "{x}", "ü 漢 😀", "'")
        }
        await store.create("{a}:*\n'%", values, 10)
        assert await store.load("{a}:*\n'%") == values
        assert await store.update("{a}:*\n'%", {"é": b"\xff"}, ["\0", ""], 10) == 5
        assert await store.load("{a}:*\n'%") == {k: v for k, v in values.items() if k not in ("\0", "")} | {
            "é": b"\xff"
        }

    async def test_ids_of_other_letters_are_other_sessions(self, store: SessionStore) -> None:
        await store.create("a", {"x": b"1"}, 10)
        assert [await store.load(id) for id in ("A", "a ", "á", "a\0")] == [None] * 4

    async def test_many_keys_fit(self, store: SessionStore) -> None:
        many = {f"{n:03}": b"" for n in range(300)}
        await store.create("a", many, 10)
        assert await store.update("a", dict.fromkeys(many, b""), [], 10) == 300
        assert await store.update("a", {"x": b"1"}, list(many), 10) == 1

    async def test_a_session_has_a_bound(self, store: SessionStore) -> None:
        with pytest.raises(ValueError, match="a session of 1001 bytes is above max_session_size, 1000"):
            await store.create("a", {"x": b"0" * BOUND}, 10)
        assert await store.load("a") is None
        await store.create("a", {"x": b"0" * 599}, 10)
        with pytest.raises(ValueError, match="a session of 1100 bytes"):
            await store.update("a", {"y": b"0" * 499}, (), 10)
        assert await store.load("a") == {"x": b"0" * 599}
        assert await store.update("a", {"y": b"0" * 999}, ["x"], 10) == 1
