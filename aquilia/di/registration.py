"""Says what the graph says in dishka's terms."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any

from dishka import FromComponent
from dishka import Provider as Registry

from aquilia.di.declaration import Scope
from aquilia.di.graph import Graph, Provider, key_of

__all__ = ["Ending", "component_of", "registrations"]


class Ending(BaseException):
    """How a scope ends. dishka hands it to every generator as the value of its `yield`.

    Failures are gathered here, not by dishka, since it forgets those before a cancellation.
    """

    def __init__(self, error: BaseException | None) -> None:
        super().__init__(error)
        self.error = error
        self.failures: list[Exception] = []

    @property
    def cause(self) -> tuple[Any, Any, Any]:
        """The arguments of `__exit__`: what a `with` statement would pass."""
        if self.error is None:
            return None, None, None
        return type(self.error), self.error, self.error.__traceback__

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what a cleanup raises, and go on."""
        try:
            yield
        except Exception as failure:
            self.failures.append(failure)


def component_of(provider: Provider, scope: Scope) -> str:
    """The dishka component that has the provider, for one who asks at `scope`.

    A transient stands in one component for each scope, so that dishka ends it with the scope that asked for
    it; a single uncached factory at an outer scope would keep every instance until that scope ends.
    """
    return scope.name if provider.scope is None else ""


def registrations(graph: Graph) -> Iterator[Registry]:
    """A dishka provider for what is shared, and one for the transients of each scope."""
    shared = Registry()
    transient = {scope: Registry(component=scope.name) for scope in Scope}
    for provider in graph.providers:
        if provider.target is None:
            shared.from_context(provider.keys[0], scope=provider.scope)
        elif provider.scope is not None:
            _register(shared, graph, provider, provider.scope)
        else:
            for scope in Scope:
                if scope >= graph.lifetime(provider):
                    _register(transient[scope], graph, provider, scope)
    yield shared
    yield from transient.values()


def _register(registry: Registry, graph: Graph, provider: Provider, scope: Scope) -> None:
    hints = {
        dependency.name: Annotated[
            key_of(dependency.type, required=dependency.required),
            FromComponent(component_of(found, scope)),
        ]
        for dependency, found in graph.supplied(provider)
    }
    cache = provider.scope is not None
    first, *others = provider.keys
    registry.provide(_factory(provider.target, hints), scope=scope, provides=first, cache=cache)
    for other in others:
        registry.alias(first, provides=other, cache=cache)


def _factory(target: Callable[..., Any], hints: Mapping[str, Any]) -> Callable[..., Any]:
    """`target` as a function whose parameters are exactly those that are injected."""
    make = _wrapped(target)
    parameters = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=hint) for name, hint in hints.items()]
    make.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    make.__annotations__ = dict(hints)
    return make


def _wrapped(target: Callable[..., Any]) -> Callable[..., Any]:
    # dishka tells the kind of a factory by its function.
    plain = inspect.unwrap(target)
    if inspect.isasyncgenfunction(plain):
        return _async_generator(target)
    if inspect.isgeneratorfunction(plain):
        return _generator(target)
    if inspect.iscoroutinefunction(plain):

        async def make_async(**needs: Any) -> Any:
            return await target(**needs)

        return make_async

    def make(**needs: Any) -> Any:
        return target(**needs)

    return make


def _async_generator(target: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
    opened = contextlib.asynccontextmanager(target)

    async def make(**needs: Any) -> AsyncGenerator[Any, Ending]:
        manager = opened(**needs)
        ending = yield await manager.__aenter__()
        with ending.recording():
            await manager.__aexit__(*ending.cause)

    return make


def _generator(target: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
    opened = contextlib.contextmanager(target)

    def make(**needs: Any) -> Generator[Any, Ending, None]:
        manager = opened(**needs)
        ending = yield manager.__enter__()
        with ending.recording():
            manager.__exit__(*ending.cause)

    return make
