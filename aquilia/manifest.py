"""App manifests: what an app consists of, as data. Nothing is imported, resolved or started here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Never

if TYPE_CHECKING:
    from aquilia.auth import AuthManager

from aquilia.sessions import SessionEngine

__all__ = ["AppManifest", "ManifestError", "did_you_mean", "parse_reference", "sessions_problem"]


class ManifestError(ValueError):
    """An `AppManifest` with wrong arguments; `problems` names each of them."""

    def __init__(self, manifest: object, problems: Sequence[str]) -> None:
        super().__init__(manifest, tuple(problems))
        self.manifest = manifest
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return f"app manifest {self.manifest!r}: " + "; ".join(self.problems)


@dataclass(frozen=True, slots=True, init=False)
class AppManifest:
    """One app: its name, what belongs to it, and its settings. Immutable.

    Controllers, services and middleware are given as objects or as `"package.module:Name"`, which the
    registry resolves when it is built; so is the engine of `sessions`. `auth` is the app's AuthManager (see
    `aquilia.auth`): an object, a class that DI builds when the app starts, or the name of either. `depends_on` names
    other apps. `websockets` holds the settings of the sockets subsystem, which checks them; mappings and lists inside
    it become immutable too.

        manifest = AppManifest("chat", controllers=[ChatSocket], websockets={"adapter": "redis"})

    Raises ManifestError, which lists every wrong argument.
    """

    name: str
    version: str
    controllers: tuple[type | str, ...]
    services: tuple[Any, ...]
    middleware: tuple[Any, ...]
    sessions: SessionEngine | str | None
    websockets: Mapping[str, Any]
    depends_on: tuple[str, ...]
    auth: Any

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.0",
        controllers: Sequence[type | str] = (),
        services: Sequence[Any] = (),
        middleware: Sequence[Any] = (),
        sessions: SessionEngine | str | None = None,
        websockets: Mapping[str, Any] = MappingProxyType({}),
        depends_on: Sequence[str] = (),
        auth: AuthManager | type[AuthManager] | str | None = None,
        **unknown: Never,  # named in the error instead of a bare TypeError; type checkers refuse them as well
    ) -> None:
        arguments = _Arguments()
        arguments.refuse(unknown, known=list(self.__slots__))
        fields = {
            "name": arguments.name(name),
            "version": arguments.version(version),
            "controllers": arguments.items("controllers", controllers, _controller_problem),
            "services": arguments.items("services", services, _component_problem),
            "middleware": arguments.items("middleware", middleware, _component_problem),
            "sessions": arguments.sessions(sessions),
            "websockets": arguments.settings("websockets", websockets),
            "depends_on": arguments.items("depends_on", depends_on, _app_name_problem),
            "auth": arguments.component("auth", auth),
        }
        if arguments.problems:
            raise ManifestError(name, arguments.problems)
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __hash__(self) -> int:
        return hash((self.name, self.version))


def parse_reference(reference: str) -> tuple[str, str]:
    """Split `"package.module:Name"` into the module and the attribute, either of which may be dotted.

    Raises ValueError, which shows the form.
    """
    module, _, attribute = reference.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{reference!r} is not of the form 'package.module:Name'")
    return module, attribute


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest of the known names, or nothing where none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


_SLUG = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_LONGEST_NAME = 64


def _app_name_problem(name: object) -> str | None:
    if not isinstance(name, str):
        return f"an app's name is a string, not {_described(name)}"
    if _SLUG.fullmatch(name) and len(name) <= _LONGEST_NAME:
        return None
    nearest = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:_LONGEST_NAME].rstrip("-")
    return (
        f"{name!r} is no name for an app: up to {_LONGEST_NAME} of a-z, 0-9, '-' and '_', a letter first"
        + (f"; for instance {nearest!r}" if nearest else "")
    )


def _reference_problem(reference: str) -> str | None:
    try:
        parse_reference(reference)
    except ValueError as error:
        return str(error)
    return None


def sessions_problem(item: object) -> str | None:
    """Why an app cannot have these sessions; None if it can, and if it has none."""
    if item is None or isinstance(item, SessionEngine):
        return None
    more = "; write SessionEngine()" if item is SessionEngine else ""
    return f"a SessionEngine is needed, not {_described(item)}{more}"


def _controller_problem(item: object) -> str | None:
    if isinstance(item, str):
        return _reference_problem(item)
    return None if isinstance(item, type) else f"a controller is a class, not {_described(item)}"


_PLAIN_DATA = (type(None), bool, int, float, complex, bytes, list, tuple, dict, set, frozenset)


def _component_problem(item: object) -> str | None:
    if isinstance(item, str):
        return _reference_problem(item)
    if isinstance(item, _PLAIN_DATA):
        return f"expected a class, a function, an object or 'package.module:Name', not {_described(item)}"
    return None


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return f"{value!r} ({type(value).__name__})"


class _Arguments:
    """Checks arguments one by one, and collects the problems instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def refuse(self, unknown: Iterable[str], *, known: Sequence[str]) -> None:
        for argument in unknown:
            hint = did_you_mean(argument, known) or f"; there are {', '.join(known)}"
            self.problems.append(f"unknown argument {argument!r}{hint}")

    def name(self, value: object) -> object:
        if problem := _app_name_problem(value):
            self.problems.append(f"name: {problem}")
        return value

    def version(self, value: object) -> object:
        if not isinstance(value, str):
            self.problems.append(f"version: is a string such as '1.2.0', not {_described(value)}")
        elif not value or not value.isprintable() or " " in value:
            self.problems.append(f"version: {value!r} is no version such as '1.2.0'")
        return value

    def items(
        self, argument: str, value: object, problem_of: Callable[[object], str | None]
    ) -> tuple[object, ...]:
        if not isinstance(value, (list, tuple)):
            self.problems.append(f"{argument}: is a list, not {_described(value)}")
            return ()
        items = tuple(value)
        for place, item in enumerate(items):
            if problem := problem_of(item):
                self.problems.append(f"{argument}[{place}]: {problem}")
        return items

    def component(self, argument: str, value: object) -> object:
        if value is not None and (problem := _component_problem(value)):
            self.problems.append(f"{argument}: {problem}")
        return value

    def sessions(self, value: object) -> object:
        problem = _reference_problem(value) if isinstance(value, str) else sessions_problem(value)
        if problem:
            self.problems.append(f"sessions: {problem}")
        return value

    def settings(self, argument: str, value: object) -> object:
        if not isinstance(value, Mapping):
            self.problems.append(f"{argument}: is a mapping of settings, not {_described(value)}")
            return value
        for key in value:
            if not isinstance(key, str):
                self.problems.append(f"{argument}: the name of a setting is a string, not {_described(key)}")
        return _frozen(value)


def _frozen(value: object) -> object:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    if type(value) is list or type(value) is tuple:
        return tuple(_frozen(item) for item in value)
    return frozenset(value) if isinstance(value, set) else value
