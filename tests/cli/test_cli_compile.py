"""`aq compile`: the artifact of a workspace in order, and every problem of one that is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from workspaces import AQ, Workspace

from aquilia.sockets.artifact import read

CONTROLLERS = "modules/echo/controllers.py"
MANIFEST = "modules/echo/manifest.py"


def test_a_workspace_in_order_is_compiled(echo: Workspace) -> None:
    said = echo.done("compile")

    artifact = read(echo.root / "artifacts" / "ws.crous")
    [namespace] = artifact.namespaces
    assert namespace.path == "/echo/:room"
    assert namespace.controller == "modules.echo.controllers:EchoSocket"
    assert said.split() == [
        *["/echo/:room", "EchoSocket", "1", "event", "in,", "1", "out"],
        *["artifacts/ws.crous", artifact.fingerprint[:12]],
    ]


def test_the_artifact_is_the_same_in_another_folder(
    echo: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Workspace(tmp_path_factory.mktemp("other") / "place", {"PYTHONHASHSEED": "7"})
    shutil.copytree(echo.root, other.root)

    echo.done("compile")
    other.done("compile")

    artifacts = [each.root / "artifacts" / "ws.crous" for each in (echo, other)]
    assert artifacts[0].read_bytes() == artifacts[1].read_bytes()
    assert str(echo.root) not in artifacts[0].read_text()


def test_a_workspace_without_sockets_is_compiled(echo: Workspace) -> None:
    echo.edit(MANIFEST, "[Page, EchoSocket]", "[Page]")

    assert "no namespaces" in echo.done("compile")
    assert json.loads((echo.root / "artifacts" / "ws.crous").read_text())["namespaces"] == []


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_manifest_elsewhere_can_be_named(echo: Workspace, by: str) -> None:
    echo.edit(MANIFEST, "manifest =", "other =")
    words: list[str] = []
    if by == "option":
        words = ["--app", "modules.echo.manifest:other"]
    else:
        echo.environment["AQ_APP"] = "modules.echo.manifest:other"

    assert "/echo/:room" in echo.done("compile", *words)


def test_an_empty_folder_has_nothing_to_compile(empty: Workspace) -> None:
    said = empty.refused("compile")

    assert said.startswith(".: there is no manifest: looked for manifest.py and modules/*/manifest.py")
    assert "`aq init NAME` creates one" in said
    assert not (empty.root / "artifacts").exists()


WRONG = """
from aquilia import GET, Controller, service
from aquilia.sockets import Event, Socket, SocketController


@service(scope="connection")
class Narrow: ...


class Missing: ...


class Page(Controller):
    @GET("/{x}")
    async def show(self) -> str: ...


@Socket("/echo/:room")
class EchoSocket(SocketController):
    def __init__(self, narrow: Narrow, missing: Missing) -> None: ...

    @Event("say")
    async def say(self) -> None: ...

    @Event("typed")
    async def typed(self, conn, payload: object) -> None: ...

    @Event("twice")
    async def first(self, conn) -> None: ...

    @Event("twice")
    async def second(self, conn) -> None: ...


