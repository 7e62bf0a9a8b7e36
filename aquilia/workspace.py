"""The workspace: the folder that an application is started from, and the manifests in it.

The root and the folder of each manifest are importable: `modules/chat/manifest.py` may say `from controllers
import ChatSocket`, and so may `modules/users/manifest.py` of its own `controllers.py`. Python keeps one module
per name, so each is loaded once, under its canonical name (`modules.chat.controllers`), and within a manifest's
folder an absolute import of something that lies beside the manifest is compiled as an import of that name.

- A folder's own files come first, for its own modules: before the root and before installed packages. Two
  exceptions: a module of the standard library is never hidden, and a file that imports its own name (`redis.py`
  with `import redis`) means the other one.
- Everyone else (tests, a shell, `importlib.import_module`) can import such a bare name where exactly one folder
  has it and nothing installed is called so. Where several have it, the ImportError tells their canonical names.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, MappingProxyType, ModuleType, TracebackType
from typing import Any, Literal, Self, cast

from aquilia.aquilary import BootError, Problem, import_problem
from aquilia.manifest import AppManifest, parse_reference

__all__ = ["Environment", "Workspace", "WorkspaceError", "WorkspaceFinder", "environment", "load_workspace"]

Environment = Literal["production", "development"]
_ENVIRONMENTS: tuple[Environment, ...] = ("production", "development")


class WorkspaceError(BootError):
    """A workspace without manifests, or with ones that cannot be loaded."""


def environment() -> Environment:
    """What `AQ_ENV` says: "production" (the default) or "development".

    Raises WorkspaceError for any other value.
    """
    value = os.environ.get("AQ_ENV") or "production"
    if value in _ENVIRONMENTS:
        return cast(Environment, value)
    hint = _hint(value.lower(), _ENVIRONMENTS)
    raise WorkspaceError([Problem("AQ_ENV", f"is {value!r}, not 'production' or 'development'{hint}")])


@dataclass(frozen=True, slots=True)
class _Folder:
    """The folder of a manifest, and the package as which its modules are loaded."""

    path: Path
    package: str

    def holds(self, name: str) -> bool:
        """Whether a module or package of this name lies here, and may be imported by it."""
        if name in sys.stdlib_module_names:
            return False
        return (self.path / f"{name}.py").is_file() or any((self.path / name).glob("*.py"))


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a manifest is looked for: an attribute of a module, and that module's file if it lies in the root."""

    where: str
    module: str
    attribute: str
    file: Path | None
    folder: _Folder | None = None


@dataclass(frozen=True, eq=False)
class Workspace:
    """The manifests found from `root`, and their files in `places`, by name. Made by `load_workspace`.

    While it is open, what lies in it can be imported; `close`, or leaving it as a context manager, takes its
    modules out of the process again. A server keeps its workspace open.
    """

    root: Path
    manifests: tuple[AppManifest, ...]
    places: Mapping[str, str]
    _folders: Mapping[str, _Folder | None] = field(repr=False)
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
    sources = found if app is None else [_named(root, app)]
    if problems:
        raise WorkspaceError(problems)
    if not sources:
        raise WorkspaceError([Problem(str(root), _NOTHING_FOUND)])
    with ExitStack() as opened:
        _Imports.open(root, [*found, *sources], opened)
        loaded = [(source, manifest) for source in sources for manifest in _loaded(source, problems)]
        places = _places(loaded, problems)
        if problems:
            raise WorkspaceError(problems)
        folders = {manifest.name: source.folder for source, manifest in loaded}
        manifests = tuple(manifest for _, manifest in loaded)
        return Workspace(root, manifests, MappingProxyType(places), folders, opened.pop_all())


_NOTHING_FOUND = (
    "there is no manifest: looked for manifest.py and modules/*/manifest.py; "
    "`aq init NAME` creates one, `--app package.module:name` names one elsewhere"
)


def _found(root: Path, problems: list[Problem]) -> list[_Source]:
    if not root.is_dir():
        problems.append(Problem(str(root), "is not a folder"))
    sources = []
    for file in [root / "manifest.py", *sorted(root.glob("modules/[!.]*/manifest.py"))]:
        parts = file.relative_to(root).with_suffix("").parts
        if not all(part.isidentifier() for part in parts):
            better = re.sub(r"\W", "_", file.parent.name)
            problems.append(Problem(str(file), f"its folder is no Python name: call it {better!r}"))
        elif file.is_file():
            folder = _Folder(file.parent, ".".join(parts[:-1])) if len(parts) > 1 else None
            sources.append(_Source(str(file), ".".join(parts), "manifest", file, folder))
    return sources


def _named(root: Path, app: str) -> _Source:
    try:
        module, attribute = parse_reference(app)
    except ValueError as error:
        raise WorkspaceError([Problem("app", str(error))]) from None
    path = root.joinpath(*module.split("."))
    file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
    package = module.rpartition(".")[0]
    if file is None or not package or (path.parent / "__init__.py").is_file() and ...:
        return _Source(app, module, attribute, file)
    return _Source(app, module, attribute, file, _Folder(path.parent, package))
