"""`aq inspect` and `aq ws inspect`: what there is, as tables and as JSON; and the command line itself."""

from __future__ import annotations

import json
import subprocess

import pytest
from msgspec.structs import replace
from workspaces import AQ, Workspace

from aquilia import __version__
from aquilia.sockets.artifact import read, write

CONTROLLERS = "modules/echo/controllers.py"
MANIFEST = "modules/echo/manifest.py"


@pytest.fixture
def rich(echo: Workspace) -> Workspace:
    """A workspace with some of everything."""
    echo.write(
        "modules/users/manifest.py",
        "from aquilia.manifest import AppManifest\n"
        "from users import Clock, Store, connect\n"
        "manifest = AppManifest('users', depends_on=['echo'], services=[Clock, Store, connect])\n",
    )
    echo.write(
        "modules/users/users.py",
        "from aquilia import service\n"
        "@service(scope='transient')\n"
        "class Clock: ...\n"
        "class Port: ...\n"
        "@service(provides=Port)\n"
        "class Store(Port): ...\n"
        "class Connection: ...\n"
        "@service(scope='singleton')\n"
        "def connect() -> Connection: ...\n",
    )
    return echo


# aq inspect


def test_inspect_shows_apps_services_routes_and_namespaces(rich: Workspace) -> None:
    rows = [line.split() for line in rich.done("inspect").splitlines()]

    assert ["echo", "1.2.3", MANIFEST] in rows
    assert ["users", "0.0.0", "echo", "modules/users/manifest.py"] in rows
    assert ["Clock", "transient", "users", "modules/users/users.py:2"] in rows
    assert ["Port", "app", "users", "modules/users/users.py:5"] in rows
    assert ["Connection", "singleton", "users", "modules/users/users.py:8"] in rows
    assert ["GET", "/", "Page.show", f"{CONTROLLERS}:13"] in rows
    assert ["/echo/:room", "EchoSocket", "1", "1"] in rows


def test_inspect_shows_who_authenticates_and_where_sessions_are_kept(empty: Workspace) -> None:
    empty.write(
        "manifest.py",
        "from aquilia import AppManifest, JWTAuthManager, SessionEngine\n"
        "manifest = AppManifest('desk', auth=JWTAuthManager, sessions=SessionEngine())\n",
    )

    rows = [line.split() for line in empty.done("inspect").splitlines()]
    assert ["apps", "version", "depends", "on", "auth", "sessions", "manifest"] in rows
    assert ["desk", "0.0.0", "JWTAuthManager", "MemorySessionStore", "manifest.py"] in rows

    [app] = json.loads(empty.done("inspect", "--json"))["apps"]
    assert app["auth"] == "aquilia.jwt:JWTAuthManager"
    assert app["sessions"] == "aquilia.sessions.store:MemorySessionStore"


def test_presence_is_told_and_so_is_who_hears_of_it(empty: Workspace) -> None:
    empty.write(
        "manifest.py",
        "from aquilia import AppManifest\n"
        "from aquilia.sockets import OnPresence, Presence, Socket, SocketController\n"
        "@Socket('/desk', presence=Presence(rooms=['team:*']))\n"
        "class Desk(SocketController):\n"
        "    @OnPresence()\n"
        "    async def changed(self, room, joins, leaves): ...\n"
        "@Socket('/plain')\n"
        "class Plain(SocketController): ...\n"
        "manifest = AppManifest('desk', controllers=[Desk, Plain])\n",
    )

    desk, plain = json.loads(empty.done("inspect", "--json"))["namespaces"]
    assert desk["presence"] == ["team:*"]
    assert "presence" not in plain
    empty.done("compile")
    compiled = read(empty.root / "artifacts" / "ws.crous").namespaces[0]
    assert compiled.settings["presence"] == {"rooms": ["team:*"], "large": 500, "meta_bytes": 1024}
    assert [(hook.handler, hook.on) for hook in compiled.hooks] == [("changed", "presence")]


def test_a_function_in_the_place_of_a_controller_is_told_apart(empty: Workspace) -> None:
    empty.write(
        "handlers.py",
        "from aquilia.sockets.compat import Flow\n"
        "flow = Flow()\n"
        "@flow.ws('/chat')\n"
        "async def chat_handler(request): ...\n",
    )
    empty.write(
        "manifest.py",
        "from aquilia.manifest import AppManifest\n"
        "from handlers import flow\n"
        "manifest = AppManifest('old', controllers=[*flow.controllers])\n",
    )

    told = empty.done("compile")

    assert "/chat chat_handler raw messages" in " ".join(told.split())
    assert ["/chat", "chat_handler", "raw", "raw"] in [
        line.split() for line in empty.done("inspect").splitlines()
    ]
    assert json.loads(empty.done("inspect", "--json"))["namespaces"][0]["function"] == "handlers:chat_handler"
    assert "has each connection as a whole" in empty.done("ws", "inspect")

    empty.environment["PYTHONWARNINGS"] = "default::DeprecationWarning"
    warned = empty.aq("compile").stderr
    assert "handlers.py:3: DeprecationWarning: chat_handler (handlers.py:3) is a function" in warned


def test_inspect_as_json_has_the_same(rich: Workspace) -> None:
    rich.done("compile")

    content = json.loads(rich.done("inspect", "--json"))

    assert [app["name"] for app in content["apps"]] == ["echo", "users"]
    assert content["apps"][1] == {
        "name": "users",
        "version": "0.0.0",
        "depends_on": ["echo"],
        "where": "modules/users/manifest.py",
        "auth": None,
        "sessions": None,
    }
    assert [service["provides"] for service in content["services"]] == [["Clock"], ["Port"], ["Connection"]]
    assert content["routes"][0]["where"] == f"{CONTROLLERS}:13"
    [namespace] = content["namespaces"]
    assert namespace["events"] == ["say"]
    assert namespace["emits"] == ["heard"]
    assert content["fingerprint"] == read(rich.root / "artifacts" / "ws.crous").fingerprint


