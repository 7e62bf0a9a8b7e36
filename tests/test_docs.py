"""The documents say what is true: their examples run, and their tables are those of the code.

A fenced block says after its language what it is, and nothing else is needed to keep it true:

- `python`: the blocks of one section (`##`) are one module, which begins with `from aquilia.sockets import *`. It is
  imported, its controllers and manifests boot, and mypy --strict accepts it; `untyped` leaves that out.
- `python file=NAME`: a file of a workspace, which the section's files make up, and `aq compile` accepts.
- `text wire=PATH [subprotocol=NAME]`: a conversation with the document's controllers. `→` is sent, and `←` is what
  comes, whole; "…" stands for any value. Names before the arrows are clients, connected where they first appear.
- `js receives=WORD`: runs in a browser, in a page of the same origin; WORD is in a frame that it gets.
- `sh`: every `aq …` and `make …` exists, with its options.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn

import aquilia.sockets
import aquilia.sockets.faults
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.controller import Controller
from aquilia.manifest import AppManifest
from aquilia.sockets import Socket, SocketController
from aquilia.sockets.declaration import SocketDeclaration
from aquilia.sockets.faults import SocketFault
from aquilia.sockets.outbox import Backpressure
from aquilia.sockets.settings import (
    NodeSettings,
    SettingsError,
    SocketSettings,
    node_settings,
    socket_settings,
)
from aquilia.sockets.transports.native import NativeProtocol

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "WEBSOCKETS.md"
DOCUMENTS = [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md"))]
AQ = Path(sys.executable).with_name("aq")
TIMEOUT = 10.0


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: Path
    section: str
    line: int
    """Of its first line of text, counted from 1."""
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"

    @property
    def options(self) -> dict[str, str]:
        return dict(word.partition("=")[::2] for word in self.words)


@cache
def blocks(document: Path) -> list[Block]:
    found, section, fence = [], "", None
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if fence is None and line.startswith("```"):
            fence = Block(document, section, number + 1, *_info(line), "")
            lines: list[str] = []
        elif fence is not None and line == "```":
            found.append(Block(**{**vars(fence), "text": "".join(f"{text}\n" for text in lines)}))
            fence = None
        elif fence is not None:
            lines.append(line)
        elif re.match("##? ", line):
            section = _slug(line.lstrip("# "))
    assert fence is None, f"{document.name}: a fence is not closed"
    return found


def _info(fence: str) -> tuple[str, tuple[str, ...]]:
    language, *words = fence.removeprefix("```").split() or [""]
    return language, tuple(words)


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def every(language: str, *, option: str | None = None) -> list[Any]:
    """The blocks of a language in all documents, as parameters of a test."""
    return [
        pytest.param(block, id=str(block))
        for document in DOCUMENTS
        for block in blocks(document)
        if block.language == language and (option is None or option in block.options)
    ]


def sections(document: Path) -> dict[str, list[Block]]:
    """The Python of a document that is no file of a workspace, by section."""
    found: dict[str, list[Block]] = {}
    for block in blocks(document):
        if block.language == "python" and "file" not in block.options:
            found.setdefault(block.section, []).append(block)
    return found


def typed_sections(document: Path) -> dict[str, list[Block]]:
    """The Python of a document for a type checker, by section; not a manifest's, which imports its neighbours."""
    found: dict[str, list[Block]] = {}
    for block in blocks(document):
        file = block.options.get("file", "")
        if block.language == "python" and "untyped" not in block.words and not file.endswith("manifest.py"):
            found.setdefault(block.section, []).append(block)
    return found


def as_module(blocks: list[Block]) -> str:
    """Blocks as one module, each on the lines that it has in the document."""
    lines = ["from aquilia.sockets import *"]
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


# The Python runs


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, list[ModuleType]]]:
    """Every section with Python, imported, by document."""
    folder = tmp_path_factory.mktemp("documents")
    imported: dict[Path, list[ModuleType]] = {}
    for document in DOCUMENTS:
        for section, python in sections(document).items():
            name = f"documented_{document.stem}_{section}".replace("-", "_").lower()
            file = folder / f"{name}.py"
            file.write_text(as_module(python))
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            imported.setdefault(document, []).append(module)
    yield imported
    for module in (module for listed in imported.values() for module in listed):
        del sys.modules[module.__name__]


