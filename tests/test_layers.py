"""The layers of the house: who may import whom, which modules are pure, and how long a file may grow.

Sources are parsed, never imported. Every import counts, wherever it stands: inside a function, and under
TYPE_CHECKING too, since a name that is needed for its type alone is knowledge of a higher layer as well.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from layers import GROUPS

ROOT = Path(__file__).resolve().parent.parent

PURE = (1, 2)
LINES_AT_MOST = 500

# What a pure module does without, and so does all that it imports. `secrets` may stay: it yields names that
# nobody shall foresee, which is no input that a test would want to repeat.
IMPURE = frozenset(
    {
        "asyncio",
        "concurrent",
        "ctypes",
        "fcntl",
        "ftplib",
        "http.client",
        "http.server",
        "imaplib",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "random",
        "sched",
        "select",
        "selectors",
        "shutil",
        "signal",
        "smtplib",
        "socket",
        "socketserver",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib.request",
    }
)
PURE_LIBRARIES = frozenset({"cbor2", "itsdangerous", "msgspec", "pydantic"})


class Sources:
    """The package's source files, by their path below its folder."""

    def __init__(self, package: Path) -> None:
        self.package = package
        sources = [path for path in package.rglob("*.py") if not _only_says_what_its_folder_is(path)]
        self.files = sorted(path.relative_to(package).as_posix() for path in sources)
        self._group = {entry: number for number, entries in GROUPS.items() for entry in entries}
        self.imports = cache(self._imports)

    def entry(self, file: str) -> str | None:
        """The entry of `GROUPS` that lists this file."""
        fitting = [
            entry for entry in self._group if entry == file or (entry[-1] == "/" and file.startswith(entry))
        ]
        return max(fitting, key=len) if fitting else None

    def group(self, file: str) -> int | None:
        """The number of the group that lists this file."""
        entry = self.entry(file)
        return None if entry is None else self._group[entry]

    def _imports(self, file: str) -> frozenset[str]:
        """Each thing that the file imports: a file of the package, or the full name of a foreign one."""
        tree = ast.parse((self.package / file).read_text(encoding="utf-8"), file)
        return frozenset(self._resolve(name) for name in _imported_names(tree, file, self.package.name))

    def _resolve(self, name: str) -> str:
        top, *parts = name.split(".")
        if top != self.package.name:
            return name
        while parts:
            for candidate in (f"{'/'.join(parts)}.py", f"{'/'.join(parts)}/__init__.py"):
                if candidate in self.files:
                    return candidate
            parts.pop()  # the last part was a name inside a module
        return "__init__.py" if "__init__.py" in self.files else name

    def unlisted(self) -> list[str]:
        """Files that no group lists."""
        return [file for file in self.files if self.group(file) is None]

    def upward_imports(self) -> list[str]:
        """Imports of a file in a higher group."""
        return [
            f"{file} (group {self.group(file)}) imports {target} (group {self.group(target)})"
            for file in self.files
            for target in sorted(self.imports(file))
            if target in self.files and self._above(target, file)
        ]

    def _above(self, target: str, file: str) -> bool:
        groups = self.group(target), self.group(file)
        return None not in groups and groups[0] > groups[1]

    def impurities(self) -> list[str]:
        """Imports by which a pure module reaches an event loop, a socket, a clock or chance."""
        pure = [file for file in self.files if self.group(file) in PURE]
        return [found for file in pure for found in self._impure(file, (file,))]

    def _impure(self, file: str, chain: tuple[str, ...]) -> Iterator[str]:
        for target in sorted(self.imports(file)):
            if target in self.files:
                if target not in chain and not self._above(target, file):
                    yield from self._impure(target, (*chain, target))
            elif not _is_pure(target):
                yield " imports ".join((*chain, target))


def _only_says_what_its_folder_is(path: Path) -> bool:
    """Whether it is an `__init__.py` with a docstring and nothing else: it belongs to no group."""
    if path.name != "__init__.py":
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return len(tree.body) == 1 and ast.get_docstring(tree) is not None


def _is_pure(name: str) -> bool:
    top, *_ = parts = name.split(".")
    if top not in sys.stdlib_module_names:
        return top in PURE_LIBRARIES
    return IMPURE.isdisjoint(itertools.accumulate(parts, "{}.{}".format))