@Socket("/echo/:other")
class Other(SocketController): ...
"""

ALL_WRONG = [
    (14, "Page.show: path pattern '/{x}': '{' in '{x}': a parameter is written \":name\" or \":name:int\""),
    (18, "EchoSocket → Narrow: Narrow is provided, but in the narrower scope connection"),
    (18, "EchoSocket → Missing: nothing provides Missing, which EchoSocket needs as 'missing'"),
    (22, "say must take (self, conn, payload)"),
    (25, "typed: the payload: object is no type that a payload can have; accepted: None, bool"),
    (31, f"event 'twice' is handled by second, and already by first at {CONTROLLERS}:28"),
    (35, f"path pattern '/echo/:other' ({CONTROLLERS}:35) matches the same paths as '/echo/:room'"),
]


def test_every_problem_is_told_at_once_by_file_and_line(echo: Workspace) -> None:
    echo.write(CONTROLLERS, WRONG)
    echo.edit(MANIFEST, "from controllers import EchoSocket, Page", "from controllers import *")
    echo.edit(MANIFEST, "[Page, EchoSocket]", "[Page, EchoSocket, Other], services=[Narrow]")
    echo.edit(MANIFEST, ")\n", ", websockets={'heartbeet': 1})\n")

    said = echo.refused("compile")

    for line, problem in ALL_WRONG:
        assert f"{CONTROLLERS}:{line}: {problem}" in said
    assert f"{MANIFEST}: websockets: heartbeet: unknown setting; did you mean 'heartbeat'?" in said
    assert said.endswith(f"{len(ALL_WRONG) + 1} problems\n")
    assert str(echo.root) not in said


def test_problems_of_manifests_and_of_the_registry_are_told(echo: Workspace) -> None:
    echo.edit(MANIFEST, '"echo", ', '"echo", depends_on=["ecco"], ')

    assert f"{MANIFEST}: depends_on: there is no app 'ecco'; did you mean 'echo'?" in echo.refused("compile")

    echo.edit(MANIFEST, "depends_on", "depend_on")
    echo.write("modules/other/manifest.py", "manifest = 1\n")
    said = echo.refused("compile")
    assert "unknown argument 'depend_on'; did you mean 'depends_on'?" in said
    assert "modules/other/manifest.py: 'manifest' is 1, not an AppManifest" in said


def test_what_was_compiled_before_stays_when_something_is_wrong(echo: Workspace) -> None:
    echo.done("compile")
    before = (echo.root / "artifacts" / "ws.crous").read_bytes()
    echo.edit(CONTROLLERS, '"say"', '"error"')

    assert "the event name 'error' is reserved" in echo.refused("compile")
    assert (echo.root / "artifacts" / "ws.crous").read_bytes() == before


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise SystemExit(3)", f"{CONTROLLERS}:1: ends the process while it is imported: SystemExit(3)"),
        ("import os; os._exit(4)", ".: its import ended the process, with exit code 4"),
        ("import os; os.kill(os.getpid(), 9)", ".: its import ended the process, with signal SIGKILL"),
        ("1 / 0", f"{MANIFEST}: ZeroDivisionError: division by zero ({CONTROLLERS}:1)"),
        ("def broken(:", f"{MANIFEST}: SyntaxError: invalid syntax ({CONTROLLERS}:1)"),
        ("input()", f"{MANIFEST}: EOFError: EOF when reading a line ({CONTROLLERS}:1)"),
    ],
)
def test_code_that_fails_or_ends_the_process_at_import_is_a_problem(
    echo: Workspace, code: str, problem: str
) -> None:
    echo.write(CONTROLLERS, code)

    assert echo.refused("compile") == f"{problem}\n1 problem\n"


@pytest.mark.parametrize(
    "code",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(25)'])",
        "import atexit, os; atexit.register(os._exit, 5)",
        "import sys; sys.modules['json'] = None; sys.stdout = None",
    ],
)
def test_what_is_left_behind_by_an_import_does_no_harm(echo: Workspace, code: str) -> None:
    echo.write(CONTROLLERS, code + (echo.root / CONTROLLERS).read_text())

    echo.done("compile")


def test_what_is_printed_at_import_is_shown_apart_from_the_result(echo: Workspace) -> None:
    echo.write(CONTROLLERS, "print('as a side effect')" + (echo.root / CONTROLLERS).read_text())

    compiled = echo.aq("compile")

    assert compiled.returncode == 0
    assert compiled.stderr == "printed while the workspace was imported:\n  as a side effect\n"
    assert "side effect" not in compiled.stdout


def test_files_of_the_workspace_do_not_get_into_the_way_of_the_compiler(echo: Workspace) -> None:
    for name in ("aquilia", "msgspec", "dishka", "signal"):
        echo.write(f"{name}.py", "raise RuntimeError('this is another one')")

    # The script `aq`, unlike `python -m`, does not look into the current folder for what it imports.
    echo.environment["PYTHONSAFEPATH"] = "1"
    echo.done("compile")


def test_an_artifact_that_cannot_be_written_is_an_error(echo: Workspace) -> None:
    echo.write("artifacts", "a file, not a folder")

    assert echo.refused("compile") == "error: artifacts/ws.crous cannot be written: File exists\n"


def test_on_a_terminal_a_problem_stands_below_its_place(echo: Workspace) -> None:
    pytest.importorskip("pty", reason="needs pseudo-terminals, as on Linux and macOS")
    echo.write(CONTROLLERS, "1 / 0")

    shown = on_a_terminal(echo, "compile")

    assert f"\x1b[36m{MANIFEST}\x1b[0m\r\n  ZeroDivisionError: division by zero ({CONTROLLERS}:1)" in shown
    assert "\x1b[1;31m1 problem\x1b[0m" in shown


def on_a_terminal(workspace: Workspace, *words: str) -> str:
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*AQ, *words],
        cwd=workspace.root,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1024):
                shown += part
        except OSError:  # how a terminal tells that nobody is there any more
            pass
    os.close(ours)
    return shown.decode()
