"""How the parameters of an HTTP handler are filled. Decided at boot, by the first of these rules that holds:

1. A parameter named in the path pattern is that part of the path, converted to its annotation. A pattern's
   `:id:int` needs an annotation that takes an int; a plain `:id` is text, which any scalar is read from.
2. One annotated `RequestCtx` is the context.
3. One annotated `Body[T]`, named `body`, or annotated with a type that only a body can have, is the JSON
   body: a Struct, dataclass, TypedDict, NamedTuple or Pydantic model, a dict, or a list of anything but
   scalars. Only POST, PUT and PATCH have a body, and a handler takes one.
4. A scalar, or a list, set or tuple of scalars, is a query parameter: str, int, float, bool, Decimal, UUID,
   date, time, datetime, timedelta, Enum, Literal, each optional or constrained by `Annotated`. A list takes
   every parameter of the name; anything else takes exactly one.
5. Everything else is injected by DI, at request scope; so is a class that is itself declared with `@service`,
   and a Struct or dataclass where the method has no body.

A default makes a parameter optional. Handlers are `async def` methods; every parameter is annotated, and none
is positional-only or variadic. What breaks a rule is refused at boot; a request's wrong values are reported
all together, as `HTTP_INVALID_INPUT`.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import inspect
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin, is_typeddict

import msgspec

from aquilia.aquilary import BootError, Problem
from aquilia.controller import BodyMarker, RequestCtx, Route, media_type_of
from aquilia.di import Dependency, DIError, call_dependencies, service_declaration
from aquilia.http_faults import http_invalid_input, http_unsupported_media_type
from aquilia.patterns import Pattern
from aquilia.validation import (
    MISSING,
    InvalidValue,
    JsonReader,
    Mistake,
    describe,
    is_record,
    members,
    mistake,
    unwrapped,
)

__all__ = ["Binding", "bind"]

_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
_CONVERTED = {"str": str, "path": str, "int": int, "float": float, "uuid": uuid.UUID}
_SCALARS = (
    str,
    int,
    float,
    bool,
    decimal.Decimal,
    uuid.UUID,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    enum.Enum,
)
_MANY = (list, set, frozenset, tuple, Sequence)
_MAPPINGS = (dict, Mapping)

_LISTED = "POST, PUT and PATCH"

_Kind = Literal["scalar", "scalars", "record", "data", "mixed", "other"]


@dataclass(frozen=True, slots=True)
class _Value:
    """A parameter read from the path or the query."""

    name: str
    type: Any
    default: Any = MISSING
    many: bool = False

    def of_query(self, texts: list[str], wrong: list[Mistake]) -> Any:
        path = f"query.{self.name}"
        if self.many and texts:
            return self.convert(texts, path, wrong)
        if len(texts) == 1:
            return self.convert(texts[0], path, wrong)
        if texts:
            wrong.append({"path": path, "expected": describe(self.type), "got": f"{len(texts)} values"})
        elif self.default is MISSING:
            wrong.append(mistake(path, self.type, MISSING))
        return self.default

    def convert(self, given: Any, path: str, wrong: list[Mistake]) -> Any:
        try:
            value = msgspec.convert(given, self.type, strict=False)
        except msgspec.ValidationError:
            value = MISSING
        if value is MISSING or _endless(value):
            wrong.append({"path": path, "expected": describe(self.type), "got": "another text"})
        return value


@dataclass(frozen=True, slots=True)
class _Body:
    """The parameter that is the JSON body."""

    name: str
    reader: JsonReader[Any]
    default: Any

    async def read(self, ctx: RequestCtx, wrong: list[Mistake]) -> Any:
        data = await ctx.body()
        if not data:
            if self.default is MISSING:
                wrong.append(mistake("body", self.reader.type, MISSING))
            return self.default
        media_type = media_type_of(ctx.headers)
        if media_type != "application/json" and not media_type.endswith("+json"):
            # A browser sends text/plain to foreign servers without asking them first; JSON it does not.
            raise http_unsupported_media_type(media_type, "application/json")
        try:
            return self.reader.read(data)
        except InvalidValue as error:
            wrong += error.mistakes
            return MISSING


@dataclass(slots=True)
class Binding:
    """What fills each parameter of one handler.

    `inferred` is the parameter that is the body for no other reason than its type, if there is one.
    """

    ctx: list[str] = field(default_factory=list)
    path: list[_Value] = field(default_factory=list)
    query: list[_Value] = field(default_factory=list)
    body: _Body | None = None
    dependencies: list[Dependency] = field(default_factory=list)
    inferred: Dependency | None = None

    async def arguments(self, ctx: RequestCtx) -> dict[str, Any]:
        """The keyword arguments that the request gives; those of DI are not among them.

        Raises `HTTP_INVALID_INPUT` with every wrong one, `HTTP_INVALID_JSON`, `HTTP_PAYLOAD_TOO_LARGE` and
        `HTTP_UNSUPPORTED_MEDIA_TYPE`.
        """
        wrong: list[Mistake] = []
        arguments: dict[str, Any] = dict.fromkeys(self.ctx, ctx)
        for value in self.path:
            arguments[value.name] = value.convert(ctx.path_params[value.name], f"path.{value.name}", wrong)
        for value in self.query:
            arguments[value.name] = value.of_query(ctx.query_params.getlist(value.name), wrong)
        if self.body is not None:
            arguments[self.body.name] = await self.body.read(ctx, wrong)
        if wrong:
            raise http_invalid_input(wrong)
        return arguments


def bind(route: Route, pattern: Pattern) -> Binding:
    """Decide what fills each parameter of the route's handler. Raises `BootError` with every problem."""
    unfit = _unfit(route.function)
    if unfit is not None:
        raise BootError([Problem(route.where, f"{route.name} {unfit}")])
    try:
        parameters = call_dependencies(route.function, skip=1)
    except DIError as error:
        raise BootError(Problem(route.where, str(problem)) for problem in error.problems) from None
    binder, problems = _Binder(route, pattern), []
    for parameter in parameters:
        try:
            binder.take(parameter)
        except TypeError as error:
            problems.append(Problem(route.where, f"{route.name}: parameter {parameter.name!r} {error}"))
    if problems:
        raise BootError(problems)
    return binder.binding


