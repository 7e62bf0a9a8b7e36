"""The registry: every app of a process, validated, resolved, in order of dependency, with one fingerprint."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import hashlib
import importlib
import json
import math
import os
import pathlib
import pkgutil
import sys
import traceback
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from types import ModuleType
from typing import Any

import msgspec

from aquilia.manifest import AppManifest, did_you_mean, parse_reference, sessions_problem
from aquilia.sessions import SessionEngine

__all__ = [
    "App",
    "BootError",
    "Problem",
    "Registry",
    "RegistryError",
    "canonical_json",
    "import_problem",
    "qualified_name",
]

ImportModule = Callable[[str, AppManifest], ModuleType]
Describe = Callable[[type], Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong at boot, and where: a file, with its line where known, or a manifest's name."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class BootError(Exception):
    """What was declared cannot run; `problems` holds all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class RegistryError(BootError):
    """The manifests contradict each other, or name what does not exist."""


@dataclass(frozen=True, slots=True)
class App:
    """A manifest with its references resolved. Its sessions are the first of its middleware as well."""

    manifest: AppManifest
    controllers: tuple[type, ...]
    services: tuple[Any, ...]
    middleware: tuple[Any, ...]
    sessions: SessionEngine | None = None
    auth: Any = None
    """Its AuthManager, or the class of it."""


def _import_module(name: str, manifest: AppManifest) -> ModuleType:
    return importlib.import_module(name)


def _no_metadata(controller: type) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Registry:
    """All apps of a process.

    `apps` are in order of dependency, and otherwise in that of declaration. `fingerprint` is a hex SHA-256
    over what the manifests and controllers declare: equal in every process that runs the same declarations,
    whatever else changed in the code.
    """

    apps: tuple[App, ...]
    fingerprint: str

    @classmethod
    def build(
        cls,
        manifests: Iterable[AppManifest],
        *,
        places: Mapping[str, str] | None = None,
        describe: Describe = _no_metadata,
        import_module: ImportModule = _import_module,
    ) -> Registry:
        """Validate and resolve the manifests; raises RegistryError, which lists every problem.

        `places` tells the file of a manifest by its name, for error messages. `describe` returns what a
        controller declares, as data for the fingerprint. `import_module(name, manifest)` imports a module
        that this manifest names (see `Workspace.import_module`).
        """
        validation = _Validation(places or {}, import_module)
        named = validation.by_name(manifests)
        order = validation.order(named)
        resolved = {name: validation.resolve(manifest) for name, manifest in named.items()}
        validation.refuse_shared_controllers(resolved.values())
        validation.refuse_shared_cookies(resolved.values())
        if validation.problems:
            raise RegistryError(validation.problems)
        apps = tuple(resolved[name] for name in order)
        return cls(apps, _fingerprint(apps, describe))

    def boot_problems(self) -> list[Problem]:
        """What this environment lacks for the apps to run; none of it is needed to compile them."""
        problems = []
        for app in self.apps:
            lacking = app.auth if isinstance(app.auth, type) else None  # an object has all that it needs
            for part in (app.sessions, lacking):
                ask = getattr(part, "boot_problem", None)
                if ask is not None and (problem := ask()):
                    problems.append(Problem(f"manifest {app.manifest.name!r}", problem))
        return problems


