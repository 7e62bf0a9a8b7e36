"""Imports within a workspace: its root and the folder of each manifest are importable, without clashes.

`modules/chat/manifest.py` may say `from controllers import ChatSocket`, and so may
`modules/users/manifest.py` of its own `controllers.py`. Python keeps one module per name, so each is loaded
once, under its canonical name (`modules.chat.controllers`), and within a manifest's folder an absolute import
of something that lies beside the manifest is compiled as an import of that name.

- A folder's own files come first, for its own modules: before the root and before installed packages. Two
  exceptions: a module of the standard library is never hidden, and a file that imports its own name
  (`redis.py` with `import redis`) means the other one.
- Everyone else (tests, a shell, `importlib.import_module`) can import such a bare name where exactly one
  folder has it and nothing installed is called so. Where several have it, the ImportError tells their
  canonical names.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import ClassVar

__all__ = ["Folder", "WorkspaceFinder", "importable"]


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a manifest, and the package as which its modules are loaded."""

    path: Path
    package: str

    def holds(self, name: str) -> bool:
        """Whether a top-level name, imported by a module in this folder, means a file of the folder."""
        if name in sys.stdlib_module_names:
            return False
        return (self.path / f"{name}.py").is_file() or any((self.path / name).rglob("*.py"))


class _CanonicalImports(ast.NodeTransformer):
    """Names in full what a module imports from the folder of its manifest."""

    def __init__(self, module: str, folder: Folder) -> None:
        self._module = module
        self._folder = folder

    def visit_Import(self, node: ast.Import) -> ast.Import:
        node.names = [alias for name in node.names for alias in self._aliases(name)]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level == 0 and node.module and (canonical := self._canonical(node.module)):
            node.module = canonical
        return node

    def _aliases(self, name: ast.alias) -> list[ast.alias]:
        canonical = self._canonical(name.name)
        if canonical is None:
            return [name]
        top = _top(name.name)
        names = [ast.alias(canonical, name.asname or top)]
        if name.asname is None and name.name != top:  # `import a.b` binds a: what is bound last stays
            names.append(ast.alias(f"{self._folder.package}.{top}", top))
        return [ast.copy_location(alias, name) for alias in names]

    def _canonical(self, name: str) -> str | None:
        top = _top(name)
        own = self._module == f"{self._folder.package}.{top}"
        return None if own or not self._folder.holds(top) else f"{self._folder.package}.{name}"


class _CanonicalLoader(SourceFileLoader):
    def __init__(self, module: str, path: str, folder: Folder) -> None:
        super().__init__(module, path)
        self._folder = folder

    def get_code(self, fullname: str) -> CodeType:
        # Without a bytecode cache: that belongs to the source as it is written.
        path = self.get_filename(fullname)
        tree = _CanonicalImports(fullname, self._folder).visit(ast.parse(self.get_data(path), path))
        return compile(tree, path, "exec", dont_inherit=True)


class _SameModule(Loader):
    """Loads a module that is there already, or is loaded under its canonical name."""

    def __init__(self, canonical: str) -> None:
        self._canonical = canonical
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._canonical)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just put the other name's spec there


class WorkspaceFinder(MetaPathFinder):
    """Finds the modules of the manifests' folders under their canonical names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, Folder] = {}
        self.aliases: set[str] = set()

    @property
    def packages(self) -> set[str]:
        """The top-level packages in which the folders lie."""
        return {_top(package) for package in self.folders}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module below a manifest's folder, or of a package on the way there."""
        top = _top(fullname)
        if top in self.aliases and path is not None:
            return self.find_bare(fullname)
        if top not in self.packages:
            return None
        if path is None:
            # In the root alone: a regular package of that name elsewhere would hide one without __init__.py.
            return PathFinder.find_spec(fullname, [str(self.root)])
        if fullname in self.folders:  # its parent may be a namespace package that spans other roots too
            path = [str(self.folders[fullname].path.parent)]
        spec = PathFinder.find_spec(fullname, path)
        folder = self._folder_of(fullname)
        if spec is not None and folder is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _CanonicalLoader(fullname, spec.loader.path, folder)
        return spec

    def find_bare(self, name: str) -> ModuleSpec | None:
        """The spec of a module by its name within a folder, for code outside of all folders.

        Raises ImportError where several folders have one.
        """
        top = _top(name)
        owners = [f"{package}.{name}" for package, folder in self.folders.items() if folder.holds(top)]
        if len(owners) > 1:
            raise ImportError(
                f"{name!r} is in several folders: import it as {' or '.join(owners)}", name=name
            )
        if not owners:
            return None
        self.aliases.add(top)
        return ModuleSpec(name, _SameModule(owners[0]))

    def _folder_of(self, module: str) -> Folder | None:
        for package, folder in self.folders.items():
            if module == package or module.startswith(f"{package}."):
                return folder
        return None


