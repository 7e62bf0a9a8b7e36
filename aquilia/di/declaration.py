"""What `@service` records, and who asks for services."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, overload

from dishka import BaseScope, new_scope

from aquilia.di.problems import DIError, Problem, name_of
from aquilia.di.signatures import Dependency
from aquilia.source import SourceLocation

__all__ = ["Consumer", "Scope", "ScopeName", "ServiceDeclaration", "service", "service_declaration"]

ScopeName = Literal["singleton", "app", "namespace", "connection", "request", "transient"]

_SERVICE = "__aquilia_service__"
Target_ = TypeVar("Target_", bound=Callable[..., Any])


class Scope(BaseScope):
    """How long an instance lives, from the widest to the narrowest; `a < b` says that a outlives b."""

    SINGLETON = new_scope("singleton")
    """The process."""
    APP = new_scope("app")
    """One manifest's application: each has its own instances."""
    NAMESPACE = new_scope("namespace")
    """One instance of a socket controller."""
    CONNECTION = new_scope("connection")
    """One WebSocket."""
    REQUEST = new_scope("request")
    """One message, or one HTTP request."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ServiceDeclaration:
    """`@service(…)`. `scope` None is transient; empty `provides` means the class or return type itself."""

    scope: Scope | None
    provides: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Consumer:
    """A class that is built, or a function that is called, with services at `scope`.

    `without` names the scopes, and the types passed in from outside, that do not exist where it runs,
    although its scope would allow them: an HTTP handler is at request scope, but has no namespace and no
    connection.
    """

    target: Any
    scope: Scope
    dependencies: tuple[Dependency, ...]
    where: str = ""
    without: frozenset[Any] = frozenset()

    def __post_init__(self) -> None:
        if not self.where:
            object.__setattr__(self, "where", str(SourceLocation.of(self.target)))


@overload
def service(target: Target_, /) -> Target_: ...
@overload
def service(*, scope: ScopeName = "app", provides: Any = None) -> Callable[[Target_], Target_]: ...
def service(target: Any = None, /, *, scope: ScopeName = "app", provides: Any = None) -> Any:
    """Declare a class, or a function that makes one, as a service; it stays usable directly.

    The parameters of the class or function are its dependencies. A function may be async, and may be a
    generator: the part after its `yield` runs when the scope ends. The error that ended the scope, if any,
    is thrown into it there, so that an `async with` around the `yield` commits or rolls back as it should.

    `scope` is how long an instance is shared; a `transient` one is made anew each time, and ends with who
    asked for it. `provides` is the type, or the types, that others ask for, where that is not the class or
    the annotated return type.

    Raises `DIError` for an unknown scope, or a target that is neither class nor function.

        @service(scope="singleton")
        async def database(settings: Settings) -> AsyncIterator[Database]:
            async with connect(settings.dsn) as database:
                yield database
    """

    def declare(target: Target_) -> Target_:
        if not (inspect.isclass(target) or inspect.isfunction(target)):
            problem = Problem("declaration", f"@service is for classes and functions, not for {target!r}")
            raise DIError([problem])
        lifetime = _scope(scope, target)
        keys = tuple(provides) if isinstance(provides, list | tuple) else (provides,) * (provides is not None)
        setattr(target, _SERVICE, ServiceDeclaration(lifetime, keys))
        return target

    return declare if target is None else declare(target)


def service_declaration(target: Any) -> ServiceDeclaration | None:
    """The target's own `@service`; a subclass of a service is none by itself."""
    declared = getattr(target, "__dict__", {}).get(_SERVICE)
    return declared if isinstance(declared, ServiceDeclaration) else None


def _scope(name: str, target: Any) -> Scope | None:
    names = get_args(ScopeName)
    if name not in names:
        near = get_close_matches(str(name), names, n=1)
        label = f"{name_of(target)} ({SourceLocation.of(target)})"
        message = f"{label} has the scope {name!r}; accepted are {', '.join(names)}"
        raise DIError([Problem("declaration", message, near=tuple(repr(found) for found in near))])
    return None if name == "transient" else Scope[name.upper()]