class _Validation:
    """The checks of `Registry.build`; each notes its problems and goes on with what is left."""

    def __init__(self, places: Mapping[str, str], import_module: ImportModule) -> None:
        self.problems: list[Problem] = []
        self._places = places
        self._import_module = import_module

    def by_name(self, manifests: Iterable[AppManifest]) -> dict[str, AppManifest]:
        named: dict[str, AppManifest] = {}
        for manifest in manifests:
            if manifest.name in named:
                self._note(manifest, f"two apps are called {manifest.name!r}")
            named.setdefault(manifest.name, manifest)
        return named

    def order(self, named: Mapping[str, AppManifest]) -> list[str]:
        """The names in order of dependency; unknown ones, and one edge of each cycle, are left out."""
        graph = {name: self._known_dependencies(manifest, named) for name, manifest in named.items()}
        while True:
            sorter = TopologicalSorter(graph)
            try:
                sorter.prepare()
            except CycleError as error:
                cycle = _dependency_chain(error.args[1], list(named))
                self._note(named[cycle[0]], f"depends_on goes in a circle: {' → '.join(cycle)}")
                graph[cycle[0]].remove(cycle[1])
            else:
                return _in_order(sorter, list(named))

    def resolve(self, manifest: AppManifest) -> App:
        sessions = self._sessions(manifest)
        return App(
            manifest,
            controllers=tuple(self._classes(manifest, self._resolved(manifest, "controllers"))),
            services=tuple(self._resolved(manifest, "services")),
            middleware=(*([sessions] if sessions else []), *self._resolved(manifest, "middleware")),
            sessions=sessions,
            auth=next(self._resolve_each(manifest, "auth", [manifest.auth]), None),
        )

    def refuse_shared_controllers(self, apps: Iterable[App]) -> None:
        owners: dict[type, str] = {}
        for app in apps:
            for controller in app.controllers:
                if (owner := owners.get(controller)) is not None:
                    also = "twice" if owner == app.manifest.name else f"here and in app {owner!r}"
                    self._note(app.manifest, f"controllers: {qualified_name(controller)} is listed {also}")
                owners.setdefault(controller, app.manifest.name)

    def refuse_shared_cookies(self, apps: Iterable[App]) -> None:
        """Two engines with one cookie would each take the other's for forged, and put their own in its place."""
        owners: dict[str, App] = {}
        for app in apps:
            if app.sessions is None:
                continue
            owner = owners.setdefault(app.sessions.cookie, app)
            if owner.sessions is not app.sessions:
                self._note(
                    app.manifest,
                    f"sessions: app {owner.manifest.name!r} has another SessionEngine with the cookie "
                    f"{app.sessions.cookie!r}: share one engine, or give one of them another cookie",
                )

    def _sessions(self, manifest: AppManifest) -> SessionEngine | None:
        found = manifest.sessions
        try:
            engine = self._referenced(found, manifest) if isinstance(found, str) else found
        except _Unresolved as error:
            self._note(manifest, f"sessions: {found!r}: {error}")
            return None
        if problem := sessions_problem(engine):
            self._note(manifest, f"sessions: {found!r}: {problem}")
            return None
        return engine

    def _note(self, manifest: AppManifest, message: str) -> None:
        self.problems.append(Problem(self._places.get(manifest.name, manifest.name), message))

    def _known_dependencies(self, manifest: AppManifest, named: Mapping[str, AppManifest]) -> list[str]:
        for name in manifest.depends_on:
            if name not in named:
                self._note(manifest, f"depends_on: there is no app {name!r}{did_you_mean(name, named)}")
        return [name for name in dict.fromkeys(manifest.depends_on) if name in named]

    def _classes(self, manifest: AppManifest, controllers: Iterable[Any]) -> Iterator[type]:
        for controller in controllers:
            if isinstance(controller, type):
                yield controller
            else:
                self._note(manifest, f"controllers: {qualified_name(controller)} is not a class")

    def _resolved(self, manifest: AppManifest, field: str) -> Iterator[Any]:
        yield from self._resolve_each(manifest, field, getattr(manifest, field))

    def _resolve_each(self, manifest: AppManifest, field: str, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            try:
                yield self._referenced(item, manifest) if isinstance(item, str) else item
            except _Unresolved as error:
                self._note(manifest, f"{field}: {item!r}: {error}")

    def _referenced(self, reference: str, manifest: AppManifest) -> Any:
        module, attributes = parse_reference(reference)
        try:
            value: Any = self._import_module(module, manifest)
        except Exception as error:  # whatever the module does when it is imported
            raise _Unresolved(import_problem(error)) from error
        for attribute in attributes.split("."):
            if not hasattr(value, attribute):
                raise _Unresolved(
                    f"{_shown(value)} has no {attribute!r}{did_you_mean(attribute, dir(value))}"
                )
            value = getattr(value, attribute)
        return value


class _Unresolved(Exception):
    """A reference leads nowhere."""


def _dependency_chain(cycle: Sequence[str], declared: Sequence[str]) -> list[str]:
    chain = cycle[:0:-1]  # graphlib lists a cycle from dependency to dependent, with one node at both ends
    first = min(range(len(chain)), key=lambda at: declared.index(chain[at]))
    return [*chain[first:], *chain[: first + 1]]


def _in_order(sorter: TopologicalSorter[str], declared: Sequence[str]) -> list[str]:
    ready: list[str] = []
    order: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=declared.index)
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return order


