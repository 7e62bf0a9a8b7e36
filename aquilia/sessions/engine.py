"""The engine: the cookie, and the middleware that loads and saves."""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from itsdangerous import BadData, TimestampSigner
from starlette.requests import HTTPConnection
from starlette.responses import Response

from aquilia.clock import now
from aquilia.sessions.lifetime import LimitedStore
from aquilia.sessions.session import Session
from aquilia.sessions.store import MemorySessionStore, SessionStore
from aquilia.sessions.watcher import SessionWatcher

if TYPE_CHECKING:
    from aquilia.controller import RequestCtx

__all__ = ["SESSION_SECRET", "SessionEngine"]

SESSION_SECRET = "AQ_SESSION_SECRET"
"""The variable of the environment that has the secret, or several with commas between them."""

_SHORTEST_SECRET = 32
_LONGEST_COOKIE = 256
_RENEWED_AFTER = 0.1
_SALT = "aquilia.sessions"
_HOW = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 6265 section 4.1.1, RFC 9110 section 5.6.2
_ATTRIBUTE = re.compile(r"[!-:<-~]+")  # no control, space or semicolon


class SessionEngine:
    """Gives every request and handshake of an app its session: `AppManifest(…, sessions=SessionEngine())`.

    `secret` signs the cookies: 32 bytes or more, by default from the environment's AQ_SESSION_SECRET. Of several the
    first signs, and all are accepted, so that a new one can be put before the old. A session lives `max_age` seconds
    after its last use; that is noted when a tenth of it is over. `max_lifetime` seconds after it began it ends,
    whatever its use, and however often it was rotated; None is never. `secure=None` sets Secure when the request came
    by https or wss. `clock` tells the seconds since 1970.

    It also serves applications of other frameworks: `load` a session, and `finish` with the response.

    Raises:
        ValueError: for arguments that make no safe cookie.
    """

    def __init__(
        self,
        secret: str | bytes | Sequence[str | bytes] | None = None,
        *,
        store: SessionStore | None = None,
        cookie: str = "aquilia_session",
        max_age: int = 14 * 24 * 3600,
        max_lifetime: int | None = None,
        path: str = "/",
        domain: str | None = None,
        secure: bool | None = None,
        http_only: bool = True,
        same_site: Literal["lax", "strict", "none"] = "lax",
        clock: Callable[[], float] = now,
    ) -> None:
        self.cookie, self.max_age, self.path, self.domain = cookie, max_age, path, domain
        self.max_lifetime = max_lifetime
        self.secure = True if same_site == "none" and secure is None else secure
        self.http_only, self.same_site = http_only, same_site
        self._clock = clock
        self.store = MemorySessionStore(clock=clock) if store is None else store
        self._secrets = None if secret is None else [secret] if isinstance(secret, str | bytes) else [*secret]
        if self._secrets is not None and (problem := _secrets_problem(self._secrets)):
            raise ValueError(f"SessionEngine: secret: {problem}")
        if problem := self._cookie_problem():
            raise ValueError(f"SessionEngine: {problem}")
        self._watchers: list[SessionWatcher] = []
        self._listeners: list[Callable[[HTTPConnection, str], None]] = []

    @property
    def store(self) -> SessionStore:
        """Where the sessions are kept."""
        return self._store

    @store.setter
    def store(self, store: SessionStore) -> None:
        self._store = store
        limit = self.max_lifetime
        self._kept_in = store if limit is None else LimitedStore(store, limit, self._clock)

    @property
    def secrets(self) -> list[str | bytes]:
        """Those that it was given, and not those of the environment: `aq doctor` looks at them. Do not show them."""
        return list(self._secrets or ())

    def __repr__(self) -> str:
        return f"<SessionEngine cookie={self.cookie!r} store={type(self.store).__qualname__}>"

    def watch(self, watcher: SessionWatcher) -> Callable[[], None]:
        """Tell `watcher` of the sessions that end, and ask it which are over, until what this returns is called.

        An engine may serve several applications, at once or one after the other: each watches while it runs.
        """
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def hear(self, told: Callable[[HTTPConnection, str], None]) -> Callable[[], None]:
        """Tell of each cookie that is not accepted, and why, until what this returns is called; as in `watch`."""
        self._listeners.append(told)
        return lambda: self._listeners.remove(told)

    def boot_problem(self) -> str | None:
        """Why it cannot run in this environment; it can be declared and compiled all the same."""
        if self._secrets is not None:
            return None
        given = _environment_secrets()
        if not given:
            return f"sessions need a secret: set {SESSION_SECRET}, or pass SessionEngine(secret); {_HOW}"
        problem = _secrets_problem(given)
        return f"{SESSION_SECRET}: {problem}" if problem else None

    async def __call__(
        self, ctx: RequestCtx, call_next: Callable[[RequestCtx], Awaitable[Response]]
    ) -> Response:
        """The middleware of requests and handshakes."""
        session = ctx.session = await self.load(ctx.request)
        return await self.finish(session, ctx.request, await call_next(ctx))

    async def load(self, connection: HTTPConnection) -> Session:
        """The session that the cookie names.

        Without one, with one that is forged or too old, or whose session is gone or was revoked: a new and empty
        session.
        """
        id, age = self._read(connection)
        if id is not None and (stored := await self._kept_in.load(id)) is not None:
            stale = age > self.max_age * _RENEWED_AFTER
            session = self._session(id=id, stored=stored, stale=stale, age=age)
            if not await self._is_over(session, connection):
                return session
            await session.invalidate()  # else it would be good again when the revocation is forgotten
        return self.begin()

    async def _is_over(self, session: Session, connection: HTTPConnection) -> bool:
        """Whether it was revoked. At handshakes that is for others to say: those are refused."""
        if connection.scope["type"] != "http":
            return False
        for watcher in [*self._watchers]:
            if await watcher.over(session):
                return True
        session._accessed = False  # it was not the application who looked
        return False

    def begin(self) -> Session:
        """A new and empty session, which no client has yet."""
        return self._session()

    def _session(self, **known: Any) -> Session:
        return Session(self._kept_in, self.max_age, clock=self._clock, watchers=self._watchers, **known)

    async def finish(self, session: Session, connection: HTTPConnection, response: Response) -> Response:
        """Save the changes, unless the status is 500 or above; the response with what the client is to be told.

        Raises:
            Fault: SESSION_ENDED.
        """
        if response.status_code < 500:
            await session.save()
            await session._renew()
        told, session._cookie = session._cookie, None
        session._sealed = True
        if told is None and (not session._accessed or response.status_code == 101):
            return response
        response = _own(response)
        if response.status_code != 101:
            response.headers.add_vary_header("Cookie")
            if told is not None:
                _keep_private(response)
        if told is not None:
            self._set_cookie(response, self.sign(session.id) if told else None, connection)
        return response

    def sign(self, id: str) -> str:
        """The value of the cookie that names this session: for clients of tests."""
        return self._signer.sign(id).decode()

    def _read(self, connection: HTTPConnection) -> tuple[str | None, float]:
        """The id in a cookie of ours, and the seconds since it was set."""
        cookie = connection.cookies.get(self.cookie, "")
        if not cookie:
            return None, 0.0
        try:
            if len(cookie) > _LONGEST_COOKIE:
                raise ValueError
            id, signed_at = self._signer.unsign(cookie, return_timestamp=True)
        except (BadData, ValueError):
            self._refuse(connection, "the session cookie is not signed by this server")
            return None, 0.0
        age = self._clock() - signed_at.timestamp()  # below 0 where another host's clock is ahead
        if age > self.max_age:
            self._refuse(connection, "the session cookie is too old")
            return None, 0.0
        return id.decode(), age

    def _refuse(self, connection: HTTPConnection, reason: str) -> None:
        for told in self._listeners:
            told(connection, reason)

    def _set_cookie(self, response: Response, value: str | None, connection: HTTPConnection) -> None:
        secure = self.secure
        response.set_cookie(
            self.cookie,
            value or "",
            max_age=self.max_age if value else 0,
            expires=None if value else 0,
            path=self.path,
            domain=self.domain,
            secure=connection.scope.get("scheme") in ("https", "wss") if secure is None else secure,
            httponly=self.http_only,
            samesite=self.same_site,
        )

    @cached_property
    def _signer(self) -> TimestampSigner:
        if problem := self.boot_problem():
            raise RuntimeError(problem)
        return _Signer(self._secrets or _environment_secrets(), self._clock)

    def _cookie_problem(self) -> str | None:
        name = self.cookie
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            return f"cookie: a name of letters, digits and signs such as '_' is needed, not {name!r}"
        if not isinstance(self.max_age, int) or isinstance(self.max_age, bool) or self.max_age < 1:
            return f"max_age: a whole number of seconds above 0 is needed, not {self.max_age!r}"
        limit = self.max_lifetime
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            return f"max_lifetime: a whole number of seconds above 0, or None, is needed, not {limit!r}"
        if not isinstance(self.path, str) or self.path[:1] != "/" or not _ATTRIBUTE.fullmatch(self.path):
            return f"path: a path that begins with '/' is needed, not {self.path!r}"
        if self.domain is not None and not (
            isinstance(self.domain, str) and _ATTRIBUTE.fullmatch(self.domain)
        ):
            return f"domain: a host name is needed, not {self.domain!r}"
        if self.same_site not in ("lax", "strict", "none"):
            return f"same_site: 'lax', 'strict' or 'none' is needed, not {self.same_site!r}"
        if self.same_site == "none" and self.secure is False:
            return "same_site='none' needs Secure, which secure=False leaves out"
        if name.startswith(("__Secure-", "__Host-")) and self.secure is not True:
            return f"cookie: browsers take {name!r} with secure=True only"
        if name.startswith("__Host-") and (self.path != "/" or self.domain is not None):
            return f"cookie: browsers take {name!r} with path '/' and without a domain only"
        return self._store_problem()

    def _store_problem(self) -> str | None:
        if isinstance(self.store, type):
            return f"store: {self.store.__qualname__} is a class; write {self.store.__qualname__}()"
        wanted = ("load", "create", "update", "rename", "delete", "remaining")
        lacking = [name for name in wanted if not callable(getattr(self.store, name, None))]
        return f"store: {self.store!r} is no SessionStore: it lacks {', '.join(lacking)}" if lacking else None


