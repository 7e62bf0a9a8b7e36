"""One command that waits for its answer."""

from __future__ import annotations

import asyncio
from typing import Any

from aquilia.sockets.adapters.redis.link import Link
from aquilia.sockets.faults import ws_adapter_unavailable, ws_publish_failed

__all__ = ["Call", "has_moved", "is_for_later", "is_of_the_way", "is_on_its_way", "not_allowed", "refused"]

MOVED = ("MOVED", "READONLY", "CLUSTERDOWN", "MASTERDOWN")
"""Codes with which a server has done nothing, as another one has the share, or nobody:"""
UNREADY = ("LOADING", "NOSCRIPT")
"""or as it has to be told something first, or to read its files;"""
ON_ITS_WAY = ("ASK", "TRYAGAIN")
"""or as the share is on its way to another server;"""
BUSY = (*ON_ITS_WAY, "NOREPLICAS", "BUSY")
"""or for something else that concerns what was said alone, and will pass."""
DENIED_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")
"""What is said, since 7.2 and in 7.0, where the login of a script lacks something."""


class Call:
    """What was said, and who waits for the answer."""

    __slots__ = ("again", "began", "command", "future", "held", "link", "share", "synced", "until", "why")

    def __init__(self, share: int, command: bytes, until: float, *, again: bool, synced: bool) -> None:
        loop = asyncio.get_running_loop()
        self.share = share
        self.command = command
        self.began = loop.time()
        self.until = until
        """When it is given up, by the loop's time."""
        self.future: asyncio.Future[Any] = loop.create_future()
        self.again = again
        """It may be said again where it is not known whether it was done."""
        self.synced = synced
        """Replicas have to have it."""
        self.held: Any = None
        """The answer, while they have not."""
        self.link: Link | None = None
        """Where it was said; None while it waits."""
        self.why: Exception | None = None
        """With what it was last refused, if it may be said again."""

    def fail(self, error: Exception) -> None:
        """Tell who waits that nothing comes of it."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # who waited for it may be gone


def is_for_later(refusal: Exception) -> bool:
    """Whether it was not done, and may be said again."""
    return _code(refusal) in MOVED + UNREADY + BUSY


def is_of_the_way(refusal: Exception) -> bool:
    """Whether something has to be mended, so that it is done."""
    return _code(refusal) in MOVED + UNREADY


def is_on_its_way(refusal: Exception) -> bool:
    """Whether the share is between two servers."""
    return _code(refusal) in ON_ITS_WAY


def has_moved(refusal: Exception) -> bool:
    """Whether somebody else has the share now, or nobody."""
    return _code(refusal) in MOVED


def _code(refusal: Exception) -> str:
    return str(refusal).partition(" ")[0]


def refused(refusal: Exception, where: str, prefix: str) -> Exception:
    """What a server's refusal means for who asked."""
    words = str(refusal)
    code = _code(refusal)
    if code == "OOM":
        return ws_publish_failed(
            f"{where} did not take it: its memory is full (maxmemory): give it more, or let rooms remember less"
        )
    if code == "NOPERM" or any(said in words for said in DENIED_IN_SCRIPT):
        return ws_adapter_unavailable(not_allowed(words, where, prefix))
    if is_for_later(refusal):
        return ws_adapter_unavailable(f"{where} cannot do it now: {words}")
    if code == "MISCONF":
        return ws_publish_failed(
            f"{where} did not take it, as it cannot write to its disk: see its log ({words})"
        )
    return ws_publish_failed(f"{where} did not take it: {words}")


def not_allowed(words: str, where: str, prefix: str) -> str:
    """What a login lacks."""
    return (
        f"{where} does not allow it to this login ({words}): allow it what `ACL SETUSER app ~{prefix}:* &{prefix}:* "
        "+@read +@write +@connection +@pubsub -@dangerous +evalsha +script|load +time +info +wait "
        "+cluster|slots` does"
    )
