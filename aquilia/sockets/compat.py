"""WebSocket handlers that are functions, for applications that move to controllers one by one.

    flow = Flow()

    @flow.ws("/chat")
    async def chat_handler(request: FlowRequest) -> None:
        await request.accept()
        async for message in request:
            await request.send_text(message)

    manifest = AppManifest("chat", controllers=[*flow.controllers])

Each function is served like a controller, by the same rules: origins, hosts, connections, sizes, rates, backpressure,
handshake middleware and guards, the end of the server. Its messages are what the client sends, without an envelope:
guards and middleware of messages, and strategies that drop messages, are refused at boot.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isfunction
from typing import Any, TypeVar

from aquilia.sockets.controller import SocketController
from aquilia.sockets.declaration import SocketDeclaration, declare_socket
from aquilia.sockets.flow_request import FlowRequest
from aquilia.source import SourceLocation

__all__ = ["Flow", "FlowRequest"]

Function = TypeVar("Function", bound=Callable[[FlowRequest], Awaitable[None]])

_INSTEAD = """\
{name} ({location}) is a function that handles a WebSocket, which is deprecated. Write a controller instead:

    @Socket("{path}")
    class {controller}(SocketController):
        @OnConnect()
        async def on_connect(self, conn: Connection) -> None: ...

        @Event("message")
        async def on_message(self, conn: Connection, payload: Any) -> None: ...

docs/MIGRATION.md has both, side by side."""


class Flow:
    """Declares functions as WebSocket handlers, and has a controller for each of them."""

    def __init__(self) -> None:
        self._controllers: list[type[SocketController]] = []

    @property
    def controllers(self) -> tuple[type[SocketController], ...]:
        """What stands for the functions so far, in a manifest's `controllers`."""
        return tuple(self._controllers)

    def ws(
        self,
        path: str,
        *,
        allowed_origins: Sequence[str] | None = None,
        max_connections: int | None = None,
        message_rate_limit: float | None = None,
        max_message_size: int | None = None,
        require_auth: bool | None = None,
        guards: Sequence[Any] = (),
        backpressure: Mapping[str, Any] | None = None,
    ) -> Callable[[Function], Function]:
        """Serve the connections of a path with `async def f(request)`; see `FlowRequest`.

        The path's pattern and the settings are those of `@Socket`, and are checked at boot. A rate above the limit
        ends the connection, with 4529. The function stays as it is.

        Warns:
            DeprecationWarning: with the function's place, and what to write in its stead.

        Raises:
            TypeError: for what is no function.
        """

        def declare(function: Function) -> Function:
            if not isfunction(function):
                raise TypeError(f"@flow.ws({path!r}) is for an `async def` function, not {function!r}")
            declaration = SocketDeclaration(
                path=path,
                allowed_origins=_frozen(allowed_origins),
                max_connections=max_connections,
                message_rate_limit=message_rate_limit,
                max_message_size=max_message_size,
                require_auth=require_auth,
                guards=tuple(guards),
                backpressure=backpressure,
                function=function,
            )
            _warn(function, path)
            self._controllers.append(_controller(function, declaration))
            return function

        return declare


def _frozen(names: Any) -> Any:
    """A tuple; what is no list stays as it is, for boot to refuse by name."""
    return tuple(names) if isinstance(names, list | tuple | set | frozenset) else names


def _controller(function: Any, declaration: SocketDeclaration) -> type[SocketController]:
    namespace = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
    }
    controller = type(function.__name__, (SocketController,), namespace)
    declare_socket(controller, declaration)
    return controller


def _warn(function: Any, path: str) -> None:
    location = SourceLocation.of(function)
    stem = re.sub(r"(_|\b)(ws|websocket|socket|handler|endpoint)(?=_|$)", "", function.__name__)
    name = "".join(word.capitalize() for word in stem.split("_")) or "My"
    warnings.warn_explicit(
        _INSTEAD.format(name=function.__qualname__, location=location, path=path, controller=f"{name}Socket"),
        DeprecationWarning,
        filename=location.file,
        lineno=location.line,
        module=function.__module__,
    )
