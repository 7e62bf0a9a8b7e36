"""Containers at run time: one for each scope that is open, and what is prepared to be resolved from them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, overload

from dishka import STRICT_VALIDATION, AsyncContainer, make_async_container
from dishka import Provider as Registry
from dishka.exceptions import ChildScopeNotFoundError, NoChildScopesError, NoContextValueError

from aquilia.di.declaration import Scope
from aquilia.di.graph import Graph, Provider, key_of
from aquilia.di.problems import DIError, Problem, name_of
from aquilia.di.registration import Ending, component_of
from aquilia.di.signatures import Dependency

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Constructor", "Injection", "ScopeContainer", "root_container"]

logger = logging.getLogger("aquilia.di")

T_ = TypeVar("T_")

_NOTHING: frozenset[Any] = frozenset()


class _Turn(asyncio.Lock):
    """Lets one task at a time make instances in a container, and says so where it would wait for itself."""

    _owner: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if self._owner is task:
            message = "what is being made asks its container for more: declare that as a parameter instead"
            raise DIError([Problem("cycle", message)])
        await self.acquire()
        self._owner = task

    async def __aexit__(self, *_: object) -> None:
        self._owner = None
        self.release()


def root_container(registries: Sequence[Registry]) -> AsyncContainer:
    """A container of the widest scope. Raises what dishka's own checks find."""
    return make_async_container(
        *registries, scopes=Scope, lock_factory=_Turn, validation_settings=STRICT_VALIDATION
    )


class _Source(NamedTuple):
    """Where in dishka an instance is had: its key and component, and the scope whose container makes it."""

    key: Any
    component: str
    scope: Scope

    @classmethod
    def of(cls, dependency: Dependency, provider: Provider, asked_at: Scope) -> _Source:
        key = key_of(dependency.type, required=dependency.required)
        return cls(key, component_of(provider, asked_at), provider.scope or asked_at)


class ScopeContainer:
    """The instances of one open scope. Close what was entered from it before it.

    It is also an async context manager that closes it.
    """

    __slots__ = ("_closed", "_container", "_graph", "_skipped", "scope")

    def __init__(
        self, scope: Scope, container: AsyncContainer, graph: Graph, skipped: frozenset[Any] = _NOTHING
    ) -> None:
        self.scope = scope
        self._container = container
        self._graph = graph
        self._skipped = skipped
        self._closed = False

    @overload
    async def get(self, kind: type[T_]) -> T_: ...
    @overload
    async def get(self, kind: Any) -> Any: ...
    async def get(self, kind: Any) -> Any:
        """The instance of a type, made now if nobody has asked for it in its scope before.

        Raises `DIError` where nothing provides it, where it lives in a narrower scope or in one that was
        skipped on the way here, and once the container is closed.
        """
        found = self._graph.find(kind)
        if found is None:
            raise DIError([self._graph.missing(Dependency("", kind), ())])
        if self._graph.lifetime(found) > self.scope:
            here = Provider(f"the {self.scope} container", "here", self.scope)
            raise DIError([self._graph.too_narrow((here,), found)])
        if self._skipped:
            self._refuse(self._graph.reach(found), name_of(kind))
        return await self._fetch(_Source.of(Dependency("", kind), found, self.scope))

    async def enter(self, scope: Scope, context: Mapping[Any, Any] | None = None) -> ScopeContainer:
        """A container of a narrower scope in this one. `context` has the objects declared as provided there.

        The scopes between the two are skipped: what lives in them cannot be had from the new container.
        """
        self._require_open()
        try:
            child = self._container(dict(context) if context else None, _Turn, scope)
        except (NoChildScopesError, ChildScopeNotFoundError):
            message = f"the scope {scope} cannot be entered from the scope {self.scope}: it is no narrower"
            raise DIError([Problem("scope", message)]) from None
        skipped = self._skipped
        if scope.order - self.scope.order > 1:
            skipped |= {between for between in Scope if self.scope < between < scope}
        return ScopeContainer(scope, child, self._graph, skipped)

    async def aclose(self, error: BaseException | None = None) -> None:
        """End every instance of this scope, in the reverse order of their making; `error` is what ended it.

        All cleanups run, even if one of them raises or this call is cancelled. Raises an `ExceptionGroup` of
        what they raised. Closing twice does nothing.
        """
        if self._closed:
            return
        self._closed = True
        ending = Ending(error)
        self._report(ending.failures, await self._end(ending))

    def _report(self, failures: list[Exception], cancelled: asyncio.CancelledError | None) -> None:
        message = f"cleanup of the {self.scope} scope failed"
        if cancelled is not None:
            for failure in failures:  # the cancellation goes first, so this is the last place to tell
                logger.error(message, exc_info=failure)
            raise cancelled
        if failures:
            raise ExceptionGroup(message, failures)

    async def _end(self, ending: Ending) -> asyncio.CancelledError | None:
        # Taking the lock lets a `get` in flight finish, so that what it makes is ended too.
        turn: contextlib.AbstractAsyncContextManager[Any] = self._container.lock or contextlib.nullcontext()
        cancelled = None
        while True:
            try:
                async with turn:
                    await self._container.close(ending)
            except asyncio.CancelledError as interruption:
                # dishka has taken the interrupted cleanup off its list: go on with the next one.
                cancelled, turn = interruption, contextlib.nullcontext()
            else:
                return cancelled

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(error)

    async def _fetch(self, source: _Source) -> Any:
        self._require_open()
        # Going straight to the container that has the instance saves the lock of each one in between.
        container: AsyncContainer | None = self._container
        while container is not None and container.registry.scope is not source.scope:
            container = container.parent_container
        if container is None:
            message = f"{name_of(source.key)} is made in the scope {source.scope}, not in {self.scope}"
            raise DIError([Problem("scope", message)])
        try:
            return await container.get(source.key, source.component)
        except NoContextValueError as error:
            message = (
                f"{name_of(error.args[0])} is passed in when its scope is entered, but was not, "
                f"and {name_of(source.key)} needs it in the scope {self.scope}"
            )
            raise DIError([Problem("absent", message)]) from error

    def _require_open(self) -> None:
        if self._closed:
            raise DIError([Problem("closed", f"the container of the scope {self.scope} is closed")])

    def _refuse(self, reach: frozenset[Any], name: str) -> None:
        lacking = [scope for scope in Scope if scope in reach and scope in self._skipped]
        if lacking:
            message = (
                f"{name} needs the scope {lacking[0]}, without which this {self.scope} scope was entered"
            )
            raise DIError([Problem("absent", message)])


