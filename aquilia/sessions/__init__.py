"""Sessions: values that the server keeps for a client, found again by a signed cookie.

    manifest = AppManifest("shop", controllers=[Login, CartSocket], sessions=SessionEngine())

    @POST("/login")
    async def login(self, ctx: RequestCtx, body: Credentials) -> None:
        ctx.session.login(await self.users.check(body))

The cookie holds nothing but the session's id, signed; the values are in a `SessionStore`.
"""

from __future__ import annotations

from aquilia.sessions.engine import SESSION_SECRET, SessionEngine
from aquilia.sessions.redis_store import RedisSessionStore
from aquilia.sessions.session import Session, session_ended
from aquilia.sessions.sql_store import SQLSessionStore
from aquilia.sessions.store import MemorySessionStore, SessionStore
from aquilia.sessions.watcher import SessionWatcher

__all__ = [
    "SESSION_SECRET",
    "MemorySessionStore",
    "RedisSessionStore",
    "SQLSessionStore",
    "Session",
    "SessionEngine",
    "SessionStore",
    "SessionWatcher",
    "session_ended",
]
