"""The application of a test, and its clients: all of it but the socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import replace
from typing import Any

from aquilia.aquilary import App, Registry
from aquilia.asgi import Application
from aquilia.auth import AuthManager
from aquilia.manifest import AppManifest
from aquilia.sessions import SessionEngine
from aquilia.sockets.connection import Connection
from aquilia.sockets.declaration import socket_declaration
from aquilia.sockets.faults import CloseCode
from aquilia.sockets.handshake.request import wants_v1
from aquilia.testing.client import TIMEOUT, Client
from aquilia.testing.clock import ControlledClock
from aquilia.testing.handshake import TestIdentities, Upgrade, identified, shake_hands
from aquilia.testing.looptime import two_times
from aquilia.testing.wire import Wire

__all__ = ["SocketsTest", "sockets_test"]


class SocketsTest:
    """An application that runs, and where clients connect to it. `sockets_test` makes it."""

    def __init__(self, application: Application, clock: ControlledClock) -> None:
        self.application = application
        """What is tested: for its services, and the counts of `application.sockets`."""
        self.clock = clock
        """The application's time, which the test may hold and move."""
        application.sockets.on_gone = _gone
        self._wires: list[Wire] = []

    async def connect(
        self,
        path: str,
        *,
        identity: Any = None,
        session: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        subprotocol: str | Sequence[str] = (),
        token: str | None = None,
        hello: bool = True,
        timeout: float = TIMEOUT,
    ) -> Client:
        """A client whose handshake was answered with 101; with a subprotocol of v1, its `hello` as well.

        `identity` has an `id`; handshake middleware and guards find it as if authentication had put it there.
        `token` goes to the app's AuthManager: in `hello` with a subprotocol of v1, else in `Authorization`.
        `session` is what the client's session holds: it comes with a cookie, as if a request before had begun it.
        `subprotocol` is one, or all that the client offers; with `hello=False` a client of v1 keeps silent.
        `@OnConnect` runs behind the handshake: if it raises, `closed` tells.

        Raises:
            HandshakeRefused: the client was not let in.
            TypeError: a `session`, where the application has no sessions; a path that a function serves.
        """
        if session is not None:
            headers = await self._with_session(session, headers or {})
        offered = [subprotocol] if isinstance(subprotocol, str) else subprotocol
        in_hello = token is not None and hello and wants_v1(offered)
        if token is not None and not in_hello:
            headers = {**(headers or {}), "authorization": f"Bearer {token}"}
        upgrade = Upgrade(path, query, headers, offered, identity, self.clock.owns(Context()))
        try:
            async with asyncio.timeout(timeout):
                await shake_hands(self.application, upgrade)
        except TimeoutError:
            raise AssertionError(f"the handshake at {path} was not answered within {timeout:g} s") from None
        self._wires.append(upgrade.wire)
        if upgrade.wire.by_function:
            raise TypeError(
                f"{path!r} is served by a function, whose clients know no envelope: use live_server"
            )
        client = Client(upgrade, self.clock)
        if hello:
            await client._hello(timeout, token if in_hello else None)
        return client

    async def _with_session(self, values: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, str]:
        engines = {id(app.sessions): app.sessions for app in self.application.registry.apps if app.sessions}
        if not engines:
            raise TypeError(
                "session: the application has none; it is declared with sessions=SessionEngine(…)"
            )
        given = {name.lower(): value for name, value in headers.items()}
        cookies = [given["cookie"]] if "cookie" in given else []
        for engine in engines.values():
            session = engine.begin()
            session.update(values)
            await session.save()
            cookies.append(f"{engine.cookie}={engine.sign(session.id)}")
        return {**given, "cookie": "; ".join(cookies)}

    async def _leave(self) -> None:
        """All clients go: a handler that still waits is cancelled then, and need not be waited for."""
        for wire in self._wires:
            wire.leave(CloseCode.GOING_AWAY, "the test is over")
        await asyncio.sleep(0)


