"""Keys that somebody else publishes in a file; and what `JWKS` is not made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from issuer import Hands, accepted, jwks, public, refusal, token
from tokens import SECRET, part

from aquilia import JWKS, AppManifest, Clock, Fault, Identity, JWTAuthManager
from aquilia.clock import CURRENT
from aquilia.sockets import Connection, Event, Socket, SocketController
from aquilia.testing import sockets_test


@pytest.fixture
def hands() -> Any:
    hands = Hands()
    before = CURRENT.set(Clock(monotonic=hands.monotonic))
    yield hands
    CURRENT.reset(before)


def written(file: Path, *keys: dict[str, Any]) -> None:
    """As secrets are mounted: another file takes the place of the former."""
    new = file.with_suffix(".new")
    new.write_bytes(jwks(*keys))
    new.replace(file)


async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path, hands: Hands) -> None:
    file = tmp_path / "jwks.json"
    written(file, public("ES256", "a"))
    manager = JWTAuthManager(jwks=file)
    await manager.load_keys()
    written(file, public("ES256", "b"))
    assert await accepted(manager, token("ES256", "a"))  # nobody looks twice in a second

    hands.moved += 1

    assert await refusal(manager, token("ES256", "a")) == "AUTH_TOKEN_INVALID"
    assert await accepted(manager, token("ES256", "b"))


async def test_a_broken_file_changes_nothing_and_is_told_of_once(
    tmp_path: Path, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "jwks.json"
    written(file, public("ES256", "a"))
    manager = JWTAuthManager(jwks=str(file))
    await manager.load_keys()

    for spoil in (lambda: file.write_text("{"), file.unlink):
        spoil()
        for _ in range(3):
            hands.moved += 1
            assert await accepted(manager, token("ES256", "a"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "it is no JSON" in caplog.text
    assert "No such file" in caplog.text

    written(file, public("ES256", "b"))
    hands.moved += 1
    assert await accepted(manager, token("ES256", "b"))


async def test_a_file_may_have_secrets_and_then_issues_tokens(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    written(file, {"kty": "oct", "kid": "s", "k": part(SECRET.encode())})
    manager = JWTAuthManager(jwks=file)
    with pytest.raises(ValueError, match="there are no keys yet"):
        manager.issue(Identity("ann"), lifetime=60)
    await manager.load_keys()

    assert await accepted(manager, manager.issue(Identity("ann"), lifetime=60))


async def test_without_its_file_an_app_does_not_start_and_can_be_declared(tmp_path: Path) -> None:
    @Socket("/desk", require_auth=True)
    class Desk(SocketController):
        @Event("whoami")
        async def whoami(self, conn: Connection) -> str:
            return str(conn.identity.id)

    file = tmp_path / "jwks.json"
    manifest = AppManifest("desk", controllers=[Desk], auth=JWTAuthManager(jwks=file))
    with pytest.raises(Fault, match=f"no keys in {file}: No such file"):
        async with sockets_test(manifest):
            raise AssertionError("it has started")

    written(file, public("ES256", "a"))
    async with sockets_test(manifest) as t:
        client = await t.connect("/desk", token=token("ES256", "a"))
        assert await client.request("whoami") == "ann"


# What is refused when it is made


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("http://issuer.example/jwks.json", "https:// is needed"),
        ("ftp://127.0.0.1/jwks.json", "https:// is needed"),
        ("https://", "it names no host"),
        ("https://ann:secret@issuer.example/", "it has a login"),
        ("https://issuer.example/#a", "it has a fragment"),
        ("https://issuer.example:port/", "it is no URL"),
        ("", "the source is empty"),
        ({"keys": []}, "give the JWKS itself as the key"),
    ],
)
def test_a_source_that_is_not_safe_is_refused(source: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        JWTAuthManager(jwks=source)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"refresh": 1}, "refresh: 5 or more seconds are needed, not 1"),
        ({"refresh": float("nan")}, "refresh"),
        ({"timeout": 0}, "timeout: a number of seconds above 0 is needed, not 0"),
        ({"max_age": 60}, "max_age: 60 is less than refresh, 300"),
        ({"max_age": True}, "max_age"),
    ],
)
def test_times_that_are_none_are_refused(options: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        JWKS("https://issuer.example/", **options)


def test_what_does_not_go_together_is_refused() -> None:
    url = "https://issuer.example/"
    with pytest.raises(ValueError, match="give one of the two"):
        JWTAuthManager(SECRET, jwks=url)
    with pytest.raises(ValueError, match="HS256 takes a shared secret, which no URL may publish"):
        JWTAuthManager(jwks=url, algorithms=["HS256"])
    with pytest.raises(ValueError, match="'none' is none of"):
        JWTAuthManager(jwks=url, algorithms=["none"])
    with pytest.raises(TypeError, match="a URL or a path is needed, not int"):
        JWKS(5)  # type: ignore[arg-type]
