"""The promises of a store, of one node and of several."""

from __future__ import annotations

import asyncio

from aquilia.testing.adapters.contract import Contract, MakeAdapter, Node, running, until
from aquilia.testing.adapters.promises import keeps

__all__ = ["SharedStoreContract", "StoreContract"]

_KEEPS = "The store keeps, swaps and takes; of several at once, one wins"
_EXPIRES = "What is stored expires after its time to live"
_ONE_STORE = "The store is one for all nodes"


def _key(node: Node, name: str) -> str:
    """One that no other test has."""
    return f"{node.namespace} {name}"


class StoreContract(Contract):
    """The store, on one node."""

    @keeps(_KEEPS)
    async def test_the_store_keeps_swaps_and_forgets(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            store, key = node.store, _key(node, "a key, with: anything? *.> ü\n")
            assert await store.get(key) is None
            assert await store.get_and_delete(key) is None
            await store.put(key, b"\x00v")
            assert await store.get(key) == b"\x00v"
            assert not await store.compare_and_swap(key, None, b"w")
            assert not await store.compare_and_swap(key, b"\x00", b"w")
            assert await store.compare_and_swap(key, b"\x00v", b"w")
            assert await store.get_and_delete(key) == b"w"
            assert await store.get(key) is None
            assert not await store.compare_and_swap(key, b"w", b"x")
            assert await store.compare_and_swap(key, None, b"again")
            await store.put(key, b"over it")
            assert await store.get(key) == b"over it"

    @keeps(_KEEPS)
    async def test_a_value_may_be_empty_or_large(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            store, large = node.store, bytes(range(256)) * 1000
            await store.put(_key(node, "empty"), b"")
            assert await store.get(_key(node, "empty")) == b""
            assert not await store.compare_and_swap(_key(node, "empty"), None, b"v")
            assert await store.compare_and_swap(_key(node, "empty"), b"", large)
            assert await store.get_and_delete(_key(node, "empty")) == large

    @keeps(_KEEPS)
    async def test_of_concurrent_takers_one_gets_the_value(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.store.put(_key(node, "k"), b"v")
            taken = await asyncio.gather(*(node.store.get_and_delete(_key(node, "k")) for _ in range(10)))
            assert [value for value in taken if value is not None] == [b"v"]

    @keeps(_KEEPS)
    async def test_of_concurrent_swaps_one_succeeds(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            swaps = [node.store.compare_and_swap(_key(node, "k"), None, b"%d" % n) for n in range(10)]
            won = await asyncio.gather(*swaps)
            assert sorted(won) == [False] * 9 + [True]
            assert await node.store.get(_key(node, "k")) == b"%d" % won.index(True)

    @keeps(_KEEPS)
    async def test_keys_do_not_mix(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            keys = [_key(node, name) for name in ("a", "A", "a ", "a.b", "a*", "ä", "a/b", "%61", "x" * 300)]
            await asyncio.gather(*(node.store.put(key, key.encode()) for key in keys))
            found = await asyncio.gather(*(node.store.get(key) for key in keys))
            assert found == [key.encode() for key in keys]

    @keeps(_EXPIRES)
    async def test_a_value_expires_after_its_time_to_live(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            store = node.store
            put, swapped, kept = (_key(node, name) for name in ("put", "swapped", "kept"))
            await store.put(kept, b"v", 0.3)
            await store.put(kept, b"w")
            await store.put(put, b"v", 0.3)
            assert await store.compare_and_swap(swapped, None, b"v", 0.3)
            assert await store.get(put) == b"v"
            await until(lambda: store.get(put), None)
            await until(lambda: store.get(swapped), None)
            assert await store.get_and_delete(swapped) is None
            assert not await store.compare_and_swap(put, b"v", b"w")
            assert await store.compare_and_swap(put, None, b"new", 30)
            assert await store.get(put) == b"new"
            assert await store.get(kept) == b"w"


class SharedStoreContract(StoreContract):
    """The store, on several nodes."""

    @keeps(_ONE_STORE)
    async def test_a_store_heeds_what_another_node_has_written(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter, 2) as (first, second):
            one, other, key = first.store, second.store, _key(first, "k")
            assert await one.compare_and_swap(key, None, b"1")
            assert not await other.compare_and_swap(key, None, b"2")
            assert await other.compare_and_swap(key, b"1", b"2")
            assert not await one.compare_and_swap(key, b"1", b"3")
            assert await one.compare_and_swap(key, b"2", b"3")
            assert await other.get_and_delete(key) == b"3"
            assert not await one.compare_and_swap(key, b"3", b"4")
            assert await one.compare_and_swap(key, None, b"4", 0.1)
            await until(lambda: other.get(key), None)
            assert not await one.compare_and_swap(key, b"4", b"5")
            assert await one.compare_and_swap(key, None, b"6")
            await one.put(key, b"7")
            assert not await other.compare_and_swap(key, None, b"8")
            assert await other.compare_and_swap(key, b"7", b"8")
            assert await one.get(key) == b"8"

    @keeps(_ONE_STORE)
    async def test_of_swaps_and_takes_on_several_nodes_one_wins(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter, 2) as nodes:
            key = _key(nodes[0], "k")
            swaps = [nodes[n % 2].store.compare_and_swap(key, None, b"%d" % n) for n in range(20)]
            assert sorted(await asyncio.gather(*swaps)) == [False] * 19 + [True]
            taken = await asyncio.gather(*(nodes[n % 2].store.get_and_delete(key) for n in range(20)))
            assert len([value for value in taken if value is not None]) == 1
            assert await nodes[0].store.get(key) is None

    @keeps(_ONE_STORE)
    async def test_no_swap_of_many_on_several_nodes_is_lost(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter, 3) as nodes:
            key = _key(nodes[0], "count")
            await nodes[0].store.put(key, b"0")

            async def count(node: Node) -> None:
                for _ in range(10):
                    while True:
                        value = await node.store.get(key)
                        assert value is not None
                        if await node.store.compare_and_swap(key, value, b"%d" % (int(value) + 1)):
                            break

            await asyncio.gather(*(count(node) for node in nodes))
            assert await nodes[0].store.get(key) == b"30"
