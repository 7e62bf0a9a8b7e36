"""What leads from the former id of a session to the one that it has now, for connections that know the former alone.

It is kept in the store of the sessions, under a name that nobody's cookie can have. The id in it is masked by the
former: whoever reads the store does not know that one, and learns no id.
"""

from __future__ import annotations

import hashlib
import logging

from aquilia.sessions.store import SessionStore

__all__ = ["follow", "leave"]

logger = logging.getLogger("aquilia.sessions")

_LONGER = 60.0
"""Seconds that a trace outlives the former id: its connections look for it when the time of that is over."""


async def leave(store: SessionStore, former: str, id: str, ttl: float) -> None:
    """Keep the `id` that followed a former one, which lived for `ttl` seconds more at most."""
    try:
        await store.create(_name(former), {"id": _masked(id.encode(), former)}, ttl + _LONGER)
    except Exception as error:  # the session has its new id all the same, and its client has to hear of that
        logger.warning("connections of a session end with its former id: %s", error)


async def follow(store: SessionStore, id: str) -> tuple[str, float | None]:
    """The last id that a session of this one has, as far as there are traces; and how long it lives by that."""
    left = await store.remaining(id)
    while left is None and (found := await store.load(_name(id))) is not None:
        id = _masked(found["id"], id).decode()
        left = await store.remaining(id)
    return id, left


def _name(id: str) -> str:
    return f"{id}~next"


def _masked(data: bytes, id: str) -> bytes:
    """Applied twice it is as it was. One id follows another, so no mask is used for two."""
    mask = hashlib.shake_256(f"next\n{id}".encode()).digest(len(data))
    return bytes(one ^ other for one, other in zip(data, mask, strict=True))
