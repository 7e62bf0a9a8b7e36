"""The first frame of presence, on one node: all who are there, whoever gets it included."""

from __future__ import annotations

from test_presence import change, enter, team, told

from aquilia.sockets import Presence
from aquilia.testing import sockets_test


async def test_the_first_frame_has_who_came_at_once_with_what_it_set_and_nothing_of_it_follows() -> None:
    async with sockets_test(team()) as t:
        ann, bob = await enter(t, "ann"), await enter(t, "bob")
        await bob.request("set", {"status": "here"})
        gone = await enter(t, "gone")
        await gone.request("exit", "team")
        await t.clock.advance(1)
        assert await told(ann, bob) == change(joins={"ann": {}, "bob": {"status": "here"}})
        await t.clock.advance(3)
        for client in (ann, bob, gone):
            await client.expect_nothing("presence")


async def test_who_left_and_is_back_before_the_first_frame_has_one() -> None:
    async with sockets_test(team()) as t:
        ann = await enter(t, "ann")
        await ann.request("exit", "team")
        await ann.request("enter", "team")
        await t.clock.advance(1)
        assert await told(ann) == change(joins={"ann": {}})
        await ann.expect_nothing("presence")


async def test_who_does_not_read_when_it_comes_has_all_as_its_first_frame_once_it_reads() -> None:
    async with sockets_test(team()) as t:
        ann, bob = await enter(t, "ann"), await enter(t, "bob")
        ann.stop_reading()
        await bob.request("flood")
        await t.clock.advance(2)
        assert await told(bob) == change(joins={"ann": {}, "bob": {}})
        await bob.request("set", {"at": 1})
        await t.clock.advance(2)
        ann.read_on()
        await t.clock.advance(2)
        assert await told(ann) == change(joins={"ann": {}, "bob": {"at": 1}})
        await ann.expect_nothing("presence")


async def test_who_comes_to_a_huge_room_is_told_the_same_count_as_all_others_once() -> None:
    async with sockets_test(team(Presence(large=5))) as t:
        t.clock.freeze()
        for number in range(2000):
            await enter(t, f"id{number}", ())
        ann = await enter(t, "ann")
        await t.clock.advance(1)
        assert await told(ann) == {"room": "team", "count": 2001}
        bob = await enter(t, "bob")
        await t.clock.advance(1)
        assert await told(bob) == {"room": "team", "count": 2001}
        await t.clock.advance(2.1)
        assert await told(ann, bob) == {"room": "team", "count": 2002}
        await t.clock.advance(5)
        for client in (ann, bob):
            await client.expect_nothing("presence")
