"""The kit for tests that are no coroutines: the same, with a loop of its own that runs while a call waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from starlette.datastructures import Headers

from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.auth import AuthManager
from aquilia.manifest import AppManifest
from aquilia.sessions import SessionEngine
from aquilia.sockets.connection import DisconnectReason
from aquilia.sockets.envelope import MessageEnvelope, MessageType
from aquilia.testing.client import QUIET, TIMEOUT, Client
from aquilia.testing.clock import ControlledClock
from aquilia.testing.kit import SocketsTest, sockets_test

__all__ = ["SyncClient", "SyncClock", "SyncSocketsTest", "sockets_test_sync"]

T = TypeVar("T")


class _Run(Protocol):
    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


class SyncClient:
    """See `Client`: these are its methods, without `await`."""

    def __init__(self, client: Client, run: _Run) -> None:
        self._client = client
        self._run = run

    @property
    def subprotocol(self) -> str | None:
        """See `Client`."""
        return self._client.subprotocol

    @property
    def headers(self) -> Headers:
        """See `Client`."""
        return self._client.headers

    def send(self, event: str, payload: Any = None) -> None:
        """See `Client`."""
        self._run(self._client.send(event, payload))

    def request(self, event: str, payload: Any = None, *, timeout: float = TIMEOUT) -> Any:
        """See `Client`."""
        __tracebackhide__ = True
        return self._run(self._client.request(event, payload, timeout=timeout))

    def expect(self, event: str, *, type: MessageType = "event", timeout: float = TIMEOUT) -> MessageEnvelope:
        """See `Client`."""
        __tracebackhide__ = True
        return self._run(self._client.expect(event, type=type, timeout=timeout))

    def expect_nothing(self, event: str | None = None, *, within: float = QUIET) -> None:
        """See `Client`."""
        __tracebackhide__ = True
        self._run(self._client.expect_nothing(event, within=within))

    def ack(
        self, message: MessageEnvelope, data: Any = None, *, error: Mapping[str, Any] | None = None
    ) -> None:
        """See `Client`."""
        self._run(self._client.ack(message, data, error=error))

    def closed(self, *, timeout: float = TIMEOUT) -> DisconnectReason:
        """See `Client`."""
        __tracebackhide__ = True
        return self._run(self._client.closed(timeout=timeout))

    def disconnect(self, code: int = 1000, reason: str = "", *, timeout: float = TIMEOUT) -> None:
        """See `Client`."""
        __tracebackhide__ = True
        self._run(self._client.disconnect(code, reason, timeout=timeout))

    def stop_reading(self) -> None:
        """See `Client`."""
        self._client.stop_reading()

    def read_on(self) -> None:
        """See `Client`."""
        self._run(self._read_on())

    async def _read_on(self) -> None:
        self._client.read_on()


class SyncClock:
    """See `ControlledClock`. Only `advance` lets the server work."""

    def __init__(self, clock: ControlledClock, run: _Run) -> None:
        self._clock = clock
        self._run = run

    def monotonic(self) -> float:
        """See `ControlledClock`."""
        return self._clock.monotonic()

    def time(self) -> float:
        """See `ControlledClock`."""
        return self._clock.time()

    @property
    def frozen(self) -> bool:
        """See `ControlledClock`."""
        return self._clock.frozen

    def freeze(self) -> None:
        """See `ControlledClock`."""
        self._clock.freeze()

    def resume(self) -> None:
        """See `ControlledClock`."""
        self._clock.resume()

    def advance(self, seconds: float, *, timeout: float = TIMEOUT) -> None:
        """See `ControlledClock`."""
        __tracebackhide__ = True
        self._run(self._clock.advance(seconds, timeout=timeout))


class SyncSocketsTest:
    """See `SocketsTest`."""

    def __init__(self, test: SocketsTest, run: _Run) -> None:
        self._test = test
        self._run = run
        self.clock = SyncClock(test.clock, run)
        """See `SocketsTest`."""

    @property
    def application(self) -> Application:
        """See `SocketsTest`."""
        return self._test.application

    def connect(
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
    ) -> SyncClient:
        """See `SocketsTest`."""
        __tracebackhide__ = True
        connecting = self._test.connect(
            path,
            identity=identity,
            session=session,
            headers=headers,
            query=query,
            subprotocol=subprotocol,
            token=token,
            hello=hello,
            timeout=timeout,
        )
        return SyncClient(self._run(connecting), self._run)


@contextlib.contextmanager
def sockets_test_sync(
    *subjects: type | AppManifest | Registry,
    services: Sequence[Any] = (),
    middleware: Sequence[Any] = (),
    sessions: SessionEngine | None = None,
    auth: AuthManager | type[AuthManager] | str | None = None,
    overrides: Mapping[Any, Any] | None = None,
    development: bool = False,
    **settings: Any,
) -> Iterator[SyncSocketsTest]:
    """`sockets_test` for a test that is no coroutine. The server works while a call of the test waits, only.

    Raises:
        RuntimeError: a loop runs already: that test can await `sockets_test`.
    """
    if _loop_runs():
        raise RuntimeError("a loop runs already: use `async with sockets_test(…)` here")
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        entered = sockets_test(
            *subjects,
            services=services,
            middleware=middleware,
            sessions=sessions,
            auth=auth,
            overrides=overrides,
            development=development,
            **settings,
        )
        test = runner.run(_enter(entered))
        try:
            yield SyncSocketsTest(test, runner.run)
        finally:
            runner.run(_leave(entered))


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _enter(manager: contextlib.AbstractAsyncContextManager[SocketsTest]) -> SocketsTest:
    return await manager.__aenter__()


async def _leave(manager: contextlib.AbstractAsyncContextManager[SocketsTest]) -> None:
    await manager.__aexit__(None, None, None)