def _imported_names(tree: ast.AST, file: str, package: str) -> Iterator[str]:
    folders = [package, *Path(file).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def listed(lines: list[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


AQUILIA = Sources(ROOT / "aquilia")


def test_every_module_is_listed_in_a_group():
    unlisted = AQUILIA.unlisted()
    assert not unlisted, (
        "these files of aquilia/ belong to no group; add each to GROUPS in tests/test_layers.py, "
        f"with its like, and to the map in CONTRIBUTING.md:{listed(unlisted)}"
    )


def test_no_module_is_listed_twice():
    entries = list(itertools.chain.from_iterable(GROUPS.values()))
    assert sorted(set(entries)) == sorted(entries)


def test_a_file_imports_only_from_its_own_group_or_a_lower_one():
    upward = AQUILIA.upward_imports()
    assert not upward, f"a lower group knows nothing of a higher one:{listed(upward)}"


def test_values_and_machines_are_pure():
    impure = AQUILIA.impurities()
    assert not impure, f"time, bytes and chance are passed in to groups 1 and 2:{listed(impure)}"


def test_no_file_is_too_long():
    folders = ("aquilia", "tests", "modules", "benchmarks", "scripts", "docs", "deploy")
    sources = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    too_long = [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > LINES_AT_MOST]
    assert not too_long, f"split what has more than {LINES_AT_MOST} lines:{listed(too_long)}"


@pytest.mark.parametrize("number", GROUPS)
def test_the_map_in_contributing_shows_just_the_files_that_are_there(number):
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = contributing.split(f"\n### {number} ")[1].split("\n##")[0]
    shown = set(re.findall(r"^- `(.+?)`:", section, re.MULTILINE))
    there = {
        AQUILIA.entry(file).removeprefix("sockets/")
        for file in AQUILIA.files
        if AQUILIA.group(file) == number
    }
    assert shown == there, (
        f"group {number} on the map in CONTRIBUTING.md lacks {sorted(there - shown)}, "
        f"and shows {sorted(shown - there)}, which is not there"
    )


def make_package(folder: Path, sources: dict[str, str]) -> Sources:
    package = folder / "aquilia"
    for name, source in sources.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return Sources(package)


@pytest.mark.parametrize(
    "form",
    [
        "import aquilia.sockets.hub",
        "from aquilia.sockets import hub",
        "from aquilia.sockets.hub import Hub",
        "from . import hub",
        "from .hub import Hub",
        "from ..sockets.hub import Hub",
        "def later():\n    from aquilia.sockets.hub import Hub",
        "if TYPE_CHECKING:\n    from aquilia.sockets.hub import Hub",
    ],
)
def test_an_upward_import_is_found_in_every_form(tmp_path, form):
    package = make_package(tmp_path, {"sockets/hub.py": "", "sockets/history.py": form})
    assert package.upward_imports() == ["sockets/history.py (group 2) imports sockets/hub.py (group 6)"]


def test_the_host_may_not_reach_for_the_exports_of_sockets(tmp_path):
    package = make_package(
        tmp_path, {"sockets/__init__.py": "", "auth.py": "from aquilia.sockets import Socket"}
    )
    assert package.upward_imports() == ["auth.py (group 0) imports sockets/__init__.py (group 7)"]


def test_a_port_stands_below_the_folder_that_implements_it(tmp_path):
    package = make_package(
        tmp_path,
        {
            "sockets/adapters/base.py": "",
            "sockets/adapters/redis.py": "from .base import Broker",
            "sockets/dispatch.py": "from aquilia.sockets.adapters.base import Broker",
        },
    )
    assert package.upward_imports() == []


def test_impurity_is_found_through_other_modules(tmp_path):
    package = make_package(
        tmp_path,
        {
            "faults.py": "import logging",
            "auth.py": "import asyncio",
            "sockets/history.py": "import msgspec\nfrom aquilia.faults import Fault\nfrom .. import auth",
            "sockets/router.py": "import redis\nfrom urllib.parse import unquote",
            "sockets/room_names.py": "from time import monotonic",
            "sockets/hub.py": "import asyncio",
        },
    )
    assert package.impurities() == [
        "sockets/history.py imports auth.py imports asyncio",
        "sockets/room_names.py imports time.monotonic",
        "sockets/router.py imports redis",
    ]


def test_an_unlisted_file_is_found(tmp_path):
    package = make_package(tmp_path, {"sockets/helpers.py": "", "sockets/hub.py": ""})
    assert package.unlisted() == ["sockets/helpers.py"]


def test_the_head_of_a_folder_is_listed_only_if_it_has_code(tmp_path):
    heads = {"sockets/outbox/__init__.py": '"""What waits."""', "sockets/audit/__init__.py": "import os"}
    assert make_package(tmp_path, heads).unlisted() == ["sockets/audit/__init__.py"]
