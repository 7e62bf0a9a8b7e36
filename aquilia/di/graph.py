"""The graph of what provides what: how a type is looked up, and everything that can be wrong with it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from dishka.dependency_source.type_match import get_typevar_replacement, is_broader_or_same_type

from aquilia.di.declaration import Consumer, Scope, service_declaration
from aquilia.di.problems import Link, Problem, name_of
from aquilia.di.signatures import Dependency, substitute
from aquilia.source import SourceLocation

__all__ = ["Graph", "Provider", "key_of", "provider_of_consumer"]

_NOWHERE = "nothing provides it"


@dataclass(eq=False, slots=True)
class Provider:
    """One way to get an instance of each of its `keys`, of which it has none if it is a consumer.

    `scope` None is transient. `target` is what makes the instance; None where it is passed in from outside.
    """

    name: str
    where: str
    scope: Scope | None
    keys: tuple[Any, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    target: Any = None
    origin: Provider = field(init=False, repr=False)
    """The generic provider of which this is a special case; else itself."""

    def __post_init__(self) -> None:
        self.origin = self

    def link(self) -> Link:
        """This provider as a step of a chain."""
        return Link(self.name, self.where)


Path = tuple[Provider, ...]


def key_of(hint: Any, *, required: bool = True) -> Any:
    """The type that a hint is looked up by: without metadata; `X` for `X | None` where there is a default."""
    while True:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif hasattr(hint, "__value__") and type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif not required and len(options := _options(hint)) == 1:
            hint = options[0]
        else:
            return hint


def _options(hint: Any) -> list[Any]:
    if get_origin(hint) not in (Union, types.UnionType):
        return []
    return [option for option in get_args(hint) if option is not type(None)]


def provider_of_consumer(consumer: Consumer) -> Provider:
    """The consumer as the start of a chain."""
    target = consumer.target
    return Provider(name_of(target), consumer.where, consumer.scope, (), consumer.dependencies, target)


class Graph:
    """Looks up who provides a type, as dishka does, and reports what is wrong.

    `broken` are types whose provider has a problem of its own: they count as provided, so that one mistake is
    told once.
    """

    def __init__(self, providers: Sequence[Provider], broken: Iterable[Any] = ()) -> None:
        self.providers = tuple(providers)
        self._by_key = {key: provider for provider in self.providers for key in provider.keys}
        self._generic = {
            get_origin(key) or key: (key, provider)
            for key, provider in self._by_key.items()
            if getattr(key, "__parameters__", ())
        }
        self._found: dict[Any, Provider | None] = dict(self._by_key)
        self._broken = {key: Provider(name_of(key), "", Scope.SINGLETON, (key,)) for key in broken}
        self._lifetimes: dict[Provider, tuple[Scope, Path]] = {}

    def find(self, hint: Any, *, required: bool = True) -> Provider | None:
        """Who provides this type. A generic provider also provides what its type variables can stand for."""
        key = hint if isinstance(hint, type) else key_of(hint, required=required)
        if key not in self._found:
            self._found[key] = self._broken.get(key) or self._specialised(key)
        return self._found[key]

    def supplied(self, provider: Provider) -> Iterator[tuple[Dependency, Provider]]:
        """The provider's dependencies that are provided, and by whom; the rest are left to their defaults."""
        for dependency in provider.dependencies:
            found = self.find(dependency.type, required=dependency.required)
            if found is not None:
                yield dependency, found

    def lifetime(self, provider: Provider) -> Scope:
        """The widest scope at which it can be had: its own, or of a transient the narrowest it needs."""
        return self._lifetime(provider, ())[0]

    def reach(self, provider: Provider) -> frozenset[Any]:
        """Every scope, and every type passed in from outside, that an instance makes use of in the end."""
        seen: set[Provider] = set()
        reached: set[Any] = set()
        waiting = [provider]
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            reached |= _inhabits(current)
            waiting += [found for _, found in self.supplied(current)]
        return frozenset(reached)

    def problems(self, consumers: Sequence[Consumer] = ()) -> list[Problem]:
        """Everything that is missing, unreachable or circular, with chains that start at the consumers."""
        needed = {found.origin for provider in self.providers for _, found in self.supplied(provider)}
        heads = [provider for provider in self.providers if provider not in needed]
        return self._survey(consumers, [*heads, *self.providers])

    def problems_of(self, consumer: Consumer) -> list[Problem]:
        """What is wrong with one more consumer of a graph that has no problems."""
        return self._survey([consumer], [])

    def _survey(self, consumers: Sequence[Consumer], providers: Sequence[Provider]) -> list[Problem]:
        users = [provider_of_consumer(consumer) for consumer in consumers]
        survey = _Survey(self)
        for start in (*users, *providers):
            survey.visit(start, ())
        for consumer, user in zip(consumers, users, strict=True):
            if consumer.without:
                survey.refuse(user, consumer.without, (), set())
        return survey.problems

    def missing(self, dependency: Dependency, path: Path) -> Problem:
        """That nothing provides what the last of `path` needs."""
        key = key_of(dependency.type)
        needs = f", which {path[-1].name} needs as {dependency.name!r}" if path else ""
        message = f"nothing provides {name_of(key)}{needs}{self._advice(key)}"
        declared_at = str(SourceLocation.of(key)) if isinstance(key, type) else "<unknown>"
        where = _NOWHERE if declared_at == "<unknown>" else f"{_NOWHERE}; defined at {declared_at}"
        chain = (*(step.link() for step in path), Link(name_of(key), where))
        return Problem("missing", message, chain, self._near(key))

    def too_narrow(self, path: Path, found: Provider) -> Problem:
        """That the last of `path` outlives `found`, which it needs."""
        holder = path[-1]
        narrow, below = self._lifetime(found, ())
        message = (
            f"{below[-1].name} is provided, but in the narrower scope {narrow}; "
            f"{holder.name} lives in {holder.scope} and would outlive it"
        )
        return Problem("scope", message, tuple(step.link() for step in (*path, *below)))

    def _specialised(self, key: Any) -> Provider | None:
        origin = get_origin(key)
        if origin is type:  # dishka hands a generic provider its own type arguments
            return Provider(name_of(key), "", Scope.SINGLETON, (key,))
        general, provider = self._generic.get(origin or key, (None, None))
        if provider is None or not (origin is None or is_broader_or_same_type(general, key)):
            return None
        if origin is None:
            return provider
        arguments = get_typevar_replacement(general, key)
        dependencies = tuple(
            replace(dependency, type=substitute(dependency.type, arguments))
            for dependency in provider.dependencies
        )
        special = replace(provider, name=name_of(key), keys=(key,), dependencies=dependencies)
        special.origin = provider
        return special

    def _lifetime(self, provider: Provider, path: Path) -> tuple[Scope, Path]:
        """The scope, and the chain down to what has it."""
        if provider.scope is not None:
            return provider.scope, (provider,)
        if provider not in self._lifetimes:
            widest = (Scope.SINGLETON, (provider,))
            below = [
                self._lifetime(found, (*path, provider.origin))
                for _, found in self.supplied(provider)
                if found.origin not in (*path, provider.origin)
            ]
            scope, chain = max(below, key=lambda each: each[0], default=widest)
            self._lifetimes[provider] = (scope, (provider, *chain) if below else chain)
        return self._lifetimes[provider]

    def _advice(self, key: Any) -> str:
        if service_declaration(key) is not None:
            return "; it has @service, but is not among the services: list it"
        related = [
            provider
            for provided, provider in self._by_key.items()
            if inspect.isclass(key) and inspect.isclass(provided) and _derived(provided, key)
        ]
        if related:
            return f"; {related[0].name} is one: say @service(provides={name_of(key)}) there"
        if _options(key):
            return "; give the parameter a default to make it optional"
        return ""

    def _near(self, key: Any) -> tuple[str, ...]:
        named: dict[str, list[str]] = {}
        for provided, provider in self._by_key.items():
            named.setdefault(name_of(provided), []).append(f"{name_of(provided)} ({provider.where})")
        names = get_close_matches(name_of(key), named, n=3)
        return tuple(label for name in names for label in named[name])


