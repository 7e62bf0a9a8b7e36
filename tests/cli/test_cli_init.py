"""`aq init`: a workspace that compiles, serves, and passes every checker; and never a file overwritten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import websockets
from workspaces import Workspace

# Not the one that others use: an installed aquilia is read in another way than one on MYPYPATH.
MYPY_CACHE = Path(__file__).parents[2] / ".mypy_cache" / "workspaces"
FILES = [
    ".gitignore",
    "README.md",
    "modules/hello_world/controllers.py",
    "modules/hello_world/manifest.py",
    "modules/hello_world/page.html",
]


def files(workspace: Workspace) -> list[str]:
    found = (path for path in workspace.root.rglob("*") if path.is_file())
    return sorted(path.relative_to(workspace.root).as_posix() for path in found)


def made(workspace: Workspace, name: str) -> Workspace:
    workspace.done("init", name)
    return Workspace(workspace.root / name)


def test_init_writes_a_workspace_and_says_what_comes_next(empty: Workspace) -> None:
    said = empty.done("init", "hello-world")

    assert files(empty) == [f"hello-world/{file}" for file in FILES]
    assert [line.strip() for line in said.splitlines()][-4:] == [
        "Next:",
        "cd hello-world",
        "aq compile",
        "aq serve",
    ]


async def test_a_new_workspace_compiles_and_serves_at_once(empty: Workspace) -> None:
    workspace = made(empty, "hello-world")

    assert "/hello-world/:topic" in workspace.done("compile")
    async with workspace.serving() as server:
        async with httpx.AsyncClient(trust_env=False) as http:
            page = await http.get(server.url)
        assert "/hello-world/lobby" in page.text
        url = server.sockets[0].replace(":topic", "lobby")
        async with websockets.connect(url, proxy=None) as ann, websockets.connect(url, proxy=None) as ben:
            await ann.send(json.dumps({"event": "say", "payload": {"text": "hi"}, "id": "1", "ack": True}))
            heard = json.loads(await ben.recv())
            frames = [json.loads(await ann.recv()) for _ in range(2)]
    assert (heard["event"], heard["payload"]) == ("said", {"text": "hi"})
    [ack] = [frame for frame in frames if frame["type"] == "ack"]
    assert ack["payload"] == {"status": "ok", "data": 2}


@pytest.mark.parametrize("name", ["hello", "p", "x-1"])
def test_a_new_workspace_passes_the_checkers_of_types_and_style(empty: Workspace, name: str) -> None:
    workspace = made(empty, name)

    for checker in (
        ["mypy", "--strict", "--cache-dir", str(MYPY_CACHE), "."],
        ["ruff", "check", "--isolated"],
        ["ruff", "format", "--isolated", "--diff"],
    ):
        pytest.importorskip(checker[0], reason=f"needs {checker[0]}: `make check` installs it")
        checked = subprocess.run(
            [sys.executable, "-m", *checker], cwd=workspace.root, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_artifact_is_for_git_and_what_python_leaves_is_not(empty: Workspace) -> None:
    ignored = (made(empty, "hello").root / ".gitignore").read_text().split()

    assert "__pycache__/" in ignored
    assert not any("artifacts" in line for line in ignored)


# Never over what is there


def test_init_overwrites_nothing_and_writes_nothing_beside_it(empty: Workspace) -> None:
    empty.write("hello/README.md", "mine")
    empty.write("hello/modules/hello/controllers.py", "mine too")

    said = empty.refused("init", "hello")

    assert "nothing was written" in said
    assert said.splitlines()[1:] == ["  hello/README.md", "  hello/modules/hello/controllers.py"]
    assert files(empty) == ["hello/README.md", "hello/modules/hello/controllers.py"]
    assert (empty.root / "hello/README.md").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_written_through(empty: Workspace) -> None:
    (empty.root / "hello").mkdir()
    os.symlink(empty.root / "elsewhere", empty.root / "hello" / "README.md")

    assert "hello/README.md" in empty.refused("init", "hello")
    assert not (empty.root / "elsewhere").exists()


def test_init_goes_into_a_folder_that_is_there(empty: Workspace) -> None:
    empty.write("hello/.git/HEAD", "")

    empty.done("init", "hello")

    assert "hello/modules/hello/manifest.py" in files(empty)


def test_a_file_in_the_way_is_an_error(empty: Workspace) -> None:
    empty.write("hello", "a file")

    assert empty.refused("init", "hello").startswith("error: hello cannot be written: File exists")


# Its name


@pytest.mark.parametrize("name", ["My App", "9lives", "../up", "a/b", "café", "", "x" * 65, "a--b"])
def test_a_name_is_a_slug(empty: Workspace, name: str) -> None:
    said = " ".join(empty.refused("init", name, code=2).replace("│", " ").split())

    assert "up to 64 of a-z, 0-9, '-' and '_', a letter first" in said
    assert files(empty) == []


def test_a_near_name_is_suggested(empty: Workspace) -> None:
    assert "for instance 'my-app'" in empty.refused("init", "My App", code=2)


def test_a_word_of_python_is_no_name_for_a_package(empty: Workspace) -> None:
    said = " ".join(empty.refused("init", "class", code=2).replace("│", " ").split())

    assert (
        "'class' is a word of Python's own, and no package can be called so; for instance 'my-class'" in said
    )
    assert files(empty) == []
