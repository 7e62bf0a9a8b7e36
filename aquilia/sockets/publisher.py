"""`Publisher`: send events from a program that serves nobody: a job, a script, a web application of another kind.

It asks a node of the application, by their broker, to publish: so an event is checked by the controller's own
contract, and reaches what a room remembers, and who publishes has the report.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from aquilia.clock import Clock
from aquilia.sockets.admin.operations import ORDER, PATIENCE_OF_GUESTS
from aquilia.sockets.admin.orders import Broadcast, Order, PublishIdentity, PublishRoom, Report
from aquilia.sockets.cluster.guest import Guest, guest_at
from aquilia.sockets.faults import ws_adapter_unavailable, ws_message_invalid

__all__ = ["Publisher", "SyncPublisher"]

Done = TypeVar("Done")


class Publisher:
    """Publishes to the application whose nodes are at a broker::

        async with Publisher("nats://127.0.0.1:4222/myapp") as publisher:
            await publisher.publish_room("/chat/acme", "general", "notice", {"text": "hi"})

    One is enough for a program, and may be used by several tasks of the loop that entered it. When it was left, it
    may be entered again, in any loop. A node of the application has to run. Outside of `async with` it raises
    RuntimeError.

    Raises:
        ValueError: the URL is none of `nats://`, `tls://` and `local://`, or what it needs is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._guest: Guest = guest_at(url, "Publisher", Clock.current())
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where it is open."""
        self._used = False

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: the broker cannot be reached.
            RuntimeError: it is open already.
            ValueError: `local://` leads to no application that runs any more.
        """
        if self._loop is not None:
            raise RuntimeError("Publisher: it is open already: enter it once, or make another one")
        if self._used:  # the other one belongs to a loop that may be gone
            self._guest = guest_at(self._url, "Publisher", Clock.current())
        self._loop, self._used = asyncio.get_running_loop(), True
        try:
            await self._guest.start()
        except BaseException:
            self._loop = None
            await self._guest.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop = None
        await self._guest.stop()

    async def broadcast(self, namespace: str, event: str, payload: Any = None) -> Report:
        """Send an event to every connection of a namespace. To how many it went, on each node.

        Raises:
            SocketFault: WS_NAMESPACE_NOT_FOUND; WS_UNSUPPORTED_EVENT for what its controller does not declare by
                `Emits`; WS_PUBLISH_FAILED for a payload that does not fit; WS_ADAPTER_UNAVAILABLE where there is no
                broker or no node, or the node that was asked has not answered: then it may have been published.
        """
        given = {"namespace": namespace, "event": event, "payload": payload}
        return await self._order("broadcast", Broadcast, given)

    async def publish_room(self, namespace: str, room: str, event: str, payload: Any = None) -> Report:
        """Send an event to the members of a room, and into what it remembers. Raises what `broadcast` does."""
        given = {"namespace": namespace, "room": room, "event": event, "payload": payload}
        return await self._order("publish-room", PublishRoom, given)

    async def publish_identity(self, namespace: str, id: str, event: str, payload: Any = None) -> Report:
        """Send an event to the connections of an identity in a namespace. Raises what `broadcast` does."""
        given = {"namespace": namespace, "identity": id, "event": event, "payload": payload}
        return await self._order("publish-identity", PublishIdentity, given)

    async def _order(self, name: str, kind: type[Order], given: dict[str, Any]) -> Report:
        if self._loop is not asyncio.get_running_loop():
            where = "inside of `async with`" if self._loop is None else "in the event loop that entered it"
            raise RuntimeError(f"Publisher: use it {where}")
        try:
            order = msgspec.convert(given, kind)
        except msgspec.ValidationError as error:
            raise ws_message_invalid(str(error)) from None
        node = await self._guest.host()
        told = await self._guest.ask(ORDER, (name, order), timeout=PATIENCE_OF_GUESTS, node=node)
        if (fault := told.faults.get(node)) is not None:
            raise fault
        if node not in told.by_node:
            raise ws_adapter_unavailable(f"node {node} has not answered: it may have published, or not")
        return msgspec.convert(told.by_node[node], Report)


class SyncPublisher:
    """The same for programs without an event loop, as Celery's tasks, cron jobs and Django's views::

        with SyncPublisher("nats://127.0.0.1:4222/myapp") as publisher:
            publisher.publish_room("/chat/acme", "general", "notice", {"text": "hi"})

    It has a thread with a loop between `with` and its end, and may be used by several threads. Enter it in the
    process that uses it: after a fork, if there is one. Elsewhere, and outside of `with`, it raises RuntimeError.

    Raises:
        ValueError: see `Publisher`.
    """

    def __init__(self, url: str) -> None:
        self._publisher = Publisher(url)
        self._running: _Running | None = None

    def __enter__(self) -> Self:
        """Connect. Raises what `Publisher` does."""
        if self._running is not None:
            raise RuntimeError("SyncPublisher: it is open already: enter it once, or make another one")
        self._running = running = _Running()
        try:
            running.wait(self._publisher.__aenter__())
        except BaseException:
            self._running = None
            running.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running, self._running = self._running, None
        if running is None or running.elsewhere:  # what a fork took along is not this process's to close
            return
        try:
            running.wait(self._publisher.__aexit__(None, None, None))
        finally:
            running.end()

    def broadcast(self, namespace: str, event: str, payload: Any = None) -> Report:
        """See `Publisher.broadcast`."""
        return self._wait(self._publisher.broadcast(namespace, event, payload))

    def publish_room(self, namespace: str, room: str, event: str, payload: Any = None) -> Report:
        """See `Publisher.publish_room`."""
        return self._wait(self._publisher.publish_room(namespace, room, event, payload))

    def publish_identity(self, namespace: str, id: str, event: str, payload: Any = None) -> Report:
        """See `Publisher.publish_identity`."""
        return self._wait(self._publisher.publish_identity(namespace, id, event, payload))

    def _wait(self, coroutine: Coroutine[Any, Any, Done]) -> Done:
        running = self._running
        if running is not None and not running.elsewhere:
            return running.wait(coroutine)
        coroutine.close()
        where = (
            "inside of `with`"
            if running is None
            else "in the process that entered it: enter one behind the fork"
        )
        raise RuntimeError(f"SyncPublisher: use it {where}")


class _Running:
    """A thread with a loop."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aquilia publisher", daemon=True)
        self._thread.start()

    @property
    def elsewhere(self) -> bool:
        """Whether the thread is in another process."""
        return os.getpid() != self._pid

    def wait(self, coroutine: Coroutine[Any, Any, Done]) -> Done:
        """What it returns, or raises, there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def end(self) -> None:
        """The thread ends."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