class _Survey:
    """One walk over a graph, and what it found."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.problems: list[Problem] = []
        self._done: set[Provider] = set()

    def visit(self, provider: Provider, path: Path) -> None:
        """Check the provider's dependencies, and theirs; `path` led to it."""
        if provider in self._done:
            return
        self._done.add(provider)
        path = (*path, provider)
        for dependency in provider.dependencies:
            found = self.graph.find(dependency.type, required=dependency.required)
            if found is not None:
                self._follow(path, found)
            elif dependency.required and not isinstance(dependency.type, TypeVar):
                self.problems.append(self.graph.missing(dependency, path))

    def refuse(self, provider: Provider, without: frozenset[Any], path: Path, seen: set[Provider]) -> None:
        """Report each thing that the consumer reaches although it does not exist where the consumer runs."""
        seen.add(provider)
        path = (*path, provider)
        for _, found in self.graph.supplied(provider):
            lacking = _inhabits(found) & without
            if lacking:
                self._absent((*path, found), lacking)
            elif found not in seen and found.origin not in [step.origin for step in path]:
                self.refuse(found, without, path, seen)

    def _follow(self, path: Path, found: Provider) -> None:
        origins = [step.origin for step in path]
        if found.origin in origins:
            ring = (*path[origins.index(found.origin) :], found)
            message = "they need each other in a circle, so that none of them can be made first"
            self.problems.append(Problem("cycle", message, tuple(step.link() for step in ring)))
            return
        if path[-1].scope is not None and self.graph.lifetime(found) > path[-1].scope:
            self.problems.append(self.graph.too_narrow(path, found))
        self.visit(found, path)

    def _absent(self, path: Path, lacking: frozenset[Any]) -> None:
        culprit, what = path[-1], sorted(lacking, key=str)[0]
        reason = f"lives in the scope {what}" if isinstance(what, Scope) else "is passed in elsewhere only"
        message = f"{culprit.name} {reason}, which does not exist where {path[0].name} runs"
        self.problems.append(Problem("absent", message, tuple(step.link() for step in path)))


def _inhabits(provider: Provider) -> frozenset[Any]:
    outside = provider.keys if provider.target is None else ()
    return frozenset(outside) | ({provider.scope} if provider.scope is not None else frozenset())


def _derived(provided: type, key: type) -> bool:
    try:
        return issubclass(provided, key)
    except TypeError:  # a Protocol that is not checkable at run time
        return key in provided.__mro__
