"""HTTP controllers: the class that an application writes, its routes, and the context that handlers get.

    class Rooms(Controller):
        prefix = "/rooms"

        def __init__(self, store: RoomStore) -> None:
            self.store = store

        @GET("/:room")
        async def show(self, room: str, limit: int = 20) -> list[Message]:
            return await self.store.latest(room, limit)

        @POST("/:room", status=201)
        async def post(self, ctx: RequestCtx, room: str, body: NewMessage) -> Message:
            return await self.store.add(room, body, author=ctx.identity)

A controller is built once per app, when that starts, and its constructor is filled by DI. How a handler's
parameters are filled is told in `aquilia.binding`. What it returns is answered so: a Starlette `Response`
as it is; `None` with no body and 204, or the declared status if that is not 200; a `str` as text/plain;
`bytes` as application/octet-stream; everything else as JSON, by msgspec, and a Pydantic model by Pydantic.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, cast

import msgspec
from starlette.datastructures import Address, FormData, Headers, QueryParams
from starlette.formparsers import MultiPartException
from starlette.requests import HTTPConnection, Request

from aquilia.di import ScopeContainer
from aquilia.http_faults import http_invalid_form, http_unsupported_media_type
from aquilia.sessions.session import Session
from aquilia.source import SourceLocation
from aquilia.validation import decode_json

__all__ = [
    "DELETE",
    "GET",
    "HEAD",
    "MAX_BODY_SIZE",
    "OPTIONS",
    "PATCH",
    "POST",
    "PUT",
    "Body",
    "Controller",
    "RequestCtx",
    "Route",
    "RouteDeclaration",
    "routes_of",
]

MAX_BODY_SIZE = 1024 * 1024
"""Bytes of a request's body, unless its route says another `max_body_size`."""

_ROUTES = "__aquilia_routes__"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class BodyMarker:
    """What `Body[T]` leaves in the annotation."""


Body = Annotated[T, BodyMarker()]
"""`name: Body[T]` is the JSON body, whatever the parameter's name and type are."""


class Controller:
    """The base of every controller: a class whose decorated methods answer requests.

    `prefix` stands before the path of each of its routes, and may have parameters of its own.
    """

    prefix: ClassVar[str] = ""

    async def on_startup(self) -> None:
        """Called once when the app starts, before the first request. What it raises ends the start."""

    async def on_shutdown(self) -> None:
        """Called once when the app stops, after the last request."""


@dataclass(frozen=True, slots=True)
class RouteDeclaration:
    """`@GET(path)` and its like: `status` answers a plain return value, `max_body_size` is in bytes."""

    method: str
    path: str
    status: int = 200
    max_body_size: int = MAX_BODY_SIZE


@dataclass(frozen=True, slots=True)
class Route:
    """A declared method of a controller class."""

    controller: type[Controller]
    attribute: str
    declaration: RouteDeclaration
    function: Callable[..., Any] = field(repr=False)

    @property
    def pattern(self) -> str:
        """The controller's prefix and the route's path, as one."""
        return f"{self.controller.prefix.rstrip('/')}/{self.declaration.path.lstrip('/')}"

    @property
    def name(self) -> str:
        """The handler, as logs and error messages call it."""
        return f"{self.controller.__qualname__}.{self.attribute}"

    @property
    def where(self) -> str:
        """The file and the line of the handler."""
        return str(SourceLocation.of(self.function))


def routes_of(controller: type[Controller]) -> list[Route]:
    """Every route of a class, in the order of definition, base classes first.

    A method overridden without a decorator keeps the routes of the one that it overrides.
    """
    declared: dict[str, list[RouteDeclaration]] = {}
    for owner in reversed(controller.__mro__):
        for attribute, value in vars(owner).items():
            own = getattr(value, "__dict__", {}).get(_ROUTES)
            if own:
                declared[attribute] = own
    return [
        Route(controller, attribute, declaration, function)
        for attribute, declarations in declared.items()
        if (function := inspect.getattr_static(controller, attribute)) is not None
        for declaration in declarations
    ]


class _RouteDecorator(Protocol):
    def __call__(
        self, path: str = "/", *, status: int = 200, max_body_size: int = MAX_BODY_SIZE
    ) -> Callable[[F], F]: ...