class Injection:
    """The dependencies of one call, looked up at boot."""

    __slots__ = ("_reach", "_sources", "needed", "scope")

    def __init__(self, graph: Graph, consumer: Provider, scope: Scope) -> None:
        supplied = list(graph.supplied(consumer))
        self._sources = tuple((need.name, _Source.of(need, found, scope)) for need, found in supplied)
        self._reach = _NOTHING.union(*(graph.reach(found) for _, found in supplied))
        self.needed = bool(supplied)
        """False where there is nothing to resolve, so that no container has to be made."""
        self.scope = _widest(graph, [found for _, found in supplied], scope)
        """The widest scope whose container can resolve this, so that a narrower one need not be made."""

    async def resolve(self, container: ScopeContainer | None) -> dict[str, Any]:
        """The keyword arguments for the call, out of a container of `scope` or narrower.

        `container` may be None where none is needed.
        """
        if not self.needed:
            return {}
        if container is None:
            raise DIError([Problem("closed", f"there is no container to resolve {self._names()} from")])
        if container._skipped:
            container._refuse(self._reach, self._names())
        return {name: await container._fetch(source) for name, source in self._sources}

    def _names(self) -> str:
        return ", ".join(name for name, _ in self._sources)


class Constructor(Generic[T_]):
    """Builds a class with its dependencies, looked up at boot."""

    __slots__ = ("_build", "_injection", "needed", "scope")

    def __init__(self, cls: type[T_], injection: Injection) -> None:
        self._build = cls
        self._injection = injection
        self.needed = injection.needed
        self.scope = injection.scope

    async def build(self, container: ScopeContainer | None) -> T_:
        """A new instance; `container` as for `Injection.resolve`."""
        return self._build(**await self._injection.resolve(container))


def _widest(graph: Graph, providers: Sequence[Provider], scope: Scope) -> Scope:
    if any(provider.scope is None for provider in providers):
        return scope  # a transient ends with the scope that asked for it
    return max((graph.lifetime(provider) for provider in providers), default=Scope.SINGLETON)
