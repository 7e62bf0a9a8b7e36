"""Which Redis server has which share: the one of the URL, the master that sentinels name, or those of a cluster."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from aquilia.sockets.adapters.redis.dial import Address, DialError, ask_sentinel, dial, shown
from aquilia.sockets.adapters.redis.link import Link, Refusal
from aquilia.sockets.adapters.redis.login import Login
from aquilia.sockets.adapters.redis.names import SHARES, slot_of
from aquilia.sockets.adapters.redis.url import Target

__all__ = ["owners"]

_SLOT_OF_SHARE = [slot_of(share) for share in range(SHARES)]


async def owners(target: Target, links: Iterable[Link], login: Login) -> Sequence[Address]:
    """The address of the server that has each share, as somebody knows who is there now.

    Raises:
        DialError: nobody does.
    """
    if target.mode == "single":
        return [target.hosts[0]] * SHARES
    if target.mode == "sentinel":
        return [await _master(target, login)] * SHARES
    return await _masters(target, links, login)


async def _master(target: Target, login: Login) -> Address:
    failures: list[DialError] = []
    for address in random.sample(target.hosts, len(target.hosts)):
        try:
            found = await ask_sentinel(target, address, login)
        except DialError as error:
            failures.append(error)
            continue
        if found is not None:
            return found
        words = (
            f"the sentinel at {shown(address)} watches no master called {target.service!r}: see service=NAME"
        )
        failures.append(DialError(words, refused=True))
    raise _all_of(failures)


async def _masters(target: Target, links: Iterable[Link], login: Login) -> Sequence[Address]:
    failures: list[DialError] = []
    for link in [link for link in links if link.alive]:
        try:
            return _by_share(await link.ask("CLUSTER", "SLOTS"), None)
        except (Refusal, OSError, DialError) as error:
            failures.append(error if isinstance(error, DialError) else DialError(str(error)))
    for address in random.sample(target.hosts, len(target.hosts)):
        try:
            found = await _told_by(target, address, login)
        except DialError as error:
            failures.append(error)
        else:
            return found
    raise _all_of(failures)


async def _told_by(target: Target, address: Address, login: Login) -> Sequence[Address]:
    link = await dial(target, address, login, replica=True)
    try:
        return _by_share(await link.ask("CLUSTER", "SLOTS"), address)
    except Refusal as error:
        words = (
            f"Redis at {shown(address)} does not tell who has what: {error}: allow this login +cluster|slots"
        )
        raise DialError(words, refused=True) from error
    except OSError as error:
        raise DialError(f"Redis at {shown(address)} ended the connection ({error})") from error
    finally:
        link.end()


def _by_share(slots: Sequence[Any], asked: Address | None) -> Sequence[Address]:
    """Of the answer to CLUSTER SLOTS: ranges, each with its master and then the replicas."""
    ranges = [(first, last, _address(nodes[0], asked)) for first, last, *nodes in slots]
    found = []
    for slot in _SLOT_OF_SHARE:
        owner = next((address for first, last, address in ranges if first <= slot <= last), None)
        if owner is None:
            raise DialError(f"nobody in the cluster has slot {slot}: see CLUSTER INFO")
        found.append(owner)
    return found


def _address(node: Sequence[Any], asked: Address | None) -> Address:
    """A null as the host is that of who was asked, and so is an empty one (CLUSTER SLOTS)."""
    if node[0]:
        return node[0].decode(), node[1]
    if asked is None:
        raise DialError("the cluster does not say where its servers are")
    return asked[0], node[1]


def _all_of(failures: Sequence[DialError]) -> DialError:
    """One that has to be acted on says more than one that is down."""
    refused = any(failure.refused for failure in failures)
    words = {str(failure) for failure in failures if failure.refused == refused}
    return DialError("; ".join(sorted(words)), refused=refused)