def _route(method: str) -> _RouteDecorator:
    def decorator(
        path: str = "/", *, status: int = 200, max_body_size: int = MAX_BODY_SIZE
    ) -> Callable[[F], F]:
        if not isinstance(path, str):
            raise TypeError(f"write @{method}() or @{method}('/path'): its first argument is the path")
        declaration = RouteDeclaration(method, path, status, max_body_size)

        def attach(function: F) -> F:
            # Decorators apply from the bottom up; the declarations read from the top down.
            function.__dict__.setdefault(_ROUTES, []).insert(0, declaration)
            return function

        return attach

    decorator.__name__ = decorator.__qualname__ = method
    decorator.__doc__ = f"""Answer {method} at this path, of the controller's `prefix` and a pattern.

    `status` is that of an answer without one of its own, `max_body_size` in bytes.
    """
    return decorator


GET = _route("GET")
"""Answer GET at this path, and HEAD with the same headers where no `@HEAD` does."""
HEAD = _route("HEAD")
"""Answer HEAD at this path."""
POST = _route("POST")
"""Answer POST at this path."""
PUT = _route("PUT")
"""Answer PUT at this path."""
PATCH = _route("PATCH")
"""Answer PATCH at this path."""
DELETE = _route("DELETE")
"""Answer DELETE at this path."""
OPTIONS = _route("OPTIONS")
"""Answer OPTIONS at this path."""


class RequestCtx:
    """One HTTP request, or one WebSocket handshake, on its way through the middleware to the handler.

    `path` is decoded, normalised, and without the prefix of a mount. `state` is this request's own mapping,
    for middleware to leave things in. `identity` and `session` are set by whatever authenticates the
    request; until it is set, `identity` is the session's. `container` is the request's DI container, once the
    handler needed one.
    """

    __slots__ = ("_identity", "container", "path", "path_params", "request", "session", "state")

    def __init__(
        self,
        request: HTTPConnection,
        *,
        path: str | None = None,
        path_params: Mapping[str, Any] | None = None,
    ) -> None:
        self.request = request
        self.path: str = request.scope["path"] if path is None else path
        self.path_params: Mapping[str, Any] = {} if path_params is None else path_params
        self.state: dict[str, Any] = {}
        self._identity: Any = None
        self.session: Any = None
        self.container: ScopeContainer | None = None

    @property
    def identity(self) -> Any:
        """Who the client is, None if it is anonymous. What was set here goes before the session's."""
        if self._identity is None and isinstance(self.session, Session):
            return self.session.identity
        return self._identity

    @identity.setter
    def identity(self, identity: Any) -> None:
        self._identity = identity

    @property
    def kind(self) -> Literal["http", "websocket"]:
        """Whether this is a request, or the handshake that opens a WebSocket."""
        return cast(Literal["http", "websocket"], self.request.scope["type"])

    @property
    def method(self) -> str:
        """The HTTP method; that of a handshake is GET."""
        return cast(str, self.request.scope.get("method", "GET"))

    @property
    def query_params(self) -> QueryParams:
        """The parameters behind the `?`, decoded."""
        return self.request.query_params

    @property
    def headers(self) -> Headers:
        """The request's headers; names are case-insensitive."""
        return self.request.headers

    @property
    def cookies(self) -> dict[str, str]:
        """The request's cookies."""
        return self.request.cookies

    @property
    def client(self) -> Address | None:
        """The host and port of the peer, where the server knows them."""
        return self.request.client

    async def body(self) -> bytes:
        """The whole body. Raises `HTTP_PAYLOAD_TOO_LARGE` above the route's `max_body_size`."""
        return await self._readable().body()

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `HTTP_PAYLOAD_TOO_LARGE` above the route's `max_body_size`."""
        async for chunk in self._readable().stream():
            if chunk:
                yield chunk

    async def json(self) -> Any:
        """The body as JSON, of any shape. Raises `HTTP_INVALID_JSON` and `HTTP_PAYLOAD_TOO_LARGE`."""
        return decode_json(await self.body(), msgspec.json.decode)

    async def form(self) -> FormData:
        """The fields and files of an HTML form, urlencoded or multipart; needs `python-multipart`.

        Files are closed once the response has been sent. Raises `HTTP_INVALID_FORM`, and
        `HTTP_UNSUPPORTED_MEDIA_TYPE` when the body is no form.
        """
        request = self._readable()
        media_type = media_type_of(self.headers)
        if media_type not in _FORMS:
            raise http_unsupported_media_type(media_type, " or ".join(_FORMS))
        try:
            return await request.form()
        except MultiPartException as error:
            raise http_invalid_form(error.message) from None

    def _readable(self) -> Request:
        if isinstance(self.request, Request):
            return self.request
        raise RuntimeError("a WebSocket handshake has no body")


def media_type_of(headers: Headers) -> str:
    """The Content-Type without its parameters, in lower case; empty if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()