def import_problem(error: Exception, *, beside: Iterable[str] = ()) -> str:
    """What went wrong in an import, at which line, and the nearest module where one is missing.

    `beside` are folders in which a top-level module may lie, besides those of `sys.path`.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    message = f"{type(error).__name__}: {error}"
    place = _last_place(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        message += did_you_mean(error.name, _modules_near(error.name, beside))
    return f"{message} ({place})" if place else message


_OWN_FOLDER = str(pathlib.Path(__file__).parent) + os.sep


def _last_place(error: Exception) -> str | None:
    """The last line outside of the import system and of this package."""
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(("<frozen importlib", importlib.__file__, _OWN_FOLDER)):
            place = f"{file}:{line}"
    return place


def _modules_near(missing: str, beside: Iterable[str]) -> list[str]:
    parent, dot, _ = missing.rpartition(".")
    paths = getattr(sys.modules.get(parent), "__path__", ()) if parent else (*beside, *sys.path)
    found = [f"{parent}{dot}{module.name}" for module in pkgutil.iter_modules(paths)]
    return found if parent else [*found, *sys.stdlib_module_names]


def _shown(value: Any) -> str:
    return repr(value.__name__) if isinstance(value, ModuleType) else qualified_name(value)


def _fingerprint(apps: Iterable[App], describe: Describe) -> str:
    declared = [_declared(app, describe) for app in sorted(apps, key=lambda app: app.manifest.name)]
    return hashlib.sha256(canonical_json({"format": 1, "apps": declared}).encode()).hexdigest()


def _declared(app: App, describe: Describe) -> dict[str, Any]:
    manifest = app.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "depends_on": frozenset(manifest.depends_on),
        "controllers": sorted(canonical_json([item, describe(item)]) for item in app.controllers),
        "services": sorted(map(canonical_json, app.services)),
        "middleware": app.middleware,  # their order is the order in which they run
        "websockets": manifest.websockets,
        "auth": None if app.auth is None else qualified_name(app.auth),  # nothing of its keys
    }


def qualified_name(value: object) -> str:
    """`module:Qualified.name` of a class or function; for any other object, that of its class."""
    names = (getattr(value, "__module__", None), getattr(value, "__qualname__", None))
    if not all(isinstance(name, str) for name in names):
        names = (type(value).__module__, type(value).__qualname__)
    return ":".join(map(str, names))


def canonical_json(value: Any) -> str:
    """One text for equal data, in every process: sorted keys, sorted sets, no space.

    Dataclass and msgspec Struct instances count by their fields; what has no form as data (classes,
    functions, other objects) by its qualified name alone.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


_TEXTUAL = (uuid.UUID, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, pathlib.PurePath)


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case enum.Enum():
            return {"$enum": f"{qualified_name(type(value))}.{value.name}"}
        case float():
            return value if math.isfinite(value) else {"$float": str(value)}
        case bytes():
            return {"$bytes": value.hex()}
        case Mapping():
            return {k if isinstance(k, str) else canonical_json(k): _plain(item) for k, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case set() | frozenset():
            return sorted(map(_plain, value), key=canonical_json)
    if isinstance(value, _TEXTUAL):
        return {"$name": qualified_name(value), "text": str(value)}
    if (origin := typing.get_origin(value)) is not None:
        return {"$generic": [_plain(origin), *map(_plain, typing.get_args(value))]}
    return {"$name": qualified_name(value), **_fields(value)}


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, msgspec.Struct):
        names: Sequence[str] = value.__struct_fields__
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        names = ()
    return {name: _plain(getattr(value, name)) for name in names}
