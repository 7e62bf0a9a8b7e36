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

ROOT = Path(__file__).resolve().parent.parent

# A file imports from its own group or a lower-numbered one. An entry that ends in "/" is a folder; the
# longest entry that fits a file is its own. Some entries keep the place of files to come.
GROUPS: dict[int, tuple[str, ...]] = {
    # the host
    0: (
        "faults.py",
        "patterns.py",
        "manifest.py",
        "aquilary.py",
        "workspace.py",
        "imports.py",
        "di/",
        "auth.py",
        "jwks.py",
        "jwks_fetch.py",
        "identity.py",
        "jwt.py",
        "jwt_keys.py",
        "sessions/",
        "binding.py",
        "clock.py",
        "handler.py",
        "controller.py",
        "exchange.py",
        "forwarded.py",
        "http.py",
        "http_faults.py",
        "lifespan.py",
        "logs.py",
        "loopback.py",
        "middleware.py",
        "responses.py",
        "source.py",
        "validation.py",
    ),
    # values
    1: (
        "sockets/faults.py",
        "sockets/envelope.py",
        "sockets/declaration.py",
        "sockets/schema.py",
        "sockets/explanation.py",
        "sockets/payload.py",
        "sockets/wording.py",
        "sockets/metrics/recorder.py",
        "sockets/audit/records.py",
        "sockets/metrics/figures.py",
        "sockets/metrics/families.py",
        "sockets/room_answers.py",
        "sockets/admin/orders.py",
    ),
    # machines
    2: (
        "sockets/codecs/",
        "sockets/router.py",
        "sockets/limits/buckets.py",
        "sockets/limits/shared_rate.py",
        "sockets/audit/chain.py",
        "sockets/limits/addresses.py",
        "sockets/outbox/queue.py",
        "sockets/outbox/blocks.py",
        "sockets/outbox/spooling.py",
        "sockets/history.py",
        "sockets/room_names.py",
        "sockets/idempotence_claims.py",
        "sockets/cluster/nodes.py",
        "sockets/cluster/control.py",
        "sockets/presence/values.py",
        "sockets/presence/roster.py",
        "sockets/resume/records.py",
        "sockets/purges.py",
        "sockets/resume/direct_log.py",
        "sockets/deflate.py",
        "sockets/heartbeat.py",
        "client/address.py",
        "client/advice.py",
        "client/faults.py",
        "client/frames.py",
        "client/notices.py",
        "client/options.py",
        "client/outgoing.py",
        "client/positions.py",
        "client/pulse.py",
        "client/reading.py",
        "client/renewal.py",
        "client/session.py",
        "client/speaking.py",
        "client/steps.py",
        "client/verdict.py",
    ),
    # ports
    3: (
        "sockets/transports/base.py",
        "sockets/adapters/base.py",
        "sockets/adapters/schemes.py",
        "sockets/hub_port.py",
    ),
    # users, and what runs their controllers
    4: (
        "sockets/connection.py",
        "sockets/outbound.py",
        "sockets/pump.py",
        "sockets/answers.py",
        "sockets/decorators.py",
        "sockets/emits.py",
        "sockets/contract.py",
        "sockets/contract_reading.py",
        "sockets/plan.py",
        "sockets/controller.py",
        "sockets/guards.py",
        "sockets/metrics/connection.py",
        "sockets/auth_guards.py",
        "sockets/handshake/authentication.py",
        "sockets/credentials.py",
        "sockets/middleware.py",
        "sockets/limits/rates.py",
        "sockets/limits/identity_rates.py",
        "sockets/limits/quotas.py",
        "sockets/resume/durable_events.py",
        "sockets/resume/session.py",
        "sockets/resume/claims.py",
        "sockets/resume/renewals.py",
        "sockets/resume/sessions.py",
        "sockets/revocation.py",
        "sockets/routes.py",
        "sockets/dispatch.py",
        "sockets/lifecycle.py",
        "sockets/flow.py",
        "sockets/flow_request.py",
        "sockets/handshake/request.py",
        "sockets/handshake/hello.py",
        "sockets/idempotence.py",
        "sockets/limits/idle.py",
        "sockets/session_saving.py",
        "sockets/handshake/offered_credentials.py",
        "sockets/settings.py",
        "sockets/accepted.py",
        "sockets/tasks.py",
        "sockets/handshake/tickets.py",
    ),
    # contract
    5: (
        "sockets/artifact.py",
        "sockets/compile.py",
        "sockets/openws.py",
        "sockets/sdk/",
    ),
    # process
    6: (
        "sockets/open_namespace.py",
        "sockets/hub.py",
        "sockets/rooms.py",
        "sockets/outbox/writing.py",
        "sockets/audit/file.py",
        "sockets/audit/trail.py",
        "sockets/outbox/budget.py",
        "sockets/limits/intake.py",
        "sockets/mass_closing.py",
        "sockets/audience.py",
        "sockets/fanout.py",
        "sockets/history_following.py",
        "sockets/revoking_hub.py",
        "sockets/room_questions.py",
        "sockets/cluster/membership.py",
        "sockets/cluster/guest.py",
        "sockets/admin/counting.py",
        "sockets/admin/node.py",
        "sockets/presence/attendance.py",
        "sockets/presence/room.py",
        "sockets/presence/hooks.py",
        "sockets/presence/peers.py",
        "sockets/presence/showing.py",
        "sockets/cluster/questions.py",
        "sockets/cluster/reach.py",
        "sockets/broker_losses.py",
        "sockets/identities.py",
        "sockets/namespaces.py",
        "sockets/adapters/",
        "sockets/transports/",
        "sockets/metrics/exposition.py",
        "sockets/metrics/shared_files.py",
        "sockets/outbox/spool.py",
    ),
    # assembly
    7: (
        "sockets/__init__.py",  # exports all of its area, so it stands on top of it
        "sockets/assembly.py",
        "sockets/handshake/refusal.py",
        "sockets/boot_time.py",
        "sockets/drain.py",
        "sockets/endpoints.py",
        "sockets/health.py",
        "sockets/store_needs.py",
        "sockets/handshake/ticket_endpoint.py",
        "sockets/runtime.py",
        "sockets/handshake/opening.py",
        "sockets/admin/operations.py",
        "sockets/admin/access.py",
        "sockets/admin/endpoints.py",
        "sockets/admin/openapi.py",
        "sockets/publisher.py",
        "sockets/loadtest.py",
        "sockets/compat.py",
    ),
    # edges
    8: (
        "__init__.py",
        "asgi.py",
        "server.py",
        "listening.py",
        "tls.py",
        "client/",
        "testing/",
        "cli/",
    ),
}

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
