"""The guards that ask who a client is: at the handshake, on events, and of the manager now and then."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from members import bearer
from tokens import Passwords
from wire import Client, serving

from aquilia import AppManifest, Identity
from aquilia.aquilary import BootError, Registry
from aquilia.clock import CURRENT, Clock
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    HandshakeAuthGuard,
    MessageAuthGuard,
    RoleGuard,
    ScopeGuard,
    Socket,
    SocketController,
    SocketFault,
)
from aquilia.sockets.compile import artifact_of
from aquilia.sockets.plan import SocketPlan
from aquilia.testing import HandshakeRefused, sockets_test, sockets_test_sync

ROOT = Path(__file__).resolve().parents[2]

ANN = Identity("ann", roles=["writer"], scopes=["chat:read", "chat:write"])
ROBOT = Identity("r2", type="robot", roles=["admin"], scopes=["chat:read"])


def controller(*guards: Any, on_event: Any = (), **settings: Any) -> type[SocketController]:
    @Socket("/x", guards=guards, **settings)
    class Guarded(SocketController):
        @Event("do", guards=on_event)
        async def do(self, conn: Connection) -> str:
            return "done"

        @Event("free")
        async def free(self, conn: Connection) -> str:
            return "done"

    return Guarded


async def refused(guard: Any, identity: Any = None) -> tuple[str, int | None]:
    async with sockets_test(controller(guard)) as t:
        with pytest.raises(HandshakeRefused) as caught:
            await t.connect("/x", identity=identity)
    return caught.value.code, caught.value.status


async def admitted(guard: Any, identity: Any = None) -> bool:
    async with sockets_test(controller(guard)) as t:
        return await (await t.connect("/x", identity=identity)).request("do") == "done"


NOBODY = ("WS_AUTH_REQUIRED", 401)
FORBIDDEN = ("WS_FORBIDDEN", 403)


async def test_an_identity_is_required() -> None:
    assert await refused(HandshakeAuthGuard()) == NOBODY
    assert await admitted(HandshakeAuthGuard(), ANN)


async def test_a_session_is_required() -> None:
    guard = HandshakeAuthGuard(require_identity=False, require_session=True)
    assert await refused(guard, ANN) == NOBODY

    async def session(ctx: Any, call_next: Any) -> Any:
        ctx.session = {"cart": 1}
        return await call_next(ctx)

    async with sockets_test(controller(guard), middleware=[session]) as t:
        assert await (await t.connect("/x")).request("do") == "done"


async def test_types_of_identities_are_allowed() -> None:
    guard = HandshakeAuthGuard(allowed_identity_types=["robot"])
    assert await refused(guard) == NOBODY
    assert await refused(guard, ANN) == FORBIDDEN
    assert await refused(guard, SimpleNamespace(id="untyped")) == FORBIDDEN
    assert await admitted(guard, ROBOT)
    either = HandshakeAuthGuard(require_identity=False, allowed_identity_types={"robot"})
    assert await admitted(either)
    assert await refused(either, ANN) == FORBIDDEN


async def test_one_of_the_roles_is_enough() -> None:
    guard = RoleGuard("admin", "owner")
    assert await refused(guard) == NOBODY
    assert await refused(guard, ANN) == FORBIDDEN
    assert await refused(guard, SimpleNamespace(id="no roles")) == FORBIDDEN
    assert await admitted(guard, ROBOT)


async def test_all_of_the_scopes_are_needed() -> None:
    guard = ScopeGuard("chat:read", "chat:write")
    assert await refused(guard) == NOBODY
    assert await refused(guard, ROBOT) == FORBIDDEN
    assert await admitted(guard, ANN)


@pytest.mark.parametrize("guard", [RoleGuard("writer"), ScopeGuard("chat:write")])
async def test_an_event_may_need_more_than_the_connection(guard: Any) -> None:
    async with sockets_test(controller(on_event=[guard])) as t:
        ann = await t.connect("/x", identity=ANN)
        robot = await t.connect("/x", identity=ROBOT)
        nobody = await t.connect("/x")

        assert await ann.request("do") == "done"
        with pytest.raises(SocketFault, match="WS_FORBIDDEN"):
            await robot.request("do")
        assert await robot.request("free") == "done"
        await nobody.send("do")
        assert (await nobody.closed()).code == 4401


# While it lasts


async def test_messages_of_nobody_end_the_connection() -> None:
    async with sockets_test(controller(MessageAuthGuard())) as t:
        nobody = await t.connect("/x")
        await nobody.send("do")
        assert (await nobody.closed()).text.startswith("WS_AUTH_REQUIRED")


async def test_messages_of_who_has_expired_end_the_connection() -> None:
    class Aging:
        """An identity of the application's own, whose end is told while it is connected."""

        id = "ann"
        expires_at: float | None = None

    ann = Aging()
    async with sockets_test(controller(MessageAuthGuard())) as t:
        client = await t.connect("/x", identity=ann)
        assert await client.request("do") == "done"
        ann.expires_at = time.time() - 1
        await client.send("do")
        assert (await client.closed()).text.startswith("WS_TOKEN_EXPIRED")