def test_inspect_tells_problems_as_compile_does(echo: Workspace) -> None:
    echo.write(CONTROLLERS, "1 / 0")

    assert echo.refused("inspect") == echo.refused("compile")


def test_what_is_printed_at_import_does_not_get_into_the_json(echo: Workspace) -> None:
    echo.write(CONTROLLERS, "print('as a side effect')" + (echo.root / CONTROLLERS).read_text())

    inspected = echo.aq("inspect", "--json")

    assert json.loads(inspected.stdout)["apps"]
    assert "as a side effect" in inspected.stderr


# aq ws inspect


def test_ws_inspect_shows_events_both_ways_with_their_schemas(echo: Workspace) -> None:
    echo.edit(
        CONTROLLERS,
        "class EchoSocket(SocketController):",
        "class EchoSocket(SocketController):\n    '''Says it again.'''",
    )
    echo.done("compile")

    said = echo.done("ws", "inspect")

    rows = [line.split() for line in said.splitlines()]
    assert ["/echo/:room", "modules.echo.controllers:EchoSocket", "app", "echo"] in rows
    assert ["Says", "it", "again."] in rows
    assert ["say", "{text:", "string}", "→", "integer"] in rows
    assert ["heard", "{text:", "string}"] in rows
    assert ["max_message_size", "1,000"] in rows


def test_ws_inspect_shows_guards_hooks_middleware_and_how_events_are_sent(echo: Workspace) -> None:
    echo.write(
        CONTROLLERS,
        """
from aquilia.sockets import *

class Members(SocketGuard):
    def check_message(self, conn, envelope): ...

async def timed(conn, envelope, next): ...

@Socket(
    "/echo/:room",
    guards=[Members()],
    middleware=[timed],
    allowed_origins=["https://a.example"],
    message_rate_limit=2.5,
)
class EchoSocket(SocketController):
    @OnConnect()
    async def enter(self, conn): ...

    @AckEvent("sure")
    async def sure(self, conn, payload: int) -> None: ...

    @Subscribe("join")
    async def join(self, conn, payload: str): ...

    @Event("guarded", guards=[Members()])
    async def guarded(self, conn): ...
""",
    )
    echo.edit(MANIFEST, "EchoSocket, Page", "EchoSocket")
    echo.edit(MANIFEST, "[Page, EchoSocket]", "[EchoSocket]")
    echo.done("compile")

    said = " ".join(echo.done("ws", "inspect").split())
    module = "modules.echo.controllers"
    for told in (
        f"guard {module}:Members, on the message, priority 50",
        f"middleware {module}:timed",
        "on connect enter",
        "sure ack integer",
        "join subscribe string",
        f"guarded any guards: {module}:Members",
        "allowed_origins https://a.example",
        "message_rate_limit 2.5",
    ):
        assert told in said


def test_ws_inspect_as_json_is_the_artifact(compiled: Workspace) -> None:
    assert compiled.done("ws", "inspect", "--json") == (compiled.root / "artifacts" / "ws.crous").read_text()


def test_ws_inspect_of_nothing_compiled_says_what_to_run(echo: Workspace) -> None:
    assert echo.refused("ws", "inspect") == "error: artifacts/ws.crous does not exist; run `aq compile`\n"


def test_ws_inspect_tells_of_a_promised_delivery(compiled: Workspace) -> None:
    path = compiled.root / "artifacts" / "ws.crous"
    artifact = read(path)
    [namespace] = artifact.namespaces
    events = tuple(replace(event, delivery="at_least_once") for event in namespace.events)
    write(path, replace(artifact, namespaces=(replace(namespace, events=events, hooks=()),)))

    assert ["say", "at", "least", "once", "{text:", "string}", "→", "integer"] in [
        line.split() for line in compiled.done("ws", "inspect").splitlines()
    ]


def test_ws_inspect_without_namespaces_says_so(echo: Workspace) -> None:
    echo.edit(MANIFEST, "[Page, EchoSocket]", "[Page]")
    echo.done("compile")

    assert "no namespaces: no controller has @Socket" in echo.done("ws", "inspect")


def test_json_is_utf_8_whatever_the_terminal_is(echo: Workspace) -> None:
    echo.environment["PYTHONIOENCODING"] = "ascii"
    echo.edit(CONTROLLERS, '"say"', '"grüßen"')
    echo.done("compile")

    command = [*AQ, "ws", "inspect", "--json"]
    printed = subprocess.check_output(command, cwd=echo.root, env=echo._environment())

    assert json.loads(printed.decode())["namespaces"][0]["events"][0]["name"] == "grüßen"
    assert "→" not in echo.done("ws", "inspect")  # and in the table there are question marks


# The command line


def test_the_version_is_told(empty: Workspace) -> None:
    assert empty.done("--version") == f"Aquilia {__version__}\n"


def test_help_lists_the_commands(empty: Workspace) -> None:
    said = empty.done("--help")

    for command in ("init", "compile", "serve", "inspect", "ws"):
        assert f"│ {command} " in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(("typed", "meant"), [("compil", "compile"), ("server", "serve")])
def test_the_nearest_command_is_suggested_for_an_unknown_one(
    empty: Workspace, typed: str, meant: str
) -> None:
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in empty.refused(typed, code=2)


def test_verbs_that_are_still_to_come_are_no_commands(empty: Workspace) -> None:
    assert "No such command 'diff'" in empty.refused("ws", "diff", code=2)