def _gone(conn: Connection) -> None:
    wire = conn._transport
    if isinstance(wire, Wire):
        wire.gone.set()


class _Life:
    """The start and the end of an application, in one task as under a server."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._over = asyncio.Event()

    async def begin(self, context: Context) -> None:
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._live(begun), context=context)
        try:
            await asyncio.wait([self._task, begun], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if not begun.done():
            await self._task

    async def _live(self, begun: asyncio.Future[None]) -> None:
        await self._application.startup()
        begun.set_result(None)
        await self._over.wait()
        await self._application.shutdown()

    async def end(self) -> None:
        self._over.set()
        await self._task


@contextlib.asynccontextmanager
async def sockets_test(
    *subjects: type | AppManifest | Registry,
    services: Sequence[Any] = (),
    middleware: Sequence[Any] = (),
    sessions: SessionEngine | None = None,
    auth: AuthManager | type[AuthManager] | str | None = None,
    overrides: Mapping[Any, Any] | None = None,
    development: bool = False,
    **settings: Any,
) -> AsyncIterator[SocketsTest]:
    """Run controllers, manifests or a registry for the length of a test; in the end all clients leave.

        async with sockets_test(ChatSocket, max_connections=2) as t:
            alice = await t.connect("/chat/x")
            assert await alice.request("say", {"text": "hi"}) == "said"

    `services`, `middleware`, `auth`, `sessions` and settings go with controllers, as in
    `AquilaSockets.from_controllers`; manifests have their own. Where `require_auth` holds and there is no
    AuthManager, the `identity` that `connect` is given is what is required. `overrides` puts ready objects in the
    place of services, by the type that they provide. Time is real until the test takes hold of `t.clock`.

    Raises:
        BootError: with every problem of the application.
        TypeError: for a mixture of controllers and manifests.
    """
    registry = _registry(subjects, services, middleware, auth, sessions, settings)
    apps = tuple(_identified(app) for app in registry.apps)
    clock = ControlledClock()
    context = clock.owns(copy_context())
    application = context.run(
        Application,
        replace(registry, apps=apps),
        overrides=overrides,
        environment="development" if development else "production",
    )
    with two_times(asyncio.get_running_loop()):
        life = _Life(application)
        await life.begin(context)
        test = SocketsTest(application, clock)
        try:
            yield test
        finally:
            clock.resume()  # what ends may take its time, and no more
            await test._leave()
            await life.end()


def _identified(app: App) -> App:
    """An app that takes the identities of a test; where one is required, that is what tells them."""
    chosen = [declared for each in app.controllers if (declared := socket_declaration(each)) is not None]
    required = app.manifest.websockets.get("require_auth") or any(each.require_auth for each in chosen)
    auth = TestIdentities() if app.auth is None and required else app.auth
    return replace(app, middleware=(identified, *app.middleware), auth=auth)


def _registry(
    subjects: Sequence[Any],
    services: Sequence[Any],
    middleware: Sequence[Any],
    auth: AuthManager | type[AuthManager] | str | None,
    sessions: SessionEngine | None,
    settings: Mapping[str, Any],
) -> Registry:
    if subjects and all(isinstance(each, type) for each in subjects):
        manifest = AppManifest(
            "test",
            controllers=subjects,
            services=services,
            middleware=middleware,
            auth=auth,
            sessions=sessions,
            websockets=settings,
        )
        return Registry.build([manifest])
    own = {"services": services, "middleware": middleware, "auth": auth, "sessions": sessions}
    if given := [*(name for name, value in own.items() if value), *settings]:
        raise TypeError(f"{', '.join(given)}: only controllers take these, manifests have their own")
    if len(subjects) == 1 and isinstance(subjects[0], Registry):
        return subjects[0]
    if subjects and all(isinstance(each, AppManifest) for each in subjects):
        return Registry.build(subjects)
    raise TypeError(
        f"sockets_test takes controllers, or manifests, or one registry; not {', '.join(map(repr, subjects))}"
        if subjects
        else "sockets_test needs controllers, or manifests, or a registry"
    )
