"""`aq doctor` names what is unsafe, each by its check, and exits with 1 in production where anything is an error."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from documents import table
from workspaces import Workspace

from aquilia.cli.checks import CHECKS, findings
from aquilia.cli.posture import AdapterPosture, Posture, SecretPosture, SocketPosture, adapter_posture

SOCKET = SocketPosture(path="/x", where="controllers.py:1")
SAFE: dict[str, Any] = {"sockets": (SOCKET,), "allowed_hosts": ("example.com",), "certificate": True}
REMOTE = AdapterPosture(host="nats.example", loopback=False, tls=True, login=True)


def found(**changed: Any) -> list[str]:
    return [finding.check for finding in findings(Posture(**{**SAFE, **changed}))]


def socket(**changed: Any) -> tuple[SocketPosture, ...]:
    return (SocketPosture(path="/x", where="controllers.py:1", **changed),)


def adapter(**changed: Any) -> AdapterPosture:
    return AdapterPosture(
        **{"host": "nats.example", "loopback": False, "tls": True, "login": True, **changed}
    )


def kafka(**changed: Any) -> AdapterPosture:
    advice = "use kafka+ssl://, and a login by a file: kafka+ssl://user@host?password_file=FILE"
    return msgspec.structs.replace(redis(**changed), advice=advice)


def redis(**changed: Any) -> AdapterPosture:
    advice = "use rediss://, and a login by a file: rediss://user@host?password_file=FILE"
    return adapter(advice=advice, **changed)


def test_what_is_safe_is_left_in_peace() -> None:
    assert found() == []
    assert found(sockets=(), allowed_hosts=None) == []
    assert found(adapter=REMOTE) == []
    assert found(adapter=adapter(loopback=True, tls=False, login=False)) == []
    assert found(certificate=False, trusted_proxies=("10.0.0.1",), address="0.0.0.0") == []
    assert found(certificate=False, trusted_proxies=("127.0.0.0/8",)) == []
    assert found(certificate=False, trusted_proxies=("unix",), address="unix") == []


def test_signatures_are_no_tls_and_are_told_where_they_are_missing() -> None:
    [unsigned] = findings(Posture(**{**SAFE, "adapter": adapter(tls=False)}))
    assert "nobody signs them" in unsigned.problem
    assert "AQ_WS_BUS_SECRET" in unsigned.remedy
    [signed] = findings(Posture(**{**SAFE, "adapter": adapter(tls=False, signed=True)}))
    assert "AQ_WS_BUS_SECRET" not in signed.remedy


UNSAFE: list[tuple[str, dict[str, Any]]] = [
    ("start", {"problems": (("manifest.py", "sessions need a secret"),)}),
    ("auth", {"sockets": socket(asks=False)}),
    ("origins", {"sockets": socket(origins=("https://a.example", "*"))}),
    ("secrets", {"secrets": (SecretPosture(name="AQ_AUTH_KEY", looks_default=True),)}),
    ("source", {"secrets": (SecretPosture(name="AQ_AUTH_KEY", in_source="manifest.py:3"),)}),
    ("tls", {"certificate": False, "address": "0.0.0.0"}),
    ("proxies", {"trusted_proxies": ("10.0.0.1", "0.0.0.0/0")}),
    ("proxies", {"trusted_proxies": ("::/0",)}),
    ("adapter", {"adapter": adapter(tls=False)}),
    ("adapter", {"adapter": adapter(login=False)}),
    ("hosts", {"allowed_hosts": None}),
    ("hosts", {"allowed_hosts": ("*",)}),
    ("limits", {"sockets": socket(message_rate_limit=None)}),
    ("door", {"door": False}),
    ("heartbeat", {"heartbeat": 3600.0}),
    ("proxy", {"certificate": False}),
    ("proxy", {"certificate": False, "trusted_proxies": ("127.0.0.1",), "address": "unix"}),
    ("proxy", {"certificate": False, "trusted_proxies": ("unix",)}),
    ("metrics", {"metrics": "/metrics"}),
    ("audit", {"audit": None}),
    ("audit", {"audit_secret": False}),
    ("development", {"environment": "development"}),
    ("revocation", {"takes_back": False}),
    ("health", {"health": "/health"}),
]


@pytest.mark.parametrize(("check", "changed"), UNSAFE)
def test_what_is_unsafe_is_found_by_its_check_alone(check: str, changed: dict[str, Any]) -> None:
    assert found(**changed) == [check]
    assert findings(Posture(**{**SAFE, **changed}), frozenset({check})) == []


def test_every_check_is_shown_here_and_in_the_guide() -> None:
    assert {check for check, _ in UNSAFE} == set(CHECKS)
    rows = [(row["check"], row["level"]) for row in table("Doctor", "check", "level")]
    assert rows == [(check.name, check.level) for check in CHECKS.values()]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, AdapterPosture()),
        ("local://", AdapterPosture()),
        ("nats://127.0.0.1:4222/app", AdapterPosture(host="127.0.0.1")),
        ("nats://localhost,[::1]", AdapterPosture(host="localhost, ::1")),
        ("nats://a.example", adapter(host="a.example", tls=False, login=False)),
        ("tls://me:s3cret@a.example,127.0.0.1", adapter(host="a.example, 127.0.0.1")),
        ("nats://a.example?creds=/f", adapter(host="a.example", tls=False)),
        ("nats://127.example.com", adapter(host="127.example.com", tls=False, login=False)),
        ("redis://127.0.0.1/1", redis(host="127.0.0.1", loopback=True, tls=False, login=False)),
        (
            "redis+cluster://[::1],localhost",
            redis(host="::1, localhost", loopback=True, tls=False, login=False),
        ),
        ("redis://a.example", redis(host="a.example", tls=False, login=False)),
        ("redis://:s3cret@a.example", redis(host="a.example", tls=False)),
        ("rediss+sentinel://me:s3cret@a.example,b?service=s", redis(host="a.example, b")),
        ("rediss://me@a.example?password_file=/f", redis(host="a.example")),
        ("kafka://127.0.0.1,[::1]:9093", kafka(host="127.0.0.1, ::1", loopback=True, tls=False, login=False)),
        ("kafka://me:s3cret@a.example,b", kafka(host="a.example, b", tls=False)),
        ("kafka+ssl://a.example", kafka(host="a.example", login=False)),
        ("kafka+ssl://a.example?cert=/f", kafka(host="a.example")),
    ],
)
def test_an_adapters_url_is_read_without_its_password(url: str | None, expected: AdapterPosture) -> None:
    assert adapter_posture(url) == expected
    assert "s3cret" not in repr(adapter_posture(url))


def test_a_redis_without_tls_is_told_by_what_names_it() -> None:
    posture = adapter_posture("redis://:s3cret@a.example")
    [told] = findings(Posture(**{**SAFE, "adapter": msgspec.structs.replace(posture, where="redis_url")}))
    assert (told.check, told.where) == ("adapter", "redis_url")
    assert told.problem.startswith("a.example is asked without TLS: ")
    assert told.remedy.startswith("use rediss://, and a login by a file")


def test_a_store_apart_from_the_broker_is_looked_at_too() -> None:
    store = msgspec.structs.replace(adapter_posture("redis://:s3cret@a.example"), where="store_url")
    [told] = findings(Posture(**{**SAFE, "store": store}))
    assert (told.check, told.where) == ("adapter", "store_url")
    assert told.problem == (
        "a.example is asked without TLS: who reaches it reads and writes what is stored: sessions to come back to, "
        "and answers"
    )
    assert found(store=adapter()) == []


UNSAFE_MANIFEST = """
from aquilia import AppManifest, JWTAuthManager, SessionEngine
from controllers import EchoSocket, Page

