"""The middleware chain: what stands before every handler and before every WebSocket handshake of an app.

    async def timing(ctx: RequestCtx, call_next: CallNext) -> Response:
        begin = time.perf_counter()
        response = await call_next(ctx)
        response.headers["server-timing"] = f"app;dur={(time.perf_counter() - begin) * 1000:.1f}"
        return response

`ctx.kind` tells a request from a handshake. For a handshake, `call_next(ctx)` returns a response of status
101 when the connection is admitted, and the headers that a middleware adds to it are sent with the upgrade;
any other status is the refusal. A middleware refuses by returning a response of its own, or by raising a
fault. It hands on the very `ctx` that it was given: what it has to tell goes into `ctx.state`.

An app's middleware sees the requests for paths that the app serves. Middleware that must see every request,
and work on its bytes (CORS, GZip), is pure ASGI: `starlette.middleware.Middleware(GZipMiddleware,
minimum_size=500)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

from starlette.middleware import Middleware as AsgiMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from aquilia.aquilary import Problem
from aquilia.controller import RequestCtx

__all__ = ["Answer", "CallNext", "Endpoint", "Middleware", "SplitMiddleware", "compose", "split", "wrap"]

Endpoint = Callable[[RequestCtx], Awaitable[Response]]
CallNext = Endpoint
Answer = Callable[[Exception, str], Response]
"""Makes the response for an error; the string names what raised it."""


class Middleware(Protocol):
    """A callable that stands before an endpoint. See the module's docstring."""

    async def __call__(self, ctx: RequestCtx, call_next: CallNext) -> Response:
        """Answer `ctx`, mostly with what `await call_next(ctx)` returns."""
        ...


class SplitMiddleware(NamedTuple):
    """The entries of a manifest by kind, each in the order given, and what is wrong with the others."""

    chain: list[Middleware]
    asgi: list[AsgiMiddleware]
    problems: list[Problem]


def split(entries: Sequence[Any], where: str = "middleware") -> SplitMiddleware:
    """Sort a manifest's entries: functions, instances and classes for the chain, and pure ASGI middleware.

    A class is instantiated without arguments. `where` names the list in the problems.
    """
    found = SplitMiddleware([], [], [])
    for index, entry in enumerate(entries):
        if isinstance(entry, AsgiMiddleware):
            found.asgi.append(entry)
            continue
        try:
            found.chain.append(_callable(entry))
        except TypeError as error:
            found.problems.append(Problem(f"{where}[{index}]", str(error)))
    return found


def compose(
    middleware: Sequence[Middleware], endpoint: Endpoint, *, answer: Answer | None = None
) -> Endpoint:
    """One endpoint out of a chain, its first middleware outermost. Done once, at boot.

    With `answer`, an error in a middleware becomes a response at once, so that the one before it gets that
    from `call_next`; without, errors pass through.
    """
    for layer in reversed(middleware):
        endpoint = _link(layer, endpoint, answer)
    return endpoint


def wrap(app: ASGIApp, middleware: Sequence[AsgiMiddleware]) -> ASGIApp:
    """`app` within pure ASGI middleware, the first outermost."""
    for entry in reversed(middleware):
        app = entry.cls(app, *entry.args, **entry.kwargs)
    return app


def _link(layer: Middleware, call_next: Endpoint, answer: Answer | None) -> Endpoint:
    name = _name(layer)

    async def endpoint(ctx: RequestCtx) -> Response:
        try:
            response = await layer(ctx, call_next)
            if not isinstance(response, Response):
                raise TypeError(f"middleware {name} returned {response!r}: it must return a Response")
        except Exception as error:
            if answer is None:
                raise
            return answer(error, f"middleware {name}")
        return response

    return endpoint


def _callable(entry: Any) -> Middleware:
    name = _name(entry)
    kind = entry if isinstance(entry, type) else type(entry)
    if not any("__call__" in vars(base) for base in kind.__mro__):
        raise TypeError(
            f"{name} is no middleware: expected an async function (ctx, call_next), an instance or class "
            "with an async __call__, or starlette.middleware.Middleware(…)"
        )
    target = _instance(entry) if isinstance(entry, type) else entry
    if not (inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(kind.__call__)):
        raise TypeError(f"{name} is not async: a middleware is `async def (ctx, call_next)`")
    signature = inspect.signature(target)
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(f"{name}{signature} must take two arguments, (ctx, call_next)") from None
    return cast(Middleware, target)


def _instance(cls: type) -> Any:
    name, parameters = cls.__name__, inspect.signature(cls).parameters
    if "app" in parameters:
        raise TypeError(f"{name} is ASGI middleware: write starlette.middleware.Middleware({name}, …)")
    required = [
        each.name for each in parameters.values() if each.default is each.empty and each.kind not in _VARIADIC
    ]
    if required:
        raise TypeError(f"class {name} needs {', '.join(required)}: pass an instance, {name}(…)")
    try:
        return cls()
    except Exception as error:
        raise TypeError(f"class {name} cannot be made: {error}") from error


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _name(entry: Any) -> str:
    named = entry if hasattr(entry, "__qualname__") else type(entry)
    return repr(entry) if isinstance(entry, str) else str(named.__qualname__)
