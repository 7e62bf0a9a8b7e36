"""Turns what is declared into providers, and tells what is wrong with each declaration by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_origin

from aquilia.di.declaration import Scope, service_declaration
from aquilia.di.graph import Provider, key_of
from aquilia.di.problems import DIError, Link, Problem, name_of
from aquilia.di.signatures import Dependency, call_dependencies, constructor_dependencies, return_type
from aquilia.source import SourceLocation

__all__ = ["Collection"]


class Collection:
    """The providers of an application while they are gathered, and what is wrong with each by itself."""

    def __init__(self, overrides: Mapping[Any, Any]) -> None:
        self.providers: list[Provider] = []
        self.problems: list[Problem] = []
        self.broken: set[Any] = set()
        self._overrides = {_key(key): value for key, value in overrides.items()}
        self._replaced: set[Any] = set()
        self._by_key: dict[Any, Provider] = {}

    def declare(self, target: Any) -> None:
        """Add what a `@service` declares."""
        declaration = service_declaration(target)
        if declaration is None:
            message = f"{name_of(target)} is listed as a service, but has no @service"
            self.problems.append(
                Problem("declaration", message, (Link(name_of(target), str(SourceLocation.of(target))),))
            )
            self.broken.add(target)
            return
        try:
            keys = self._kept(_keys(target, declaration.provides))
        except DIError as error:
            self.problems += error.problems
            self.broken.update(declaration.provides or (target,))
            return
        if not keys:
            return
        try:
            dependencies = _needs(target)
        except DIError as error:
            self.problems += error.problems
            self.broken.update(keys)
        else:
            where = str(SourceLocation.of(target))
            self.add(Provider(name_of(keys[0]), where, declaration.scope, keys, dependencies, target))

    def add(self, provider: Provider) -> None:
        """Add a provider, whose types nothing else may provide."""
        provider.keys = tuple(key for key in self._kept(provider.keys) if self._is_first(key, provider))
        if provider.keys:
            self.providers.append(provider)

    def finish(self) -> None:
        """Put the ready objects in the place of what they override."""
        for key, value in self._overrides.items():
            if key in self._replaced:
                make = _constant(value)
                self.providers.append(
                    Provider(name_of(key), "an override", Scope.SINGLETON, (key,), (), make)
                )
            else:
                near = get_close_matches(name_of(key), [name_of(known) for known in self._by_key], n=3)
                message = f"an override is given for {name_of(key)}, but nothing provides it"
                self.problems.append(Problem("override", message, near=tuple(near)))

    def _kept(self, keys: Sequence[Any]) -> tuple[Any, ...]:
        self._replaced.update(key for key in keys if key in self._overrides)
        return tuple(key for key in keys if key not in self._overrides)

    def _is_first(self, key: Any, provider: Provider) -> bool:
        earlier = self._by_key.setdefault(key, provider)
        if earlier is not provider:
            chain = (Link(name_of(key), earlier.where), Link(name_of(key), provider.where))
            message = f"{name_of(key)} is provided twice: keep one of them"
            self.problems.append(Problem("duplicate", message, chain))
        return earlier is provider


def _keys(target: Any, provides: Sequence[Any]) -> tuple[Any, ...]:
    """The types that a declared service is looked up by. Raises `DIError` where it cannot be one of them."""
    keys = provides or ((target,) if inspect.isclass(target) else (return_type(target),))
    wrong = [message for key in keys if (message := _misfit(target, key))]
    if inspect.isabstract(target) or getattr(target, "_is_protocol", False):
        wrong.append("is abstract, so that no instance of it can be made: declare a class that implements it")
    if wrong:
        label = f"{name_of(target)} ({SourceLocation.of(target)})"
        raise DIError([Problem("declaration", f"{label} {message}") for message in wrong])
    return tuple(dict.fromkeys(_key(key) for key in keys))


def _misfit(target: Any, key: Any) -> str | None:
    if isinstance(key, str):
        return f"says provides={key!r}: name the type itself"
    plain = get_origin(key) or key
    if not inspect.isclass(target) or not inspect.isclass(plain) or getattr(plain, "_is_protocol", False):
        return None
    return (
        None
        if issubclass(target, plain)
        else f"says that it provides {name_of(key)}, but is no subclass of it"
    )


def _key(hint: Any) -> Any:
    key: Any = key_of(hint)
    # A generic class provides all its special cases.
    variables = getattr(key, "__parameters__", ())
    return key[variables] if variables and get_origin(key) is None else key


def _needs(target: Any) -> tuple[Dependency, ...]:
    return constructor_dependencies(target) if inspect.isclass(target) else call_dependencies(target, skip=0)


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value
