"""Whose connections there are: publications to an identity, and what is left when they have gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from house import House, heard, turns

from aquilia.sockets.identities import Identities


async def opened() -> House:
    house = House()
    await house.hub.start()
    await house.hub.enter(house.home)
    return house


async def tell(house: House, identity: str, payload: Any = "hi", **options: Any) -> None:
    await house.hub.publish("/n", "e", payload, identity=identity, **options)
    await turns()


async def test_a_publication_to_an_identity_reaches_all_its_connections_and_no_others() -> None:
    house = await opened()
    anns = [house.connect(identity="ann") for _ in range(3)]
    others = [house.connect(identity="bob"), house.connect()]

    await tell(house, "ann")
    await tell(house, "nobody")

    assert [heard(conn) for conn in anns] == [["hi"]] * 3
    assert [heard(conn) for conn in others] == [[], []]


async def test_the_one_who_publishes_may_be_left_out() -> None:
    house = await opened()
    first, second = house.connect(identity="ann"), house.connect(identity="ann")

    await tell(house, "ann", exclude=first.id)

    assert (heard(first), heard(second)) == ([], ["hi"])


async def test_a_connection_is_found_by_the_identity_that_it_has_now() -> None:
    house = await opened()
    conn, other = house.connect(), house.connect(identity="ann")

    conn.identity = SimpleNamespace(id="ann")
    await tell(house, "ann", 1)
    conn.identity = SimpleNamespace(id="bob")
    await tell(house, "ann", 2)
    await tell(house, "bob", 3)
    conn.identity = None
    await tell(house, "bob", 4)

    assert (heard(conn), heard(other)) == ([1, 3], [1, 2])


async def test_direct_publications_and_broadcasts_keep_their_order() -> None:
    house = await opened()
    ann = house.connect(identity="ann")
    for n in range(50):
        await house.hub.publish("/n", "e", n, identity="ann" if n % 2 else None)
    await turns()

    assert heard(ann) == list(range(50))


async def test_who_has_gone_leaves_nothing_behind() -> None:
    house = await opened()
    conns = [house.connect(identity=name) for name in ("ann", "ann", "bob", "bob", "bob", "carl", None)]
    conns[5].identity = None
    assert len(house.home.identities) == 2

    for conn in conns:
        house.hub.forget(conn)
        house.hub.forget(conn)
        conn.identity = SimpleNamespace(id="late")  # it may still be told who it was

    assert len(house.home.identities) == 0


def test_who_is_anonymous_takes_no_room() -> None:
    identities = Identities()
    conn: Any = object()

    for nobody in (None, SimpleNamespace(id=None), "a name alone"):
        identities.add(nobody, conn)
        identities.remove(nobody, conn)
    identities.remove(SimpleNamespace(id="never there"), conn)

    assert len(identities) == 0