class _Signer(TimestampSigner):
    def __init__(self, secrets: Sequence[str | bytes], clock: Callable[[], float]) -> None:
        keys = [secret.encode() if isinstance(secret, str) else secret for secret in reversed(secrets)]
        super().__init__(keys, salt=_SALT, key_derivation="hmac", digest_method=hashlib.sha256)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock())


def _environment_secrets() -> list[str | bytes]:
    return [secret.strip() for secret in os.environ.get(SESSION_SECRET, "").split(",") if secret.strip()]


def _secrets_problem(secrets: Sequence[Any]) -> str | None:
    """What is wrong with them, without showing any."""
    if not secrets:
        return f"the list is empty; {_HOW}"
    for place, secret in enumerate(secrets):
        which = f"the secret at [{place}]" if len(secrets) > 1 else "the secret"
        if not isinstance(secret, str | bytes):
            return f"{which} is a {type(secret).__name__}: a string or bytes are needed"
        size = len(secret.encode() if isinstance(secret, str) else secret)
        if size < _SHORTEST_SECRET:
            return f"{which} has {size} bytes, and {_SHORTEST_SECRET} are needed; {_HOW}"
    return None


def _keep_private(response: Response) -> None:
    """Let no shared cache give one client's cookie to others: only a response that says so is not theirs to keep.

    RFC 9111 section 7.3.
    """
    given = [each.strip() for each in response.headers.get("cache-control", "").lower().split(",")]
    names = [each.partition("=")[0].strip() for each in given]
    if "no-store" in names or "private" in given:
        return
    kept = [each for each, name in zip(given, names, strict=True) if name not in ("", "public", "s-maxage")]
    response.headers["cache-control"] = ", ".join(["private", *kept])


def _own(response: Response) -> Response:
    """A copy with headers of its own: handlers may answer everybody with one and the same response."""
    mine = copy.copy(response)
    mine.raw_headers = [*response.raw_headers]
    vars(mine).pop("_headers", None)  # Starlette's view of the other's
    return mine