manifest = AppManifest(
    "echo",
    controllers=[Page, EchoSocket],
    auth=JWTAuthManager("kq3Vt8-Zp1xYw7RmB2nD5sHc9LfGj0Ua"),
    sessions=SessionEngine("changeme-changeme-changeme-changeme"),
    websockets={"allowed_origins": ["*"], "metrics": True, "adapter_url": "nats://me:hidden@nats.example"},
)
"""


def test_a_workspace_is_examined_and_production_ends_with_1(echo: Workspace) -> None:
    echo.write("modules/echo/manifest.py", UNSAFE_MANIFEST)
    done = echo.aq("doctor", "--host", "0.0.0.0", "--trusted-proxies", "10.0.0.1,0.0.0.0/0", "--json")
    listed = json.loads(done.stdout)["findings"]

    assert done.returncode == 1
    checks = [finding["check"] for finding in listed]
    assert checks == [
        *("auth", "origins", "secrets", "source", "source", "proxies", "adapter"),
        *("hosts", "limits", "door", "metrics", "audit", "revocation"),
    ]
    by_check = {finding["check"]: finding for finding in listed}
    assert by_check["auth"]["where"].startswith("modules/echo/controllers.py:")
    assert {finding["where"] for finding in listed if finding["check"] == "source"} == {
        "modules/echo/manifest.py:8",
        "modules/echo/manifest.py:9",
    }
    assert by_check["secrets"]["where"] == "SessionEngine of echo"
    for secret in ("kq3Vt8", "changeme", "hidden"):
        assert secret not in done.stdout + done.stderr


def test_in_development_errors_are_told_and_end_with_0(echo: Workspace) -> None:
    echo.environment["AQ_ENV"] = "development"
    shown = echo.done("doctor")
    assert "error  auth  modules/echo/controllers.py:" in shown
    assert "warning  development  AQ_ENV" in shown


def test_what_is_meant_so_can_be_accepted(echo: Workspace) -> None:
    shown = echo.done("doctor", "--accept", "auth", "--accept", "limits")
    assert "auth" not in shown
    assert shown.endswith("4 warnings\n")
    assert "did you mean 'auth'?" in echo.refused("doctor", "--accept", "auht", code=2)


def test_proxies_are_those_of_the_setting_or_of_the_option(echo: Workspace) -> None:
    echo.edit(
        "modules/echo/manifest.py",
        'version="1.2.3"',
        'version="1.2.3", websockets={"trusted_proxies": ["::/0"]}',
    )

    def told(*words: str) -> set[str]:
        return {each["check"] for each in json.loads(echo.aq("doctor", "--json", *words).stdout)["findings"]}

    assert "proxies" in told()
    assert not told("--trusted-proxies", "127.0.0.1") & {"proxies", "proxy"}
    assert "'proxy.example'" in echo.refused("doctor", "--trusted-proxies", "proxy.example", code=2)


def test_secrets_of_the_environment_are_looked_at_and_missing_ones_are_told(echo: Workspace) -> None:
    sound = UNSAFE_MANIFEST.replace('"kq3Vt8-Zp1xYw7RmB2nD5sHc9LfGj0Ua"', '"' + "9" * 40 + '"')
    sound = sound.replace('"changeme-changeme-changeme-changeme"', "")
    echo.environment["AQ_WS_STORE_URL"] = "redis://:hidden@redis.example"
    echo.write("modules/echo/manifest.py", sound)
    told = json.loads(echo.aq("doctor", "--json").stdout)["findings"]
    assert "AQ_SESSION_SECRET" in next(each["problem"] for each in told if each["check"] == "start")

    echo.environment["AQ_SESSION_SECRET"] = "your-secret-key-goes-here-0123456789"
    told = json.loads(echo.aq("doctor", "--json").stdout)["findings"]
    assert {each["where"] for each in told if each["check"] == "secrets"} == {
        "AQ_SESSION_SECRET",
        "JWTAuthManager of echo",
    }


def test_a_workspace_that_does_not_boot_is_told_as_by_compile(echo: Workspace) -> None:
    echo.edit("modules/echo/controllers.py", "max_message_size=1000", "max_message_size=0")
    assert "max_message_size" in echo.refused("doctor")
