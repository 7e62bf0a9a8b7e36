"""What `aq serve` logs, as its user sees it: JSON lines, or text; and what stands in neither."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import websockets
from workspaces import MANIFEST, Server, Workspace

CONTROLLERS = """
import logging

from aquilia import GET, Controller
from aquilia.sockets import Connection, Event, LoggingMiddleware, Socket, SocketController

logger = logging.getLogger("app")


class Page(Controller):
    @GET("/")
    async def show(self) -> str:
        logger.info("a page for %s", "ann", extra={"user": "ann"})
        return "the page"

    @GET("/broken")
    async def fail(self) -> str:
        raise ZeroDivisionError("a page")


@Socket("/echo/:room", middleware=[LoggingMiddleware()])
class EchoSocket(SocketController):
    @Event("say")
    async def say(self, conn: Connection, payload: str) -> None:
        pass

    @Event("fail")
    async def fail(self, conn: Connection, payload: str) -> None:
        raise ZeroDivisionError("a handler")
"""


@pytest.fixture
def failing(empty: Workspace) -> Workspace:
    empty.write("manifest.py", MANIFEST)
    empty.write("controllers.py", CONTROLLERS)
    empty.compile()
    return empty


async def exercised(server: Server) -> tuple[str, dict[str, Any]]:
    """Ask for all that is logged; what was logged, and the error that the client got."""
    async with httpx.AsyncClient(trust_env=False, base_url=server.url) as http:
        await http.get("/?token=secret-1")
        await http.get("/broken", headers={"authorization": "Bearer secret-2"})
    url = server.sockets[0].replace(":room", "x?token=secret-3")
    headers = {"Cookie": "sid=secret-4"}
    async with websockets.connect(url, proxy=None, additional_headers=headers) as client:
        for event in ("say", "fail", "secret-5"):
            await client.send(json.dumps({"event": event, "payload": "secret-6"}))
        await client.send("{secret-7")
        error = json.loads(await client.recv())
        while error["payload"]["code"] != "WS_INTERNAL_ERROR":
            error = json.loads(await client.recv())
    code, logged = await server.end()
    assert code == 0
    return logged, error["payload"]


async def test_json_has_an_object_in_each_line(failing: Workspace) -> None:
    async with failing.serving("--log-format", "json") as server:
        logged, error = await exercised(server)
    lines = [json.loads(line) for line in logged.splitlines()]

    for line in lines:
        assert line["timestamp"].endswith("Z")
        assert {"level", "logger", "message"} <= set(line)
    by_logger = {name: [line for line in lines if line["logger"] == name] for name in LOGGERS}
    page, broken, handshake = by_logger["uvicorn.access"]
    assert (page["method"], page["path"], page["status"]) == ("GET", "/", 200)
    assert (broken["path"], broken["status"]) == ("/broken", 500)
    assert (handshake["method"], handshake["path"], handshake["status"]) == ("WebSocket", "/echo/x", 101)
    assert [line["user"] for line in by_logger["app"]] == ["ann"]
    said, failed = by_logger["aquilia.sockets.messages"]
    assert (said["event"], said["outcome"], failed["outcome"]) == ("say", "ok", "ZeroDivisionError")
    of_http, incident = by_logger["aquilia.faults"]
    assert (of_http["code"], of_http["where"]) == ("HTTP_INTERNAL_ERROR", "Page.fail")
    assert incident["incident"] in error["message"]
    assert incident["connection"] == said["connection"]
    told = {key: incident[key] for key in ("level", "code", "where", "namespace", "pattern", "event")}
    assert told == {
        "level": "ERROR",
        "code": "WS_INTERNAL_ERROR",
        "where": "EchoSocket.fail",
        "namespace": "/echo/x",
        "pattern": "/echo/:room",
        "event": "fail",
    }
    assert incident["exception"].endswith("ZeroDivisionError: a handler")


LOGGERS = ("uvicorn.access", "app", "aquilia.sockets.messages", "aquilia.faults")


@pytest.mark.parametrize("transport", ["native", "asgi"])
@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_payload_token_cookie_or_query_is_logged(
    failing: Workspace, form: str, transport: str
) -> None:
    failing.environment["AQ_LOG_FORMAT"] = form
    async with failing.serving("--log-level", "debug", "--transport", transport) as server:
        logged, _ = await exercised(server)

    assert "secret" not in logged
    assert logged.startswith("{") is (form == "json")


def test_another_form_is_refused(failing: Workspace) -> None:
    assert "'xml' is not one of 'text', 'json'" in failing.refused("serve", "--log-format", "xml", code=2)
