"""The identity of a connection that is open, and its session: until when they are good, and how one is renewed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aquilia.auth import Authenticator, Identity, expiry
from aquilia.faults import Fault, FaultEngine
from aquilia.sessions import Session
from aquilia.sockets.answers import ack, close_with, fault_of, internal_error_in_opening
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import (
    ws_auth_required,
    ws_connection_timeout,
    ws_message_invalid,
    ws_overloaded,
    ws_token_expired,
    ws_unsupported_event,
)
from aquilia.sockets.handshake.authentication import authenticated, require_same, seconds_left
from aquilia.sockets.tasks import TaskSet, own_error, pass_on

__all__ = ["Credentials"]

logger = logging.getLogger("aquilia.sockets")

LOOK_AGAIN = 3600.0
"""Seconds after which it is looked again how long an identity is good: the system's clock may have been set."""
ASK_AGAIN = 1.0
"""Seconds after which a store that could not be reached is asked again whether it has a session."""

Answer = Callable[[Connection, Fault, MessageEnvelope | None], None]


class Credentials:
    """Those of one controller's connections. The guards of a connection's rooms have `patience` seconds.

    `sessions`: whether connections end when their session expires.
    """

    def __init__(
        self,
        contract: SocketContract,
        engine: FaultEngine,
        tasks: TaskSet,
        answer: Answer,
        *,
        patience: float,
        sessions: bool = False,
    ) -> None:
        self._auth = contract.auth
        self._patience = patience
        self._where = f"auth of {contract.controller.__qualname__}"
        self._engine = engine
        self._tasks = tasks
        self._answer = answer
        self._renewing: dict[Connection, asyncio.Task[None] | None] = {}
        self._sessions = sessions
        self._asking: dict[Connection, asyncio.Task[None] | None] = {}

    def watch(self, conn: Connection) -> None:
        """End the connection when its identity expires, or its session, which may be now."""
        conn._cancel_timer()
        left = seconds_left(conn.identity)
        if left is not None and left <= 0:
            self._answer(conn, ws_token_expired(), None)
            return
        due = self._session_left(conn)
        waits = [each for each in (left, due) if each is not None and each > 0]
        if waits:
            conn._timer = asyncio.get_running_loop().call_later(min(*waits, LOOK_AGAIN), self.watch, conn)
        if due is not None and due <= 0:
            self._asking[conn] = None
            task = self._tasks.start(self._ask(conn, conn.session), conn._context.copy())
            if task is not None:
                self._asking[conn] = task

    def _session_left(self, conn: Connection) -> float | None:
        """How long its session lives for all that is known here; None: nobody waits for that."""
        if not self._sessions or conn in self._asking or not isinstance(conn.session, Session):
            return None
        return conn.session._seconds_at_least()

    async def _ask(self, conn: Connection, session: Session) -> None:
        """Ask the store whether others have used the session meanwhile, until it answers."""
        said = False
        try:
            while True:
                try:
                    left = await session.seconds_left()
                    break
                except Exception as error:
                    if not said:
                        said = True
                        logger.warning("whether the session of %s is over is asked again: %s", conn.id, error)
                await asyncio.sleep(ASK_AGAIN)
        finally:
            self._asking.pop(conn, None)
        if conn._close is not None:
            return
        if left is None:
            self._answer(conn, ws_token_expired("the session has expired"), None)
        else:
            self.watch(conn)

    def renew(self, conn: Connection, envelope: MessageEnvelope) -> None:
        """The control frame `auth`. It does not queue behind a handler, so there is one at a time.

        Raises:
            SocketFault: where it cannot even be tried.
        """
        if self._auth is None:
            raise ws_unsupported_event("auth")
        asked = conn._codec.plain(envelope.payload)
        token = asked.get("token") if isinstance(asked, dict) else None
        if not isinstance(token, str) or not token:
            raise ws_message_invalid("the payload of auth is a map with a token")
        if conn.identity is None:
            raise ws_auth_required(
                "the connection is anonymous: a token comes with the handshake, or in hello"
            )
        if conn in self._renewing:
            raise ws_overloaded("another auth of this connection is under way")
        self._renewing[conn] = None
        task = self._tasks.start(self._renewed(self._auth, conn, envelope, token), conn._context.copy())
        if task is not None:
            self._renewing[conn] = task

    def forget(self, conn: Connection) -> None:
        """The connection is gone: nobody waits for its `auth` any more, nor for its session."""
        for waiting in (self._renewing, self._asking):
            task = waiting.pop(conn, None)
            if task is not None:
                task.cancel()

    async def _renewed(
        self, auth: Authenticator, conn: Connection, envelope: MessageEnvelope, token: str
    ) -> None:
        try:
            identity = await authenticated(auth, token)
            require_same(conn.identity, identity, "auth")
            if conn._close is None:
                await self._take(conn, identity)
        except (Exception, asyncio.CancelledError) as error:
            own = own_error(error, meant=conn._close is not None)
            fault = fault_of(self._engine, own, self._where, conn)
            if conn._close is None:
                self._answer(conn, fault, envelope)
            del own, fault  # whose tracebacks lead back to this frame
            pass_on(error)
            return
        finally:
            self._renewing.pop(conn, None)
        if conn._close is None and envelope.id is not None:
            moment = expiry(identity)
            conn._push_urgent(ack(envelope, None if moment is None else {"expires": int(moment * 1000)}))

    async def _take(self, conn: Connection, identity: Identity) -> None:
        """It is who the connection is from here on, and where it may not be any more it is not."""
        former, conn.identity = conn.identity, identity
        self.watch(conn)
        if conn._close is not None or _same_rights(former, identity):
            return
        try:
            async with asyncio.timeout(self._patience) as timer:
                await conn._hub.review(conn)
        except (Exception, asyncio.CancelledError) as error:
            if conn._close is not None:
                raise
            # Nobody knows where it may be: as who comes back it is asked again.
            own = own_error(error, meant=False)
            if isinstance(own, TimeoutError) and timer.expired():
                close_with(conn, ws_connection_timeout("the guards of its rooms took too long"))
            else:
                close_with(
                    conn, fault_of(self._engine, own, self._where, conn, internal=internal_error_in_opening)
                )
            del own  # whose traceback leads back to this frame
            pass_on(error)


def _same_rights(former: Any, identity: Identity) -> bool:
    """Whether only the token is another."""
    return isinstance(former, Identity) and (
        (former.type, former.roles, former.scopes, former.attributes)
        == (identity.type, identity.roles, identity.scopes, identity.attributes)
    )
