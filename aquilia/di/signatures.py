"""Reads from a constructor or function what it needs, and from a factory what it provides."""

from __future__ import annotations

import inspect
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

from aquilia.di.problems import DIError, Problem, name_of
from aquilia.source import SourceLocation

__all__ = ["Dependency", "call_dependencies", "constructor_dependencies", "return_type", "substitute"]

_PROTOCOL_INIT = type("_Stub", (Protocol,), {}).__init__  # type: ignore[misc]
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_GENERATORS = {True: (AsyncIterator, AsyncIterable, AsyncGenerator), False: (Iterator, Iterable, Generator)}


@dataclass(frozen=True, slots=True)
class Dependency:
    """A parameter that is injected: by the type of its annotation, which may be `Annotated`.

    One that has a default is not `required`: where nothing provides its type, the default is used.
    """

    name: str
    type: Any
    required: bool = True


def constructor_dependencies(cls: type) -> tuple[Dependency, ...]:
    """What `cls(…)` takes. Raises `DIError` with each parameter that does not say what it is."""
    owner, function = _constructor(cls)
    arguments = _type_arguments(cls, owner)
    modules: list[Mapping[str, Any]] = [vars(sys.modules[base.__module__]) for base in cls.__mro__]
    declared = getattr(cls, "__signature__", None)
    if isinstance(declared, inspect.Signature):  # models: msgspec, pydantic
        parameters, name = list(declared.parameters.values()), name_of(cls)
    elif function is None:
        return ()
    else:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        modules.insert(0, _globals(function))
        name = f"{name_of(cls)}.{function.__name__}"
    found = _dependencies(parameters, modules, f"{name} ({SourceLocation.of(function or cls)})")
    return tuple(Dependency(each.name, substitute(each.type, arguments), each.required) for each in found)


def call_dependencies(function: Callable[..., Any], *, skip: int) -> tuple[Dependency, ...]:
    """What `function` takes after its first `skip` positional parameters, which its caller passes.

    Raises `DIError` with each parameter that does not say what it is.
    """
    parameters = list(inspect.signature(function).parameters.values())
    passed = [parameter for parameter in parameters if parameter.kind in _POSITIONAL][:skip]
    injected = [parameter for parameter in parameters if parameter not in passed]
    return _dependencies(
        injected, [_globals(function)], f"{name_of(function)} ({SourceLocation.of(function)})"
    )


def return_type(factory: Callable[..., Any]) -> Any:
    """What a factory function provides; of a generator, what it yields.

    Raises `DIError` where the function does not say.
    """
    label = f"{name_of(factory)} ({SourceLocation.of(factory)})"
    annotation = inspect.signature(factory).return_annotation
    if annotation in (Parameter.empty, None, "None"):
        message = f"{label} has no return annotation: it says what the service provides"
        raise DIError([Problem("signature", message)])
    provided = _evaluate(annotation, [_globals(factory)], f"the return annotation of {label}")
    plain = inspect.unwrap(factory)
    asynchronous = inspect.isasyncgenfunction(plain)
    if not asynchronous and not inspect.isgeneratorfunction(plain):
        return provided
    if get_origin(provided) not in _GENERATORS[asynchronous]:
        expected = "AsyncIterator" if asynchronous else "Iterator"
        message = f"{label} yields: annotate what it returns as {expected}[…], not {name_of(provided)}"
        raise DIError([Problem("signature", message)])
    return get_args(provided)[0]


def substitute(hint: Any, arguments: Mapping[Any, Any]) -> Any:
    """`hint` with its type variables replaced by what `arguments` has for them."""
    if isinstance(hint, TypeVar):
        return arguments.get(hint, hint)
    variables = getattr(hint, "__parameters__", ())
    if not variables or get_origin(hint) is None or not arguments:
        return hint
    return hint[tuple(arguments.get(variable, variable) for variable in variables)]


def _dependencies(
    parameters: Sequence[Parameter], modules: Sequence[Mapping[str, Any]], label: str
) -> tuple[Dependency, ...]:
    found: list[Dependency] = []
    problems: list[Problem] = []
    for parameter in parameters:
        try:
            found.append(_dependency(parameter, modules, label))
        except DIError as error:
            problems += error.problems
    if problems:
        raise DIError(problems)
    return tuple(found)


def _dependency(parameter: Parameter, modules: Sequence[Mapping[str, Any]], label: str) -> Dependency:
    wrong = None
    if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        wrong = f"takes {parameter}: services are injected into named parameters only"
    elif parameter.kind is Parameter.POSITIONAL_ONLY:
        wrong = f"takes {parameter.name!r} by position only: services are injected by name"
    elif parameter.annotation is Parameter.empty:
        wrong = f"has no annotation for parameter {parameter.name!r}: it says what is injected"
    if wrong is not None:
        raise DIError([Problem("signature", f"{label} {wrong}")])
    hint = _evaluate(parameter.annotation, modules, f"parameter {parameter.name!r} of {label}")
    return Dependency(parameter.name, hint, parameter.default is Parameter.empty)


def _evaluate(annotation: Any, modules: Sequence[Mapping[str, Any]], label: str) -> Any:
    # A dataclass may inherit a field whose annotation only the base's module can resolve: try each.
    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    failure: Exception | None = None
    for names in modules:
        try:
            return get_type_hints(holder, globalns=dict(names), include_extras=True)["it"]
        except Exception as error:  # annotations are code: anything may go wrong in them
            failure = failure or error
    message = (
        f"{label} is annotated {annotation!r}, which cannot be resolved: {failure}. "
        "A name that is imported under TYPE_CHECKING or defined inside a function does not exist at run time"
    )
    raise DIError([Problem("signature", message)]) from failure


def _globals(function: Callable[..., Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    return found


def _constructor(cls: type) -> tuple[type, Any]:
    """The class that says how `cls` is built, and its function; None where it is none of Python's own."""
    for method in ("__init__", "__new__"):
        for owner in cls.__mro__:
            function = vars(owner).get(method)
            function = getattr(function, "__func__", function)
            if inspect.isfunction(function) and function is not _PROTOCOL_INIT:
                return owner, function
    return cls, None


def _type_arguments(cls: type, owner: type) -> dict[Any, Any]:
    """What the type variables of the generic class `owner` stand for in its subclass `cls`."""
    if cls is owner:
        return {}
    bases = ((get_origin(base) or base, base) for base in vars(cls).get("__orig_bases__", cls.__bases__))
    origin, base = next(pair for pair in bases if owner in getattr(pair[0], "__mro__", ()))
    here = dict(zip(getattr(origin, "__parameters__", ()), get_args(base), strict=False))
    above = _type_arguments(origin, owner)
    return {variable: substitute(hint, here) for variable, hint in above.items()} if above else here
