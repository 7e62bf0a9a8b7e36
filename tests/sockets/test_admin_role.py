"""Admins by their role: who has it by the word of the AuthManager that counts, and nobody else."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
import pytest
from admins import ADMIN, SECRET, Hall, admin_of, done, seen
from wire import serving

from aquilia import AppManifest, Identity
from aquilia.aquilary import BootError, Registry
from aquilia.auth import token_expired, token_invalid
from aquilia.sockets import AquilaSockets, Socket, SocketController
from aquilia.testing import sockets_test


class Staff:
    """An AuthManager whose tokens are `name:role,role`; it says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def authenticate(self, token: str) -> Identity:
        self.asked += 1
        await self.go_on.wait()
        name, colon, roles = token.partition(":")
        if name == "late":
            raise token_expired()
        if not colon:
            raise token_invalid("a word of the AuthManager's own")
        ends = time.time() - 1 if name == "over" else None
        return Identity(name, roles=[role for role in roles.split(",") if role], expires_at=ends)


def staffed(auth: Any = None, **settings: Any) -> AquilaSockets:
    settings = {"admin": True, "admin_role": "ops", **settings}
    return AquilaSockets.from_controllers([Hall], auth=auth or Staff(), **settings)


@pytest.fixture
def with_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQ_ADMIN_SECRET", SECRET)


async def test_who_has_the_role_is_an_admin_without_any_secret() -> None:
    async with serving(staffed()) as base, admin_of(base, "ann:staff,ops") as admin:
        assert len((await seen(admin, "nodes"))["items"]) == 1
        assert (await done(admin, "kick", identity="bob"))["connections"] == 0


@pytest.mark.usefixtures("with_secret")
async def test_the_secret_counts_beside_it_and_nobody_is_asked_about_it() -> None:
    auth = Staff()
    async with serving(staffed(auth)) as base, admin_of(base) as admin:
        assert len((await seen(admin, "nodes"))["items"]) == 1
    assert auth.asked == 0


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        ("bob:staff", 403, "WS_FORBIDDEN"),
        ("bob:", 403, "WS_FORBIDDEN"),
        ("bob:OPS", 403, "WS_FORBIDDEN"),
        ("ops", 401, "AUTH_TOKEN_INVALID"),
        ("late:ops", 401, "AUTH_TOKEN_EXPIRED"),
        ("over:ops", 401, "AUTH_TOKEN_EXPIRED"),
        ("x" * 100_000, 401, "AUTH_TOKEN_INVALID"),
        (None, 401, "WS_AUTH_REQUIRED"),
    ],
)
async def test_who_has_it_not_is_refused(token: str | None, status: int, code: str) -> None:
    app = staffed()
    transport = httpx.ASGITransport(app)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url=f"http://test{ADMIN}") as admin,
    ):
        for answer in (
            await admin.get("/nodes", headers=headers),
            await admin.post("/kick", headers=headers, json={"identity": "ann"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert "of the AuthManager's own" not in answer.text
            assert ("www-authenticate" in answer.headers) is (status == 401)


async def test_no_cookie_and_no_query_carries_a_token() -> None:
    async with serving(staffed(query_token="access_token")) as base, admin_of(base, None) as admin:
        for asked in (
            {"params": {"access_token": "ann:ops"}},
            {"headers": {"cookie": "access_token=ann:ops; authorization=Bearer ann:ops"}},
            {"headers": {"sec-websocket-protocol": "aquilia.bearer.ann:ops"}},
            {"headers": {"authorization": "Basic ann:ops"}},
        ):
            assert (await admin.get("/nodes", **asked)).status_code in (401, 422)


async def test_wrong_tokens_are_counted_and_those_of_others_are_not() -> None:
    auth = Staff()
    async with sockets_test(Hall, auth=auth, admin=True, admin_role="ops") as t:
        transport = httpx.ASGITransport(t.application)

        async def asked(token: str) -> int:
            headers = {"authorization": f"Bearer {token}"}
            return (await admin.get("/nodes", headers=headers)).status_code

        async with httpx.AsyncClient(transport=transport, base_url=f"http://test{ADMIN}") as admin:
            for _ in range(20):
                assert await asked("bob:staff") == 403
                assert await asked("late:ops") == 401
            assert [await asked("guess") for _ in range(11)] == [401] * 10 + [429]
            assert await asked("ann:ops") == 429
            await t.clock.advance(5)
            assert await asked("ann:ops") == 200


async def test_guesses_that_come_at_once_are_looked_at_no_more_often() -> None:
    auth = Staff()
    app = staffed(auth)
    transport = httpx.ASGITransport(app)
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url=f"http://test{ADMIN}") as admin,
    ):
        auth.go_on.clear()
        headers = {"authorization": "Bearer guess"}
        guesses = [asyncio.create_task(admin.get("/nodes", headers=headers)) for _ in range(40)]
        for _ in range(20):
            await asyncio.sleep(0)
        auth.go_on.set()
        answers = [(await guess).status_code for guess in guesses]
    assert sorted(answers) == [401] * 10 + [429] * 30
    assert auth.asked == 10


async def test_an_auth_manager_that_hangs_is_not_waited_for() -> None:
    auth = Staff()
    app = staffed(auth, handshake_timeout=0.05)
    transport = httpx.ASGITransport(app)
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url=f"http://test{ADMIN}") as admin,
    ):
        auth.go_on.clear()
        answer = await admin.get("/nodes", headers={"authorization": "Bearer ann:ops"})
        assert (answer.status_code, answer.json()["code"]) == (503, "WS_OVERLOADED")
        auth.go_on.set()
        assert (await admin.get("/nodes", headers={"authorization": "Bearer ann:ops"})).status_code == 200


