"""Builds the graph of an application's services, and opens its root container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from aquilia.di.collection import Collection
from aquilia.di.container import Constructor, Injection, ScopeContainer, root_container
from aquilia.di.declaration import Consumer, Scope
from aquilia.di.graph import Graph, Provider, provider_of_consumer
from aquilia.di.problems import DIError, Problem, name_of
from aquilia.di.registration import registrations
from aquilia.di.signatures import Dependency, constructor_dependencies

__all__ = ["Services"]

T_ = TypeVar("T_")


class Services:
    """The services of a process, checked; also an async context manager that opens and closes the root."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._registries = list(registrations(graph))
        root_container(self._registries)  # dishka checks the graph as well, by its own rules
        self._root: ScopeContainer | None = None

    @classmethod
    def build(
        cls,
        services: Sequence[Any],
        consumers: Sequence[Consumer] = (),
        *,
        provided: Mapping[Scope, Sequence[Any]] | None = None,
        overrides: Mapping[Any, Any] | None = None,
    ) -> Services:
        """Check how the services and their consumers fit together.

        `provided` are the types of objects that are passed in when a scope is entered. `overrides` has ready
        objects that take the place of what provides their types. Raises `DIError` with every problem at once.
        """
        collection = Collection(overrides or {})
        for scope, keys in (provided or {}).items():
            for key in keys:
                collection.add(Provider(name_of(key), f"passed in at {scope}", scope, (key,)))
        for target in dict.fromkeys(services):
            collection.declare(target)
        collection.finish()
        graph = Graph(collection.providers, collection.broken)
        problems = collection.problems + graph.problems(consumers)
        if problems:
            raise DIError(problems)
        return cls(graph)

    async def open(self) -> None:
        """Open the root container; nothing is made before it is asked for. Does nothing if it is open."""
        if self._root is None:
            self._root = ScopeContainer(Scope.SINGLETON, root_container(self._registries), self._graph)

    async def aclose(self) -> None:
        """Close the root container, after everything that was entered from it. It can be opened again."""
        root, self._root = self._root, None
        if root is not None:
            await root.aclose()

    @property
    def root(self) -> ScopeContainer:
        """The singleton container, from which each application enters its own scope."""
        if self._root is None:
            raise DIError([Problem("closed", "the services are not open: await `open()` first")])
        return self._root

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def injector(
        self, dependencies: Sequence[Dependency], scope: Scope, *, without: frozenset[Any] = frozenset()
    ) -> Injection:
        """Prepare to resolve these dependencies at `scope`. Raises `DIError` where they cannot be."""
        return self._prepare(
            Consumer(f"an injection at {scope}", scope, tuple(dependencies), "here", without)
        )

    def constructor(
        self, cls: type[T_], scope: Scope, *, without: frozenset[Any] = frozenset()
    ) -> Constructor[T_]:
        """Prepare to build `cls` at `scope`. Raises `DIError` where its dependencies cannot be resolved."""
        return Constructor(
            cls, self._prepare(Consumer(cls, scope, constructor_dependencies(cls), "", without))
        )

    def _prepare(self, consumer: Consumer) -> Injection:
        problems = self._graph.problems_of(consumer)
        if problems:
            raise DIError(problems)
        return Injection(self._graph, provider_of_consumer(consumer), consumer.scope)
