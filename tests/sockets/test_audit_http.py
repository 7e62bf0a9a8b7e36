"""What touches security in HTTP requests is audited as it is for WebSockets."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse, Response

from aquilia import AppManifest, Fault, Identity
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.auth import token_invalid
from aquilia.controller import GET, POST, Controller, RequestCtx
from aquilia.middleware import CallNext
from aquilia.sessions import SessionEngine
from aquilia.sockets import Socket, SocketController

SECRET = "a secret of tests that is long enough"


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aquilia.audit")


class Tokens:
    async def authenticate(self, token: str) -> Identity:
        if token == "bob":
            return Identity("bob")
        raise token_invalid(f"nobody has the token {token}")


class Desk(Controller):
    prefix = "/desk"

    @GET("/:name")
    async def read(self, ctx: RequestCtx, name: str) -> str:
        if name == "secret":
            raise Fault("NOT_YOURS", "this is somebody else's", status=403)
        if name == "crowded":
            raise Fault("SLOWLY", "not so fast", status=429)
        if name == "odd":
            raise Fault("ODD", "this is no name", status=400)
        return name

    @POST("/:name", max_body_size=10)
    async def write(self, ctx: RequestCtx, name: str) -> str:
        return (await ctx.request.body()).decode()


@Socket("/hall")
class Hall(SocketController):
    pass


async def barred(ctx: RequestCtx, call_next: CallNext) -> Response:
    if ctx.query_params.get("as") == "thief":
        return PlainTextResponse("no", 403)
    return await call_next(ctx)


@contextlib.asynccontextmanager
async def visiting(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    manifest = AppManifest(
        "desk",
        controllers=[Desk, Hall],
        auth=Tokens(),
        middleware=[barred],
        sessions=SessionEngine(SECRET, max_age=60),
        websockets=settings,
    )
    app = Application(Registry.build([manifest]))
    await app.startup()
    transport = httpx.ASGITransport(app, client=("203.0.113.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://inside") as http:
        yield http
    await app.shutdown()


def noted(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    """Event, code, method, path, pattern, address, identity and reason of each record."""
    fields = ("event", "code", "of", "namespace", "pattern", "address", "identity", "reason")
    found = [
        vars(record)
        for record in caplog.records
        if record.name == "aquilia.audit" and "event" in vars(record)
    ]
    caplog.clear()
    assert all(record["outcome"] == "refused" for record in found)
    return [tuple(record.get(field) for field in fields) for record in found]


WHERE = ("/desk/:name", "203.0.113.7")


async def test_a_token_that_is_not_accepted_is_noted_without_it(caplog: pytest.LogCaptureFixture) -> None:
    async with visiting() as http:
        await http.get("/desk/a?token=query", headers={"authorization": "Bearer carl"})
        (record,) = noted(caplog)
    code = "AUTH_TOKEN_INVALID"
    assert record == ("authentication.failed", code, "GET", "/desk/a", *WHERE, None, "a token was offered")


async def test_what_is_denied_is_noted_with_who_it_was(caplog: pytest.LogCaptureFixture) -> None:
    bob = {"authorization": "Bearer bob"}
    async with visiting() as http:
        await http.get("/desk/secret", headers=bob)
        denied = (
            "access.denied",
            "NOT_YOURS",
            "GET",
            "/desk/secret",
            *WHERE,
            "bob",
            "this is somebody else's",
        )
        assert noted(caplog) == [denied]
        await http.get("/desk/a?as=thief", headers=bob)
        assert noted(caplog) == [("access.denied", "HTTP 403", "GET", "/desk/a", *WHERE, None, None)]


async def test_limits_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    async with visiting() as http:
        await http.get("/desk/crowded")
        await http.post("/desk/a", content="x" * 11)
        assert [record[:3] for record in noted(caplog)] == [
            ("limit.hit", "SLOWLY", "GET"),
            ("limit.hit", "HTTP_PAYLOAD_TOO_LARGE", "POST"),
        ]


@pytest.mark.parametrize("age", [0, 61], ids=["forged", "old"])
async def test_a_session_cookie_that_is_not_accepted_is_noted_once(
    caplog: pytest.LogCaptureFixture, age: int
) -> None:
    engine = SessionEngine(SECRET if age else SECRET[::-1], clock=lambda: time.time() - age)
    async with visiting() as http:
        await http.get("/desk/a", headers={"cookie": f"aquilia_session={engine.sign('some-id')}"})
        await http.get("/desk/a")
        (record,) = noted(caplog)
    assert record[0] == "authentication.failed"
    assert record[2:4] == ("GET", "/desk/a")
    assert record[-1] == (
        "the session cookie is too old" if age else "the session cookie is not signed by this server"
    )


async def test_each_application_of_an_engine_that_serves_hears_of_a_cookie(tmp_path: Path) -> None:
    engine = SessionEngine(SECRET)

    def made(name: str) -> Application:
        settings = {"audit": str(tmp_path / name)}
        return Application(
            Registry.build(
                [AppManifest("desk", controllers=[Desk, Hall], sessions=engine, websockets=settings)]
            )
        )

    one, former, _ = made("one"), made("former"), made("last")
    await one.startup()
    await former.startup()
    await former.shutdown()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(one), base_url="http://inside") as http:
        await http.get("/desk/a", headers={"cookie": "aquilia_session=forged"})
    await one.shutdown()
    assert "authentication.failed" in (tmp_path / "one").read_text()
    assert "authentication.failed" not in (tmp_path / "former").read_text()


async def test_who_gets_no_ticket_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    asked = {"json": {"namespace": "/hall"}}
    async with visiting(tickets=True, allowed_hosts=["inside"]) as http:
        await http.post("/ws/ticket", **asked)
        await http.post("/ws/ticket", headers={"origin": "https://evil.example"}, **asked)
        await http.post("/ws/ticket", headers={"host": "evil.example"}, **asked)
        records = noted(caplog)
    assert [(*record[:3], record[3], record[4]) for record in records] == [
        ("authentication.failed", "WS_AUTH_REQUIRED", "POST", "/ws/ticket", "/ws/ticket"),
        ("handshake.refused", "WS_ORIGIN_NOT_ALLOWED", "POST", "/ws/ticket", "/ws/ticket"),
        ("handshake.refused", "WS_HANDSHAKE_FAILED", "POST", "/ws/ticket", "/ws/ticket"),
    ]


async def test_whom_a_proxy_does_not_tell_of_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    async with visiting(trusted_proxies=["203.0.113.7"]) as http:
        await http.get("/desk/a", headers={"x-forwarded-for": "nonsense"})
        (record,) = noted(caplog)
    assert record[:4] == ("handshake.refused", "HTTP_BAD_REQUEST", "GET", "/desk/a")
    assert "nonsense" not in str(record)


async def test_what_is_no_matter_of_security_is_not_noted_for_http(caplog: pytest.LogCaptureFixture) -> None:
    async with visiting(tickets=True) as http:
        for path in ("/desk/a", "/desk/odd", "/nowhere", "/ws/ticket"):
            await http.get(path)
        await http.post("/ws/ticket", content="{")
        assert noted(caplog) == []
