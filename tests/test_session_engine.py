"""The engine of sessions: its arguments, its secret, its cookie, and where it is declared."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from http_app import client_of
from session_pages import SECRET, Pages, serving, shown

from aquilia import AppManifest, MemorySessionStore, SessionEngine
from aquilia.aquilary import BootError, Registry, RegistryError
from aquilia.asgi import Application
from aquilia.manifest import ManifestError


@pytest.mark.parametrize(
    ("options", "scheme", "attributes"),
    [
        ({}, "https", ["HttpOnly", "Max-Age=1209600", "Path=/", "SameSite=lax", "Secure"]),
        ({"secure": True}, "http", ["HttpOnly", "Max-Age=1209600", "Path=/", "SameSite=lax", "Secure"]),
        ({"secure": False}, "https", ["HttpOnly", "Max-Age=1209600", "Path=/", "SameSite=lax"]),
        ({"same_site": "none"}, "http", ["HttpOnly", "Max-Age=1209600", "Path=/", "SameSite=none", "Secure"]),
        (
            {"path": "/app", "domain": "example.com", "http_only": False, "same_site": "strict"},
            "http",
            ["Domain=example.com", "Max-Age=1209600", "Path=/app", "SameSite=strict"],
        ),
    ],
)
async def test_the_cookie_has_the_attributes_that_were_asked_for(
    options: dict[str, Any], scheme: str, attributes: list[str]
) -> None:
    async with serving(SessionEngine(SECRET, **options)) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://example.com") as client:
            answer = await client.post("/set", json={"a": 1})
            assert answer.headers["set-cookie"].split("; ")[1:] == attributes


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"secret": "short"}, "secret: the secret has 5 bytes, and 32 are needed; make one with: python3 -c"),
        ({"secret": []}, "secret: the list is empty"),
        ({"secret": [SECRET, "short"]}, r"the secret at \[1\] has 5 bytes"),
        ({"secret": [SECRET, None]}, r"the secret at \[1\] is a NoneType"),
        ({"cookie": "a b"}, "cookie: a name of letters, digits and signs such as '_' is needed, not 'a b'"),
        ({"max_age": 0}, "max_age: a whole number of seconds above 0 is needed, not 0"),
        ({"max_age": 1.5}, "max_age"),
        ({"path": "app"}, "path: a path that begins with '/' is needed, not 'app'"),
        ({"path": "/a; Domain=x"}, "path"),
        ({"domain": "a b"}, "domain: a host name is needed, not 'a b'"),
        ({"same_site": "Lax"}, "same_site: 'lax', 'strict' or 'none' is needed, not 'Lax'"),
        (
            {"same_site": "none", "secure": False},
            "same_site='none' needs Secure, which secure=False leaves out",
        ),
        ({"cookie": "__Host-id"}, "browsers take '__Host-id' with secure=True only"),
        ({"cookie": "__Host-id", "secure": True, "path": "/a"}, "with path '/' and without a domain only"),
        (
            {"store": MemorySessionStore},
            r"store: MemorySessionStore is a class; write MemorySessionStore\(\)",
        ),
        ({"store": object()}, "is no SessionStore: it lacks load, create, update, rename, delete, remaining"),
    ],
)
def test_an_engine_with_wrong_arguments_is_refused_when_it_is_made(
    arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        SessionEngine(**{"secret": SECRET, **arguments})


def test_no_secret_is_shown() -> None:
    with pytest.raises(ValueError, match="secret") as refused:
        SessionEngine("hunter2")
    assert "hunter2" not in str(refused.value)
    assert SECRET not in repr(SessionEngine(SECRET))


def boot(*manifests: AppManifest) -> Application:
    return Application(Registry.build(manifests))


def test_without_a_secret_nothing_boots_and_the_error_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = AppManifest("pages", controllers=[Pages], sessions=SessionEngine())
    monkeypatch.delenv("AQ_SESSION_SECRET", raising=False)
    with pytest.raises(
        BootError, match=r"sessions need a secret: set AQ_SESSION_SECRET, .*token_urlsafe\(32\)"
    ):
        boot(manifest)
    monkeypatch.setenv("AQ_SESSION_SECRET", "short")
    with pytest.raises(BootError, match="AQ_SESSION_SECRET: the secret has 5 bytes, and 32 are needed"):
        boot(manifest)
    monkeypatch.setenv("AQ_SESSION_SECRET", "a" * 32)
    boot(manifest)


async def test_the_environment_may_have_several_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    store, old, new = MemorySessionStore(), "old" * 11, "new" * 11
    async with serving(SessionEngine(old, store=store)) as app, client_of(app) as client:
        await client.post("/set", json={"a": 1})
        cookie = client.cookies["aquilia_session"]
    monkeypatch.setenv("AQ_SESSION_SECRET", f"{new}, {old}")
    async with serving(SessionEngine(store=store)) as app, client_of(app) as client:
        assert await shown(client, cookie) == {"a": 1}


@pytest.mark.parametrize(
    ("sessions", "told"),
    [
        (
            SessionEngine,
            r"sessions: a SessionEngine is needed, not the class SessionEngine; write SessionEngine\(\)",
        ),
        ({"secret": SECRET}, "sessions: a SessionEngine is needed, not {"),
        ("no reference", "sessions: 'no reference' is not of the form 'package.module:Name'"),
    ],
)
def test_a_manifest_takes_an_engine_and_nothing_else(sessions: Any, told: str) -> None:
    with pytest.raises(ManifestError, match=told):
        AppManifest("pages", sessions=sessions)


ENGINE = SessionEngine(SECRET)


def test_an_engine_may_be_named() -> None:
    engine = Registry.build([AppManifest("pages", sessions=f"{__name__}:ENGINE")]).apps[0].sessions
    assert engine is ENGINE


@pytest.mark.parametrize(
    ("name", "told"),
    [("ENGIN", "did you mean 'ENGINE'"), ("SECRET", "a SessionEngine is needed, not 'a secret")],
)
def test_a_name_that_leads_to_no_engine_is_refused(name: str, told: str) -> None:
    with pytest.raises(RegistryError, match=told):
        Registry.build([AppManifest("pages", sessions=f"{__name__}:{name}")])


def test_apps_share_an_engine_or_have_cookies_of_their_own() -> None:
    def build(one: SessionEngine, two: SessionEngine) -> None:
        Registry.build([AppManifest("one", sessions=one), AppManifest("two", sessions=two)])

    build(ENGINE, ENGINE)
    build(ENGINE, SessionEngine(SECRET, cookie="other"))
    with pytest.raises(
        RegistryError, match="app 'one' has another SessionEngine with the cookie 'aquilia_session'"
    ):
        build(ENGINE, SessionEngine(SECRET))