async def test_the_manager_is_asked_again_after_the_interval_and_not_for_each_message() -> None:
    users = Passwords()
    async with sockets_test(controller(MessageAuthGuard(check_interval=300)), auth=users) as t:
        t.clock.freeze()
        ann = await t.connect("/x", token="ann")
        for checks in (0, 1, 2):
            for _ in range(3):
                assert await ann.request("do") == "done"
            assert users.checked == ["ann"] * checks
            await t.clock.advance(299)
            assert await ann.request("do") == "done"
            assert users.checked == ["ann"] * checks
            await t.clock.advance(1)

        users.revoked.add("ann")
        await ann.send("do")
        assert (await ann.closed()).text.startswith("WS_AUTH_REQUIRED")


async def test_a_manager_that_cannot_tell_is_not_asked() -> None:
    class Plain:
        async def authenticate(self, token: str) -> Identity:
            return Identity(token)

    async with sockets_test(controller(MessageAuthGuard(check_interval=1e-9)), auth=Plain()) as t:
        assert await (await t.connect("/x", token="ann")).request("do") == "done"


@pytest.mark.parametrize("answer", [None, 0, 1, "yes"])
async def test_a_manager_that_does_not_say_whether_an_identity_is_valid_lets_nothing_pass(
    answer: Any,
) -> None:
    class Vague(Passwords):
        async def still_valid(self, identity: Identity) -> bool:
            return answer  # type: ignore[no-any-return]

    async with sockets_test(controller(MessageAuthGuard(check_interval=1e-9)), auth=Vague()) as t:
        client = await t.connect("/x", token="ann")
        with pytest.raises(SocketFault) as refused:
            await client.request("do")
        assert refused.value.code == "WS_INTERNAL_ERROR"


async def test_a_clock_that_is_set_back_does_not_put_off_the_question() -> None:
    users, ahead = Passwords(), [3600]
    before = CURRENT.set(Clock(time=lambda: time.time() + ahead[0]))
    try:
        app = AquilaSockets.from_controllers([controller(MessageAuthGuard(check_interval=60))], auth=users)
    finally:
        CURRENT.reset(before)
    async with serving(app) as base, Client.connect(f"{base}/x", **bearer("ann")) as ann:
        assert (await ann.request("do"))["data"] == "done"
        assert users.checked == []
        ahead[0] = 0
        for _ in range(2):
            assert (await ann.request("do"))["data"] == "done"
        assert users.checked == ["ann"]