@pytest.fixture
def application(modules: dict[Path, list[ModuleType]]) -> Application:
    """All that the guide declares: its manifests, and one for the controllers that are in none."""
    values = [value for module in modules[GUIDE] for value in vars(module).values()]
    manifests = [value for value in values if isinstance(value, AppManifest)]
    listed = {controller for manifest in manifests for controller in manifest.controllers}
    own = {module.__name__ for module in modules[GUIDE]}
    rest = [
        value
        for value in values
        if isinstance(value, type) and issubclass(value, Controller) and value.__module__ in own
        if value not in listed
    ]
    return Application(Registry.build([*manifests, AppManifest("rest", controllers=rest)]))


def test_the_python_of_the_guide_is_imported_and_boots(application: Application) -> None:
    served = [contract.controller.__name__ for _, contract in application.sockets.plan.contracts]

    declared = re.findall(r"^class (\w+)\((?:Socket\w+|ChatSocket)\):", GUIDE.read_text(), re.MULTILINE)
    assert sorted(served) == sorted(name for name in declared if name.endswith("Socket"))
    assert len(served) > 5


def test_type_checkers_accept_the_typed_examples(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs mypy: `make check` installs it")
    for document in DOCUMENTS:
        for section, python in typed_sections(document).items():
            name = f"documented_{document.stem}_{section}.py".replace("-", "_").lower()
            (tmp_path / name).write_text(as_module(python))

    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--cache-dir",
            ROOT / ".mypy_cache",
            *tmp_path.iterdir(),
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def workspaces() -> list[Any]:
    found: dict[tuple[Path, str], dict[str, str]] = {}
    for document in DOCUMENTS:
        for block in blocks(document):
            if "file" in block.options:
                files = found.setdefault((document, block.section), {})
                files[block.options["file"]] = block.text
    return [
        pytest.param(files, id=f"{document.name} {section}") for (document, section), files in found.items()
    ]


@pytest.mark.parametrize("files", workspaces())
def test_the_files_of_an_example_are_a_workspace_that_compiles(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    compiled = subprocess.run([AQ, "compile"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    assert (tmp_path / "artifacts" / "ws.crous").is_file()


# The conversations happen


class Client:
    """A client of an ASGI application, without a network between."""

    def __init__(self, app: Any, url: str, subprotocol: str | None) -> None:
        path, _, query = url.partition("?")
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": "ws",
            "path": path,
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost")],
            "subprotocols": [subprotocol] if subprotocol else [],
        }
        self._sent.put_nowait({"type": "websocket.connect"})
        self.ended = asyncio.create_task(app(scope, self._sent.get, self.received.put))

    def send(self, text: str) -> None:
        self._sent.put_nowait({"type": "websocket.receive", "text": text})

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT):
            message = asyncio.ensure_future(self.received.get())
            await asyncio.wait([message, self.ended], return_when=asyncio.FIRST_COMPLETED)
            if not message.done():
                self.ended.result()  # tells what went wrong
            return await message

    async def leave(self) -> None:
        self._sent.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(TIMEOUT):
            await self.ended


def fits(expected: Any, got: Any) -> bool:
    """Whether two values are equal; "…" is equal to all."""
    if expected == "…":
        return True
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(fits(expected[key], got[key]) for key in expected)
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(fits, expected, got))
    return bool(expected == got)


@pytest.mark.parametrize("block", every("text", option="wire"))
async def test_a_conversation_goes_as_written(block: Block, application: Application) -> None:
    clients: dict[str, Client] = {}
    await application.startup()
    try:
        for line in block.text.splitlines():
            name, arrow, frame = re.fullmatch(r"(\w* ?)([→←]) (.*)", line).groups()  # type: ignore[union-attr]
            if name not in clients:
                options = block.options
                clients[name] = Client(application, options["wire"], options.get("subprotocol"))
                assert (await clients[name].receive())["type"] == "websocket.accept"
            if arrow == "→":
                json.loads(frame)
                clients[name].send(frame)
            else:
                got = json.loads((await clients[name].receive())["text"])
                assert fits(json.loads(frame), got), f"written {frame}, came {got}"
        for client in clients.values():
            await client.leave()
            assert client.received.empty(), client.received.get_nowait()
    finally:
        await application.shutdown()


class Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@pytest.fixture
async def origin(application: Application) -> AsyncIterator[str]:
    """The host and port at which the guide's application is served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(uvicorn.Config(application, log_level="warning", ws=NativeProtocol))
        running = asyncio.create_task(server.serve([listener]))
        async with asyncio.timeout(TIMEOUT):
            await server.listening.wait()
        yield f"localhost:{listener.getsockname()[1]}"
        server.should_exit = True
        await running


@pytest.mark.parametrize("block", every("js"))
async def test_a_browser_runs_the_javascript(block: Block, origin: str) -> None:
    playwright = pytest.importorskip(
        "playwright.async_api", reason="needs playwright: `make test` installs it"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium: `make system-deps` installs it")
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page()
        failures: list[Any] = []
        page.on("pageerror", lambda failure: failures.append(failure))
        await page.goto(f"http://{origin}/")  # a 404, but a page of this origin

        async with page.expect_websocket() as opened:
            await page.add_script_tag(content=block.text.replace("localhost:8000", origin))
        socket = await opened.value
        word = block.options["receives"]
        await socket.wait_for_event("framereceived", lambda frame: word in frame, timeout=TIMEOUT * 1000)

        assert not failures
        await browser.close()


# The tables are those of the code


def table(section: str, *columns: str) -> list[dict[str, str]]:
    """The rows of a section's table with these first columns; code is without its backticks."""
    text = GUIDE.read_text()
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert body, section
    for found in re.findall(r"(?:^\|.*\|\n)+", body[1], re.MULTILINE):
        header, _, *rows = (
            [cell.strip() for cell in row.strip("|").split("|")] for row in found.splitlines()
        )
        if header[: len(columns)] == list(columns):
            return [dict(zip(header, (cell.replace("`", "") for cell in row), strict=True)) for row in rows]
    raise AssertionError(f"{section} has no table with the columns {columns}")


def value(cell: str) -> Any:
    return None if cell == "none" else ast.literal_eval(cell)


def known_manifest_settings() -> set[str]:
    with pytest.raises(SettingsError) as refused:
        node_settings({"?": None}, "here")
    listed = re.search(r"accepted: (.*)\)", refused.value.problem)
    assert listed
    return set(listed[1].split(", "))


def keys(rows: list[dict[str, str]], where: str) -> set[str]:
    return {
        key
        for row in rows
        if where in row["where"] or row["where"] == "both"
        for key in row["key"].split(", ")
    }


def test_the_settings_of_the_guide_are_those_of_the_code() -> None:
    rows = [*table("Settings", "key", "where", "default"), *table("Settings", "key", "where", "accepted")]

    assert keys(rows, "manifest") == known_manifest_settings()
    assert keys(rows, "@Socket") | {"guards", "middleware"} == set(inspect.signature(Socket).parameters) - {
        "path"
    }
    process = {row["key"] for row in rows if "process" in row["where"]}
    assert process == set(NodeSettings.__dataclass_fields__) - {"sockets"} | {"adapter_url"}


@pytest.mark.parametrize("row", table("Settings", "key", "where", "default"), ids=lambda row: row["key"])
def test_a_setting_has_the_default_of_the_guide(row: dict[str, str]) -> None:
    key, node = row["key"], NodeSettings()
    if key in ("backpressure", "adapter_url"):
        return  # a table of its own; and another word for the adapter
    settings: NodeSettings | SocketSettings = node if "process" in row["where"] else node.sockets

    assert (getattr(settings, key) or None) == value(row["default"])


def test_the_backpressure_of_the_guide_is_that_of_the_code() -> None:
    documented = {row["key"]: value(row["default"]) for row in table("Backpressure", "key", "default")}

    assert Backpressure(**documented) == Backpressure()
    assert set(documented) == set(Backpressure.__dataclass_fields__)


@pytest.mark.parametrize(
    ("key", "where", "accepted"),
    [
        (key, where, row["accepted"])
        for row in table("Settings", "key", "where", "accepted")
        for where in ("manifest", "@Socket")
        if row["where"] in (where, "both")
        for key in row["key"].split(", ")
    ],
)
def test_a_setting_that_is_not_in_this_version_is_refused(key: str, where: str, accepted: str) -> None:
    def settings(value: Any) -> object:
        if where == "manifest":
            return node_settings({key: value}, "here")
        return socket_settings(SocketDeclaration("/", **{key: value}), NodeSettings(), "here")

    for refused in (True, "x", {"a": 1}):
        with pytest.raises(SettingsError, match=key):
            settings(refused)
    if accepted != "nothing":
        settings(ast.literal_eval(accepted))


def test_the_faults_of_the_guide_are_those_of_the_code() -> None:
    documented = [
        (row["code"].removesuffix(" *"), row["severity"], row["retryable"], row["HTTP"], row["close"])
        for row in table("Errors and faults", "code", "severity")
    ]

    assert documented == [described(name) for name in fault_factories(documented)]


def fault_factories(documented: list[tuple[str, ...]]) -> list[str]:
    """The names of all factories, those of the guide in its order."""
    names = [name for name in aquilia.sockets.faults.__all__ if name.startswith("ws_")]
    order = [code.lower() for code, *_ in documented]
    return sorted(names, key=lambda name: order.index(name) if name in order else -1)


def described(factory: str) -> tuple[str, ...]:
    make = getattr(aquilia.sockets.faults, factory)
    parameters = inspect.signature(make).parameters.values()
    samples = {"str": "x", "int": 1, "float": 1.0}
    needed = {p.name: samples[p.annotation] for p in parameters if p.default is p.empty}
    made: list[SocketFault] = [make(**needed)]
    if any(parameter.name == "close" for parameter in parameters):
        made = [make(**needed, close=close) for close in (False, True)]
    fault = made[0]
    closes = ", ".join("–" if each.close_code is None else str(int(each.close_code)) for each in made)
    return fault.code, str(fault.severity), "yes" if fault.retryable else "no", str(fault.status), closes


def test_faults_that_are_said_to_be_unused_are_and_no_others() -> None:
    sources = [file.read_text() for file in (ROOT / "aquilia").rglob("*.py") if file.name != "faults.py"]
    rows = table("Errors and faults", "code", "severity")

    for row in rows:
        code = row["code"].removesuffix(" *")
        raised = any(f"{code.lower()}(" in source for source in sources)
        assert raised is not row["code"].endswith(" *"), code


def test_every_export_exists_and_is_in_the_guide() -> None:
    text = GUIDE.read_text()

    for name in aquilia.sockets.__all__:
        assert hasattr(aquilia.sockets, name)
        assert re.search(rf"\b{name}\b", text), f"{name} is not in {GUIDE.name}"


def test_every_method_of_a_controller_and_a_connection_is_in_the_guide() -> None:
    text = GUIDE.read_text()

    for owner in (SocketController, aquilia.sockets.Connection, aquilia.sockets.Handshake):
        for name in vars(owner):
            assert name.startswith("_") or re.search(rf"\b{name}\b", text), f"{owner.__name__}.{name}"


# What the documents refer to exists


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in map(_slug, headings), target


def commands(program: str) -> list[str]:
    """What the documents tell to run, in blocks for a shell and in `code`."""
    found: dict[str, None] = {}
    for document in DOCUMENTS:
        if document.name == "ROADMAP.md":
            continue  # it names what is still to come
        text = document.read_text()
        inline = re.findall(rf"(?<!`)`({program} [^`\n]+)`(?!`)", text)
        shell = [
            line for block in blocks(document) if block.language == "sh" for line in block.text.splitlines()
        ]
        for line in [*inline, *shell]:
            words = shlex.split(line, comments=True)
            if words[:1] == [program]:
                found[shlex.join(words[1:])] = None
    return list(found)


@pytest.mark.parametrize("words", [words for words in commands("aq") if "…" not in words])
def test_a_command_in_the_documents_exists(words: str) -> None:
    asked = subprocess.run([AQ, *shlex.split(words), "--help"], capture_output=True, text=True, check=False)

    assert asked.returncode == 0, asked.stdout + asked.stderr


def test_targets_of_make_in_the_documents_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    named = [
        word for words in commands("make") for word in shlex.split(words) if re.fullmatch("[a-z-]+", word)
    ]
    assert named
    assert not set(named) - set(targets)


def test_the_options_of_the_server_are_in_the_guide() -> None:
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    shown = subprocess.run(
        [AQ, "serve", "--help"], env=wide, capture_output=True, text=True, check=True
    ).stdout

    documented = {
        option
        for row in table("Running", "option of `aq serve`")
        for option in row[next(iter(row))].split(", ")
    }
    assert documented == set(re.findall(r"--[a-z-]+", shown)) - {"--help"}
