"""The server: booting a workspace, and the endpoints that it listens on. How it serves is told in `tests/cli`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from aquilia.aquilary import BootError
from aquilia.server import Booted, Endpoint, ServerError, boot, listening

CONTROLLERS = """
from aquilia import GET, Controller
from aquilia.sockets import Event, Socket, SocketController

class Page(Controller):
    @GET("/")
    async def show(self) -> str:
        return "the page"

@Socket("/echo")
class Echo(SocketController):
    @Event("say")
    async def say(self, conn, payload: str) -> None: ...
"""

MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import Echo, Page

manifest = AppManifest("echo", controllers=[Page, Echo])
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "manifest.py").write_text(MANIFEST)
    (tmp_path / "controllers.py").write_text(CONTROLLERS)
    return tmp_path


@contextmanager
def booted(root: Path) -> Iterator[Booted]:
    found = boot(root)
    with found.workspace:
        yield found


# Booting


def test_a_workspace_is_booted_with_its_application_and_artifact(root: Path) -> None:
    with booted(root) as found:
        assert [route.name for route in found.application.http.routes] == ["Page.show"]
        assert [namespace.path for namespace in found.artifact.namespaces] == ["/echo"]


def test_a_workspace_that_is_wrong_can_be_mended_and_booted_again(root: Path) -> None:
    (root / "controllers.py").write_text(CONTROLLERS.replace('"/echo"', '"echo"'))
    with pytest.raises(BootError, match=r"begins with \"/\"") as refused:
        boot(root)
    assert [problem.where for problem in refused.value.problems] == [f"{root / 'controllers.py'}:10"]

    (root / "controllers.py").write_text(CONTROLLERS)
    with booted(root) as found:
        assert found.artifact.namespaces


def test_problems_of_a_manifest_stand_at_its_file(root: Path) -> None:
    arguments = "middleware=[len], websockets={'heartbeat': -1}"
    (root / "manifest.py").write_text(MANIFEST.replace("controllers=", f"{arguments}, controllers="))

    with pytest.raises(BootError) as refused:
        boot(root)

    first, second = refused.value.problems
    assert (first.where, second.where) == (str(root / "manifest.py"),) * 2
    assert first.message == "websockets: heartbeat: a number above 0 is needed, not -1"
    assert second.message.startswith("middleware[0]: ")


def test_an_import_that_ends_the_process_is_a_problem_of_its_line(root: Path) -> None:
    (root / "controllers.py").write_text("import sys\n\nsys.exit('no licence')\n")

    with pytest.raises(BootError) as refused:
        boot(root)

    [problem] = refused.value.problems
    assert problem.where == f"{root / 'controllers.py'}:3"
    assert problem.message == "ends the process while it is imported: SystemExit('no licence')"


def test_any_server_can_run_the_application_of_the_current_folder(root: Path) -> None:
    socket_path = root / "server.sock"
    command = ["-m", "uvicorn", "aquilia.server:create_application", "--factory", "--uds", str(socket_path)]
    environment = {**os.environ, "AQ_APP": "manifest:manifest"}
    with subprocess.Popen(
        [sys.executable, *command], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if "running on" in line:
                    break
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket_path))) as http:
                assert http.get("http://server/").text == "the page"
        finally:
            server.terminate()


# Listening


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        (Endpoint(), "127.0.0.1:8000"),
        (Endpoint("::1", 80), "[::1]:80"),
        (Endpoint(uds=Path("aq.sock")), "unix:aq.sock"),
    ],
)
def test_an_endpoint_is_told_as_it_is_written(endpoint: Endpoint, shown: str) -> None:
    assert str(endpoint) == shown


def test_every_address_of_a_host_is_bound_to_one_port() -> None:
    with listening(Endpoint("localhost", 0)) as sockets:
        assert sockets
        [port] = {each.getsockname()[1] for each in sockets}
        assert port > 0


def test_a_port_is_free_again_afterwards() -> None:
    with listening(Endpoint(port=0)) as [first]:
        endpoint = Endpoint(port=first.getsockname()[1])
        first.listen()
        with pytest.raises(ServerError, match="is taken by another process"), listening(endpoint):
            pass

    with listening(endpoint) as [again]:
        assert again.getsockname()[1] == endpoint.port


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        (Endpoint("192.0.2.1", 0), "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        (Endpoint("name.invalid", 0), "cannot listen on name.invalid:0: "),
        (
            Endpoint(uds=Path("no/such/folder.sock")),
            "cannot listen on unix:no/such/folder.sock: No such file",
        ),
    ],
)
def test_what_cannot_be_had_is_named(endpoint: Endpoint, problem: str) -> None:
    with pytest.raises(ServerError) as refused, listening(endpoint):
        pass

    assert str(refused.value).startswith(problem)


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")

    with pytest.raises(ServerError, match="is taken"), listening(Endpoint(uds=path)):
        pass

    assert path.read_text() == "mine"


def test_a_socket_of_the_system_may_need_other_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)

    with pytest.raises(ServerError, match="needs rights that this user"), listening(Endpoint(port=80)):
        pass