# Arguments


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: HandshakeAuthGuard(require_identity="yes"), "require_identity"),  # type: ignore[arg-type]
        (lambda: HandshakeAuthGuard(require_session=1), "require_session"),  # type: ignore[arg-type]
        (lambda: HandshakeAuthGuard(require_identity=False), "asks for nothing"),
        (lambda: HandshakeAuthGuard(allowed_identity_types="user"), "a list of strings"),
        (lambda: HandshakeAuthGuard(allowed_identity_types=[]), "at least one"),
        (lambda: HandshakeAuthGuard(allowed_identity_types=[5]), "each is a string"),  # type: ignore[list-item]
        (lambda: MessageAuthGuard(check_interval=0), "check_interval"),
        (lambda: MessageAuthGuard(check_interval=float("inf")), "check_interval"),
        (lambda: MessageAuthGuard(check_interval="5"), "check_interval"),  # type: ignore[arg-type]
        (lambda: MessageAuthGuard(check_interval=True), "check_interval"),
        (lambda: RoleGuard(), "at least one"),
        (lambda: RoleGuard(["admin"]), "each is a string"),  # type: ignore[arg-type]
        (lambda: ScopeGuard(""), "each is a string"),
        (lambda: ScopeGuard(), "at least one"),
    ],
)
def test_a_guard_that_could_not_mean_anything_is_refused_when_it_is_made(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


# The setting


def test_to_require_authentication_needs_a_manager() -> None:
    told = r"@Socket\('/x'\): require_auth: True needs an AuthManager or sessions"
    with pytest.raises(BootError, match=told):
        AquilaSockets.from_controllers([controller(require_auth=True)])
    with pytest.raises(BootError, match=told):
        AquilaSockets.from_controllers([controller()], require_auth=True)


async def test_a_controller_may_leave_open_what_its_manifest_requires() -> None:
    @Socket("/lobby", require_auth=False)
    class Lobby(SocketController):
        pass

    async with sockets_test(controller(), Lobby, auth=Passwords(), require_auth=True) as t:
        await t.connect("/lobby")
        with pytest.raises(HandshakeRefused, match="WS_AUTH_REQUIRED"):
            await t.connect("/x")
        assert await (await t.connect("/x", token="ann")).request("do") == "done"


@pytest.mark.parametrize("subprotocol", ["aquilia.plain.json", "aquilia.v1.cbor"])
async def test_in_a_test_an_identity_is_enough(subprotocol: str) -> None:
    async with sockets_test(controller(require_auth=True)) as t:
        client = await t.connect("/x", identity=ANN, subprotocol=subprotocol)
        assert await client.request("do") == "done"
        with pytest.raises(HandshakeRefused, match="WS_AUTH_REQUIRED"):
            await t.connect("/x", subprotocol=subprotocol)
        with pytest.raises(HandshakeRefused, match="WS_AUTH_REQUIRED"):
            await t.connect("/x", token="ann", subprotocol=subprotocol)


@pytest.mark.parametrize("subprotocol", ["aquilia.plain.json", "aquilia.v1.json"])
def test_a_test_that_is_no_coroutine_may_give_a_token(subprotocol: str) -> None:
    with sockets_test_sync(controller(require_auth=True), auth=Passwords()) as t:
        assert t.connect("/x", token="ann", subprotocol=subprotocol).request("do") == "done"


async def test_manifests_of_a_test_have_their_own_manager() -> None:
    with pytest.raises(TypeError, match="auth: only controllers take these"):
        async with sockets_test(AppManifest("app"), auth=Passwords()):
            pass


# What is told


async def test_the_refusal_of_a_hello_is_observed_and_counted_as_others_are() -> None:
    seen: list[tuple[str, str]] = []
    async with sockets_test(controller(require_auth=True), auth=Passwords()) as t:
        t.application.faults.observe(lambda fault, where: seen.append((fault.code, where)))
        for token in (None, "ann/old"):
            with pytest.raises(HandshakeRefused):
                await t.connect("/x", token=token, subprotocol="aquilia.v1.json")

    assert [code for code, _ in seen] == ["WS_AUTH_REQUIRED", "WS_TOKEN_EXPIRED"]
    assert all("hello of " in where for _, where in seen)


def test_the_artifact_tells_who_authenticates_and_where_that_is_needed() -> None:
    manifest = AppManifest("app", controllers=[controller(require_auth=True)], auth=Passwords())

    artifact = artifact_of(SocketPlan.read(Registry.build([manifest]), []))

    assert artifact.apps[0].auth == "tokens:Passwords"
    assert artifact.namespaces[0].settings["require_auth"] is True


# Types


TYPED = """
from aquilia import AppManifest, Identity, JWTAuthManager


class Good:
    async def authenticate(self, token: str) -> Identity:
        return Identity(token, roles={"a"}, scopes=["b"])


class NoIdentity:
    async def authenticate(self, token: str) -> str:
        return token


class NotAsync:
    def authenticate(self, token: str) -> Identity:
        return Identity(token)


AppManifest("a", auth=Good())
AppManifest("a", auth=Good)
AppManifest("a", auth=JWTAuthManager)
AppManifest("a", auth="module:name")
AppManifest("a", auth=NoIdentity())  # wrong
AppManifest("a", auth=NotAsync())  # wrong
AppManifest("a", auth=NoIdentity)  # wrong
AppManifest("a", auth=5)  # wrong
"""


def test_type_checkers_know_what_a_manager_is(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs mypy: `make check` installs it")
    (tmp_path / "managers.py").write_text(TYPED)

    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
        "managers.py",
    ]
    checked = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    wrong = {n for n, line in enumerate(TYPED.splitlines(), 1) if "# wrong" in line}
    told = {int(number) for number in re.findall(r"managers.py:(\d+): error", checked.stdout)}
    assert told == wrong, checked.stdout + checked.stderr
