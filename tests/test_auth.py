"""Identities, AuthManagers, and the authentication of HTTP requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tokens import JWT, SECRET, Passwords, token

from aquilia import GET, AppManifest, AuthManager, Controller, Identity, JWTAuthManager, RequestCtx, service
from aquilia.aquilary import BootError, Registry, RegistryError
from aquilia.asgi import Application
from aquilia.auth import RevocableAuthManager
from aquilia.manifest import ManifestError
from aquilia.middleware import CallNext

# Identities


def test_an_identity_cannot_be_changed() -> None:
    given = {"team": "red"}
    ann = Identity("ann", roles=["admin"], scopes=("a",), attributes=given)
    given["team"] = "blue"

    assert (ann.type, ann.roles, ann.scopes, ann.attributes["team"]) == ("user", {"admin"}, {"a"}, "red")
    with pytest.raises(AttributeError):
        ann.id = "bob"  # type: ignore[misc]
    with pytest.raises(TypeError):
        ann.attributes["team"] = "blue"  # type: ignore[index]
    assert {ann, Identity("ann", roles=["admin"], scopes=("a",), attributes={"team": "red"})} == {ann}


def test_an_identity_has_one_of_the_roles_and_all_of_the_scopes() -> None:
    ann = Identity("ann", roles=["admin"], scopes=["a", "b"])

    assert ann.has_role("admin")
    assert ann.has_role("owner", "admin")
    assert not ann.has_role("owner")
    assert ann.has_scope("a", "b")
    assert not ann.has_scope("a", "c")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"type": None}, "type"),
        ({"roles": "admin"}, "roles"),
        ({"roles": [1]}, "roles"),
        ({"roles": {"a": 1}}, "roles"),
        ({"scopes": ["a b"]}, "without spaces"),
        ({"scopes": [""]}, "scopes"),
        ({"attributes": []}, "attributes"),
        ({"attributes": {1: 2}}, "attributes"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": True}, "expires_at"),
        ({"expires_at": float("nan")}, "expires_at"),
    ],
)
def test_an_identity_of_the_wrong_kind_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Identity(**{"id": "ann", **fields})


def test_managers_are_known_by_their_methods() -> None:
    assert isinstance(Passwords(), RevocableAuthManager)
    assert isinstance(JWT, AuthManager)
    assert not isinstance(JWT, RevocableAuthManager)


# Requests

OLD = token(lifetime=0.001)
"""It has expired by the time that a test runs."""


class Whoami(Controller):
    prefix = "/whoami"

    @GET("/")
    async def whoami(self, ctx: RequestCtx) -> str:
        return ctx.identity.id if ctx.identity else "nobody"


@asynccontextmanager
async def serving(**fields: Any) -> AsyncIterator[httpx.AsyncClient]:
    application = Application(Registry.build([AppManifest("app", controllers=[Whoami], **fields)]))
    await application.startup()
    transport = httpx.ASGITransport(application)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            yield client
    finally:
        await application.shutdown()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_request_with_a_token_has_an_identity_and_one_without_has_none() -> None:
    async with serving(auth=JWT) as client:
        assert (await client.get("/whoami", headers=bearer(token()))).text == "ann"
        assert (
            await client.get("/whoami", headers={"authorization": f"bearer  {token('bob')} "})
        ).text == "bob"
        assert (await client.get("/whoami")).text == "nobody"
        assert (await client.get("/whoami", headers={"authorization": "Basic YTpi"})).text == "nobody"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Bearer x", "AUTH_TOKEN_INVALID"),
        ("Bearer", "AUTH_TOKEN_INVALID"),
        ("Bearer a b", "AUTH_TOKEN_INVALID"),
        (f"Bearer {OLD}", "AUTH_TOKEN_EXPIRED"),
    ],
)
async def test_a_token_that_is_not_accepted_is_401_with_the_challenge(header: str, code: str) -> None:
    async with serving(auth=JWTAuthManager(SECRET, leeway=0)) as client:
        response = await client.get("/whoami", headers={"authorization": header})

    assert (response.status_code, response.json()["code"]) == (401, code)
    assert response.json()["retryable"] is True
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_two_tokens_in_one_request_are_refused() -> None:
    headers = [("authorization", f"Bearer {token()}"), ("authorization", f"Bearer {token('bob')}")]
    async with serving(auth=JWT) as client:
        assert (await client.get("/whoami", headers=headers)).status_code == 401


async def test_who_a_middleware_has_recognised_is_not_asked_for_a_token() -> None:
    async def known(ctx: RequestCtx, call_next: CallNext) -> Any:
        ctx.identity = Identity("cookie")
        return await call_next(ctx)

    passwords = Passwords()
    async with serving(auth=passwords, middleware=[known]) as client:
        assert (await client.get("/whoami", headers=bearer("ann"))).text == "cookie"
    assert passwords.asked == []


async def test_a_manager_that_fails_answers_500_and_tells_nothing() -> None:
    async with serving(auth=Passwords()) as client:
        response = await client.get("/whoami", headers=bearer("broken"))

    assert (response.status_code, response.json()["code"]) == (500, "HTTP_INTERNAL_ERROR")
    assert "secret" not in response.text


async def test_a_manager_that_returns_no_identity_is_at_fault(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong:
        async def authenticate(self, token: str) -> Any:
            return {"id": "ann"}

    async with serving(auth=Wrong()) as client:
        assert (await client.get("/whoami", headers=bearer("ann"))).status_code == 500
    assert "Wrong.authenticate returned a dict: it must return an Identity" in caplog.text


@service
class Users:
    names = ("ann",)


class ByUsers:
    """DI builds it."""

    def __init__(self, users: Users) -> None:
        self.users = users

    async def authenticate(self, token: str) -> Identity:
        return Identity(self.users.names[int(token)])


async def test_a_manager_given_as_a_class_is_built_with_services() -> None:
    async with serving(auth=ByUsers, services=[Users]) as client:
        assert (await client.get("/whoami", headers=bearer("0"))).text == "ann"


async def test_a_manager_may_be_named() -> None:
    async with serving(auth="tokens:JWT") as client:
        assert (await client.get("/whoami", headers=bearer(token()))).text == "ann"


async def test_the_class_of_jwt_takes_its_key_from_the_environment_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AQ_AUTH_KEY", SECRET)
    async with serving(auth=JWTAuthManager) as client:
        assert (await client.get("/whoami", headers=bearer(token()))).text == "ann"

    monkeypatch.delenv("AQ_AUTH_KEY")
    with pytest.raises(BootError, match="AQ_AUTH_KEY"):
        async with serving(auth=JWTAuthManager):
            pass


# What is wrong at boot


class NotAsync:
    def authenticate(self, token: str) -> Identity:
        return Identity(token)


class TooMany:
    async def authenticate(self, token: str, more: str) -> Identity:
        return Identity(token)


class OddCheck(Passwords):
    async def still_valid(self) -> bool:  # type: ignore[override]
        return True


class Unannotated:
    def __init__(self, users) -> None:  # type: ignore[no-untyped-def]
        self.users = users

    async def authenticate(self, token: str) -> Identity:
        return Identity(token)


@pytest.mark.parametrize(
    ("auth", "told"),
    [
        (object(), "object is no AuthManager: it needs `async def authenticate"),
        (NotAsync(), "NotAsync.authenticate is not async"),
        (NotAsync, "NotAsync.authenticate is not async"),
        (TooMany(), "TooMany.authenticate must take"),
        (TooMany, "TooMany.authenticate must take"),
        (OddCheck(), "OddCheck.still_valid must take"),
        (Unannotated, "no annotation for parameter 'users'"),
        (ByUsers, "Users"),
    ],
)
def test_what_is_no_manager_is_refused_at_boot(auth: Any, told: str) -> None:
    with pytest.raises(BootError, match=told):
        Application(Registry.build([AppManifest("app", controllers=[Whoami], auth=auth)]))


def test_a_manager_is_named_as_all_else_in_a_manifest() -> None:
    with pytest.raises(ManifestError, match="auth: 'no name'"):
        AppManifest("app", auth="no name")
    with pytest.raises(ManifestError, match="auth: expected"):
        AppManifest("app", auth=5)
    with pytest.raises(RegistryError, match=r"auth: 'tokens:JTW'.*did you mean 'JWT'"):
        Registry.build([AppManifest("app", auth="tokens:JTW")])


def test_the_fingerprint_knows_that_there_is_a_manager_and_nothing_of_its_key() -> None:
    def fingerprint(auth: Any) -> str:
        return Registry.build([AppManifest("app", auth=auth)]).fingerprint

    assert fingerprint(None) != fingerprint(JWT)
    assert fingerprint(JWT) == fingerprint(JWTAuthManager("x" * 40)) == fingerprint("tokens:JWT")