class _LastResort(MetaPathFinder):
    """Asks for a bare name when nothing else in the process has it."""

    def __init__(self, finder: WorkspaceFinder) -> None:
        self._finder = finder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return self._finder.find_bare(fullname) if path is None else None


@contextmanager
def importable(root: Path, folders: Iterable[Folder], names: Iterable[str] = ()) -> Iterator[None]:
    """Make a root and the folders of its manifests importable; afterwards, take their modules out again.

    `names` are top-level modules that lie in the root: a module of such a name from elsewhere is set aside
    for the time being. Enter it again for the same root as often as you like; the last to leave cleans up.

    Raises RuntimeError while another root is open, whose modules could have the same names.
    """
    scope = _Scope.of(root)
    scope.enter(list(folders), set(names))
    try:
        yield
    finally:
        scope.leave()


class _Scope:
    """One root that is importable, and how many have entered it."""

    current: ClassVar[_Scope | None] = None

    @classmethod
    def of(cls, root: Path) -> _Scope:
        scope = cls.current or cls(root)
        if scope._root != root:
            raise RuntimeError(f"the workspace {scope._root} is still open in this process: close it first")
        return scope

    def __init__(self, root: Path) -> None:
        self._root = root
        self._finder = WorkspaceFinder(root)
        self._last = _LastResort(self._finder)
        self._entered = 0
        self._before = frozenset(sys.modules)
        self._aside: dict[str, ModuleType] = {}

    def enter(self, folders: Iterable[Folder], names: set[str]) -> None:
        if not self._entered:
            _Scope.current = self
            sys.path.insert(0, str(self._root))
            sys.meta_path.insert(0, self._finder)
            sys.meta_path.append(self._last)
        self._entered += 1
        importlib.invalidate_caches()  # the files may be younger than the last look at their folder
        self._finder.folders.update({folder.package: folder for folder in folders})
        for name in list(sys.modules):
            if _top(name) in names | self._finder.packages and not self._is_from_root(name):
                self._aside[name] = sys.modules.pop(name)

    def leave(self) -> None:
        self._entered -= 1
        if self._entered:
            return
        _Scope.current = None
        if sys.meta_path is None:  # the interpreter is ending, and has taken it down before us
            return
        sys.path.remove(str(self._root))
        sys.meta_path.remove(self._finder)
        sys.meta_path.remove(self._last)
        for name in set(sys.modules) - self._before:
            if self._is_ours(name):
                del sys.modules[name]
        sys.modules.update(self._aside)

    def _is_ours(self, name: str) -> bool:
        """Whether nothing but this workspace made the module importable."""
        top = _top(name)
        if top in self._finder.packages or top in self._finder.aliases:
            return True
        return self._is_from_root(name) and not any(finder.find_spec(top, None) for finder in sys.meta_path)

    def _is_from_root(self, name: str) -> bool:
        module = sys.modules[name]
        file = getattr(module, "__file__", None)
        places = [Path(place).resolve() for place in ([file] if file else getattr(module, "__path__", ()))]
        inside = self._root / _top(name)
        return any(place.is_relative_to(inside) or place == inside.with_suffix(".py") for place in places)


def _top(name: str) -> str:
    return name.partition(".")[0]