class _Binder:
    """Sorts the parameters of one handler. Raises TypeError for one that cannot be filled."""

    def __init__(self, route: Route, pattern: Pattern) -> None:
        self.binding = Binding()
        self._method = route.declaration.method
        self._in_path = {parameter.name: parameter.kind for parameter in pattern.parameters}
        self._signature = inspect.signature(route.function).parameters

    def take(self, parameter: Dependency) -> None:
        kind = _kind(parameter.type)
        if parameter.name in self._in_path:
            self._take_path(parameter, kind)
        elif parameter.type is RequestCtx:
            self.binding.ctx.append(parameter.name)
        elif parameter.name == "body" or _is_marked(parameter.type):
            self._take_body(parameter)
        elif kind in ("scalar", "scalars"):
            _check_convertible(parameter.type)
            default = self._default(parameter)
            self.binding.query.append(_Value(parameter.name, parameter.type, default, kind == "scalars"))
        elif kind == "mixed":
            raise TypeError(f"is {describe(parameter.type)}: a union is all scalars, or annotated Body[…]")
        elif kind == "data" or (kind == "record" and self._method in _METHODS_WITH_BODY):
            self._take_body(parameter)
            self.binding.inferred = parameter
        else:
            self.binding.dependencies.append(parameter)

    def _take_path(self, parameter: Dependency, kind: _Kind) -> None:
        converter = self._in_path[parameter.name]
        given = _CONVERTED[converter]
        if kind != "scalar":
            raise TypeError(f"is a part of the path: it is a scalar, not {describe(parameter.type)}")
        if given is not str and not any(_takes(member, given) for member in members(parameter.type)):
            raise TypeError(
                f"is {describe(parameter.type)}, but ':{parameter.name}:{converter}' in the path gives "
                f"{describe(given)}"
            )
        _check_convertible(parameter.type)
        self.binding.path.append(_Value(parameter.name, parameter.type))

    def _take_body(self, parameter: Dependency) -> None:
        if self._method not in _METHODS_WITH_BODY:
            raise TypeError(f"is a JSON body, but {self._method} has none; {_LISTED} have")
        if self.binding.body is not None:
            raise TypeError(f"is a second JSON body, beside {self.binding.body.name!r}: there is one")
        try:
            reader: JsonReader[Any] = JsonReader(parameter.type)
        except Exception as error:  # Pydantic has many for a type that it cannot read
            raise TypeError(f"cannot be a JSON body: {error}") from None
        self.binding.body = _Body(parameter.name, reader, self._default(parameter))

    def _default(self, parameter: Dependency) -> Any:
        return MISSING if parameter.required else self._signature[parameter.name].default


def _unfit(function: Any) -> str | None:
    if not inspect.isfunction(function):
        return f"is a {type(function).__name__}: a handler is a plain `async def` method"
    if inspect.isasyncgenfunction(function):
        return "yields: return a starlette.responses.StreamingResponse instead"
    if not inspect.iscoroutinefunction(function):
        return "is not async: write `async def`, and run what blocks in `asyncio.to_thread`"
    if not inspect.signature(function).parameters:
        return "takes no self: a handler is a plain `async def` method"
    return None


def _is_marked(expected: Any) -> bool:
    """Whether it is `Body[T]`, or a union with one, as `Body[T] | None`."""
    if get_origin(expected) is Annotated and any(isinstance(each, BodyMarker) for each in get_args(expected)):
        return True
    options = members(expected)
    return len(options) > 1 and any(map(_is_marked, options))


def _kind(expected: Any) -> _Kind:
    kinds = {_kind_of_one(each) for each in members(expected) if each is not type(None)}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _kind_of_one(expected: Any) -> _Kind:
    bare = unwrapped(expected)
    origin = get_origin(bare) or bare
    if origin is Literal or (isinstance(origin, type) and issubclass(origin, _SCALARS)):
        return "scalar"
    if service_declaration(origin) is not None:
        return "other"
    if is_record(bare):
        return "data" if is_typeddict(origin) else "record"
    if origin in _MANY:
        items = [_kind(argument) for argument in get_args(bare) if argument is not ...]
        return "scalars" if items and set(items) == {"scalar"} else "data"
    return "data" if origin in _MAPPINGS else "other"


def _takes(expected: Any, given: type) -> bool:
    bare = unwrapped(expected)
    if get_origin(bare) is Literal or (isinstance(bare, type) and issubclass(bare, enum.Enum)):
        return given is int
    return bare is given or (bare is float and given is int)


def _check_convertible(expected: Any) -> None:
    try:
        msgspec.json.Decoder(expected)
    except TypeError as error:
        raise TypeError(f"cannot be read from text: {str(error).partition(chr(10))[0]}") from None


def _endless(value: Any) -> bool:
    """Whether a float in it is no finite number: text such as `nan` reads as one, and JSON has none."""
    if isinstance(value, list | tuple | set | frozenset):
        return any(_endless(each) for each in value)
    return isinstance(value, float) and not math.isfinite(value)
