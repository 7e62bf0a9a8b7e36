"""The workspace: the folder that an application is started from, and the manifests in it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Literal, Self

from aquilia.aquilary import BootError, Problem, import_problem
from aquilia.imports import Folder, importable
from aquilia.manifest import AppManifest, did_you_mean, parse_reference

__all__ = ["Environment", "Workspace", "WorkspaceError", "environment", "load_workspace"]

Environment = Literal["production", "development"]
_ENVIRONMENTS: tuple[Environment, ...] = ("production", "development")


class WorkspaceError(BootError):
    """A workspace without manifests, or with ones that cannot be loaded."""


def environment() -> Environment:
    """What `AQ_ENV` says: "production" (also where it is unset or empty) or "development".

    Raises WorkspaceError for any other value.
    """
    value = os.environ.get("AQ_ENV") or "production"
    if value in _ENVIRONMENTS:
        return value
    hint = did_you_mean(value.lower(), _ENVIRONMENTS)
    raise WorkspaceError([Problem("AQ_ENV", f"is {value!r}, not 'production' or 'development'{hint}")])


@dataclass(frozen=True, slots=True)
class _Source:
    """Where manifests are: an attribute of a module, whose file is known if it lies in the root."""

    where: str
    module: str
    attribute: str
    file: Path | None
    folder: Folder | None = None


@dataclass(frozen=True, eq=False)
class Workspace:
    """The manifests found from `root`, and their files in `places`, by name. Made by `load_workspace`.

    While it is open, what lies in it can be imported; `close`, or leaving it as a context manager, takes its
    modules out of the process again. A server keeps its workspace open.
    """

    root: Path
    manifests: tuple[AppManifest, ...]
    places: Mapping[str, str]
    _folders: Mapping[str, Folder | None] = field(repr=False)
    _opened: ExitStack = field(repr=False)

    def import_module(self, name: str, manifest: AppManifest) -> ModuleType:
        """Import a module as the code beside this manifest would. Raises ImportError."""
        folder = self._folders.get(manifest.name)
        if folder is not None and folder.holds(name.partition(".")[0]):
            name = f"{folder.package}.{name}"
        return importlib.import_module(name)

    def close(self) -> None:
        """Take the root off `sys.path`, and what was loaded from it out of `sys.modules`."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_workspace(root: Path, app: str | None = None) -> Workspace:
    """Load `manifest.py` and every `modules/*/manifest.py` in `root`: the attribute `manifest` of each.

    `app`, of the form `"package.module:name"`, is loaded instead of them: an AppManifest or a list of them.
    One root can be open at a time in a process, any number of times.

    Raises WorkspaceError, which lists every problem.
    """
    root = Path(root).resolve()
    problems: list[Problem] = []
    found = _found(root, problems)
    if app is not None:
        sources, problems = [_named(root, app, found)], []
    else:
        sources = found
        if not sources and not problems:
            problems.append(Problem(str(root), _NOTHING_FOUND if root.is_dir() else "is not a folder"))
    with ExitStack() as opened:
        _make_importable(root, [*found, *sources], opened)
        loaded = [(source, manifest) for source in sources for manifest in _loaded(source, problems)]
        declared = [(_own_source(source, manifest, found), manifest) for source, manifest in loaded]
        places = _places(declared, problems)
        if problems:
            raise WorkspaceError(problems)
        folders = {manifest.name: source.folder for source, manifest in declared}
        manifests = tuple(manifest for _, manifest in declared)
        return Workspace(root, manifests, MappingProxyType(places), folders, opened.pop_all())


def _make_importable(root: Path, sources: Iterable[_Source], opened: ExitStack) -> None:
    folders = [source.folder for source in sources if source.folder is not None]
    names = [source.module.partition(".")[0] for source in sources if source.file is not None]
    try:
        opened.enter_context(importable(root, folders, names))
    except RuntimeError as error:
        raise WorkspaceError([Problem(str(root), str(error))]) from None


_NOTHING_FOUND = (
    "there is no manifest: looked for manifest.py and modules/*/manifest.py; "
    "`aq init NAME` creates one, `--app package.module:name` names one elsewhere"
)


def _found(root: Path, problems: list[Problem]) -> list[_Source]:
    sources = []
    for file in [root / "manifest.py", *sorted(root.glob("modules/[!.]*/manifest.py"))]:
        parts = file.relative_to(root).with_suffix("").parts
        if not all(part.isidentifier() for part in parts):
            problems.append(Problem(str(file), f"{file.parent.name!r} is no name for a Python package"))
        elif file.is_file():
            folder = Folder(file.parent, ".".join(parts[:-1])) if len(parts) > 1 else None
            sources.append(_Source(str(file), ".".join(parts), "manifest", file, folder))
    return sources


def _named(root: Path, app: str, found: Iterable[_Source]) -> _Source:
    try:
        module, attribute = parse_reference(app)
    except ValueError as error:
        raise WorkspaceError([Problem("app", str(error))]) from None
    for source in found:
        if source.module == module:
            return replace(source, where=app, attribute=attribute)
    path = root.joinpath(*module.split("."))
    file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
    # A folder with __init__.py is a package of its own: its modules say what they import in full.
    bare = "." in module and file is not None and not (file.parent / "__init__.py").is_file()
    folder = Folder(path.parent, module.rpartition(".")[0]) if bare else None
    return _Source(app, module, attribute, file, folder)


def _loaded(source: _Source, problems: list[Problem]) -> Sequence[AppManifest]:
    try:
        module = importlib.import_module(source.module)
    except Exception as error:  # whatever a manifest does when it is imported
        beside = [str(source.folder.path)] if source.folder else []
        problems.append(Problem(source.where, import_problem(error, beside=beside)))
        return ()
    try:
        value = attrgetter(source.attribute)(module)
    except AttributeError:
        hint = did_you_mean(source.attribute, vars(module))
        problems.append(Problem(source.where, f"has no attribute {source.attribute!r}, an AppManifest{hint}"))
        return ()
    manifests = value if isinstance(value, (list, tuple)) else [value]
    if manifests and all(isinstance(manifest, AppManifest) for manifest in manifests):
        return manifests
    problem = f"{source.attribute!r} is {value!r}, not an AppManifest or a list of them"
    problems.append(Problem(source.where, problem))
    return ()


def _own_source(named: _Source, manifest: AppManifest, found: Iterable[_Source]) -> _Source:
    """The source beside which a manifest was written, where `named` only gathers it."""
    if named in found:
        return named
    for source in found:
        if getattr(sys.modules.get(source.module), "manifest", None) is manifest:
            return source
    return named


def _places(declared: Iterable[tuple[_Source, AppManifest]], problems: list[Problem]) -> dict[str, str]:
    places: dict[str, str] = {}
    for source, manifest in declared:
        place = str(source.file or source.where)
        if taken := places.get(manifest.name):
            problems.append(Problem(place, f"the app name {manifest.name!r} is taken by {taken}"))
        else:
            places[manifest.name] = place
    return places