async def test_whose_access_was_revoked_is_no_admin_any_more() -> None:
    app = staffed(revocation=True)
    async with serving(app) as base, admin_of(base, "ann:ops") as admin:
        assert (await admin.get("/nodes")).status_code == 200
        await app.revoke(identity="ann")
        assert (await admin.get("/nodes")).status_code == 401


async def test_the_audit_names_who_did_it_and_who_was_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aquilia.audit")
    async with serving(staffed()) as base:
        async with admin_of(base, "ann:ops") as admin:
            await done(admin, "kick", identity="cem")
        async with admin_of(base, "bob:staff") as admin:
            await admin.post("/kick", json={"identity": "cem"})
    records = [vars(record) for record in caplog.records if record.name == "aquilia.audit"]
    told = [(each["event"], each["outcome"], each["identity"]) for each in records if "identity" in each]
    assert told == [("admin.action", "done", "ann"), ("access.denied", "refused", "bob")]
    assert "ann:ops" not in caplog.text


@Socket("/other")
class Other(SocketController):
    pass


def registry(first: dict[str, Any], second: dict[str, Any]) -> Registry:
    return Registry.build(
        [
            AppManifest("first", controllers=[Hall], **first),
            AppManifest("second", controllers=[Other], **second),
        ]
    )


async def test_a_role_counts_that_the_manifests_own_auth_manager_gives_and_no_other() -> None:
    class Everybody:
        async def authenticate(self, token: str) -> Identity:
            return Identity(token, roles=["ops"])

    settings = {"admin": True, "admin_role": "ops"}
    sockets = AquilaSockets(
        registry({"auth": Everybody()}, {"auth": Staff(), "websockets": settings}),
    )
    async with serving(sockets) as base:
        async with admin_of(base, "anybody") as admin:
            assert (await admin.get("/nodes")).status_code == 401
        async with admin_of(base, "ann:ops") as admin:
            assert (await admin.get("/nodes")).status_code == 200


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({"websockets": {"admin": True, "admin_role": "ops"}}, {"auth": Staff()}, "in the same manifest"),
        (
            {"auth": Staff(), "websockets": {"admin": True, "admin_role": "ops"}},
            {"auth": Staff(), "websockets": {"admin_role": "ops"}},
            "another manifest says it too",
        ),
        ({"auth": Staff(), "websockets": {"admin_role": "ops"}}, {}, "say admin=True as well"),
        ({"auth": Staff(), "websockets": {"admin": True, "admin_role": "o ps"}}, {}, "without spaces"),
        ({"auth": Staff(), "websockets": {"admin": True, "admin_role": ["ops"]}}, {}, "without spaces"),
        ({"auth": Staff(), "websockets": {"admin": True, "admin_role": ""}}, {}, "without spaces"),
    ],
)
def test_what_cannot_be_meant_is_told_at_boot(
    first: dict[str, Any], second: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BootError, match=problem):
        AquilaSockets(registry(first, second))


async def test_with_neither_secret_nor_role_nobody_could_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AQ_ADMIN_SECRET", raising=False)
    with pytest.raises(BootError, match="or the setting admin_role"):
        await staffed(admin_role=None).startup()
