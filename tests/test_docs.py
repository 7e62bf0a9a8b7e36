"""The examples in the documents run, as they stand there.

A fenced block says after its language what it is, and nothing else is needed to keep it true:

A new page under `docs/` is found by itself, and one of the guide unless `BESIDE` in `documents.py` has its name.

- `python`: the blocks of one section (`##`) are one module, which begins with `from aquilia.sockets import *`. It is
  imported, its controllers and manifests boot, and mypy --strict accepts it; `untyped` leaves that out. pytest runs
  the tests in it.
- `python file=NAME`: a file of a workspace, which the section's files make up, and `aq compile` accepts.
- `text wire=PATH [subprotocol=NAME]`: a conversation with the guide's controllers, of whatever page. `→` is sent, and
  `←` is what comes, whole; "…" stands for any value. Names before the arrows are clients, connected where they first
  appear.
- `js receives=WORD`: runs in a browser, in a page of the same origin; WORD is in a frame that it gets.
- `sh`: every `aq …` and `make …` exists, with its options (see `test_docs_tables.py`).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn
from documents import AQ, DOCUMENTS, GUIDE, ROOT, Block, as_module, blocks, guide, sections, typed_sections

from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.controller import Controller
from aquilia.manifest import AppManifest
from aquilia.sockets.transports.native import NativeProtocol

TIMEOUT = 10.0
TEST = re.compile(r"^(?:async )?def test_", re.MULTILINE)
ASYNC = "-p no:cacheprovider -W error -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def every(language: str, *, option: str | None = None) -> list[Any]:
    """The blocks of a language in all documents, as parameters of a test."""
    return [
        pytest.param(block, id=str(block))
        for document in DOCUMENTS
        for block in blocks(document)
        if block.language == language and (option is None or option in block.options)
    ]


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
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*is a function that handles", DeprecationWarning)
                spec.loader.exec_module(module)
            imported.setdefault(document, []).append(module)
    yield imported
    for module in (module for listed in imported.values() for module in listed):
        del sys.modules[module.__name__]


@pytest.fixture
def application(modules: dict[Path, list[ModuleType]], monkeypatch: pytest.MonkeyPatch) -> Application:
    """All that the guide declares: its manifests, and one for the controllers that are in none."""
    monkeypatch.setenv("AQ_SESSION_SECRET", "for the documents: they show none")
    pages = [module for page in GUIDE for module in modules.get(page, [])]
    values = [value for module in pages for value in vars(module).values()]
    manifests = [value for value in values if isinstance(value, AppManifest)]
    listed = {controller for manifest in manifests for controller in manifest.controllers}
    own = {module.__name__ for module in pages}
    rest = [
        value
        for value in values
        if isinstance(value, type) and issubclass(value, Controller) and value.__module__ in own
        if value not in listed
    ]
    return Application(Registry.build([*manifests, AppManifest("rest", controllers=rest)]))


def test_the_python_of_the_guide_is_imported_and_boots(application: Application) -> None:
    contracts = [contract for _, contract in application.sockets.plan.contracts]
    served = [each.controller.__name__ for each in contracts if each.declaration.function is None]

    declared = re.findall(r"^class (\w+)\((?:Socket\w+|ChatSocket)\):", guide(), re.MULTILINE)
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


def test_the_tests_in_the_documents_pass(tmp_path: Path) -> None:
    for document in DOCUMENTS:
        for section, python in sections(document).items():
            if TEST.search(source := as_module(python)):
                (tmp_path / f"test_{document.stem}_{section}.py".replace("-", "_").lower()).write_text(source)

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "aquilia.testing.plugin"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ASYNC},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    written = sum(len(TEST.findall(document.read_text())) for document in DOCUMENTS)
    assert re.search(rf"^{written} passed", ran.stdout, re.MULTILINE), ran.stdout


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
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: sudo make system-deps")
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        failures: list[Any] = []
        page.on("pageerror", lambda failure: failures.append(failure))
        await page.goto(f"http://{origin}/")  # a 404, but a page of this origin

        async with page.expect_websocket() as opened:
            await page.add_script_tag(content=block.text.replace("localhost:8000", origin))
        connection = await opened.value
        word = block.options["receives"]
        await connection.wait_for_event("framereceived", lambda frame: word in frame, timeout=TIMEOUT * 1000)

        assert not failures
        await browser.close()
