"""What users import: the names that were promised are there, and every public name is explained."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import Any

import pytest
from documents import ROOT, guide

import aquilia

# What is promised to users. Whoever adds a public name adds it here, in `__all__`, and in the guide.
HOST = {
    *("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"),
    *("AppManifest", "Clock", "Controller", "RequestCtx", "Body", "service"),
    *("Fault", "FaultDomain", "FaultEngine", "Severity", "__version__"),
    *("Identity", "AuthManager", "JWTAuthManager", "JWKS"),
    *("Session", "SessionEngine", "SessionStore", "MemorySessionStore"),
    *("RedisSessionStore", "SQLSessionStore"),
}
SOCKETS = {
    *("SocketController", "Socket", "OnConnect", "OnDisconnect", "OnPresence", "Event", "AckEvent"),
    *("Presence", "PresencePage", "Present"),
    *("Subscribe", "Unsubscribe", "Guard", "Emits", "Schema", "SchemaError"),
    *("Connection", "ConnectionState", "DisconnectReason", "Member", "MessageEnvelope", "Namespace"),
    *("Handshake", "SocketGuard", "OriginGuard", "RateLimitGuard", "RoomGuard", "SocketMiddleware"),
    *("MessageValidationMiddleware", "RateLimitMiddleware", "LoggingMiddleware", "MetricsMiddleware"),
    *("HandshakeAuthGuard", "MessageAuthGuard", "RoleGuard", "ScopeGuard", "SocketFault", "CloseCode"),
    *("Compression", "History", "HistoryMessage", "HistoryPage", "Position", "RoomAnswers"),
    *(
        "Adapter",
        "AdapterOptions",
        "Broker",
        "Store",
        "Publication",
        "InMemoryAdapter",
        "RedisAdapter",
        "AquilaSockets",
        "Revocations",
    ),
    *("Publisher", "SyncPublisher"),
}
COMPAT = {"Flow", "FlowRequest"}
# Promised, and not there yet: what arrives moves up, into the set of its package.
TO_COME: set[str] = set()

PROMISED_MODULES = [
    *("aquilia.manifest", "aquilia.faults", "aquilia.patterns", "aquilia.aquilary", "aquilia.controller"),
    *("aquilia.di", "aquilia.middleware", "aquilia.asgi", "aquilia.server", "aquilia.testing"),
    "aquilia.sockets",
    *(f"aquilia.sockets.{name}" for name in ("controller", "connection", "decorators", "envelope", "faults")),
    *(f"aquilia.sockets.{name}" for name in ("guards", "middleware", "runtime", "compile", "compat")),
    *("aquilia.sockets.adapters", "aquilia.sockets.adapters.base", "aquilia.sockets.adapters.inmemory"),
    "aquilia.cli.commands.ws",
]
PROMISED_FILES = [
    *("modules/chat/controllers.py", "modules/chat/manifest.py", "modules/chat/client.html"),
    *("tests/test_websockets.py", "docs/WEBSOCKETS.md"),
]
# What the guide has to explain. The modules behind have their names for each other, and docstrings for readers.
FOR_USERS = ["aquilia", "aquilia.sockets", "aquilia.sockets.compat", "aquilia.testing"]


def modules() -> list[str]:
    """Every module of the package, but those that run a program when they are imported."""
    found = [module.name for module in pkgutil.walk_packages(aquilia.__path__, "aquilia.")]
    return ["aquilia", *(name for name in found if not name.endswith("__main__"))]


def exports() -> list[Any]:
    found = []
    for name in modules():
        module = importlib.import_module(name)
        found += [pytest.param(module, export, id=f"{name}:{export}") for export in _all(module)]
    return found


def _all(module: ModuleType) -> list[str]:
    return list(getattr(module, "__all__", ()))


@pytest.mark.parametrize(
    ("package", "promised"),
    [("aquilia", HOST), ("aquilia.sockets", SOCKETS), ("aquilia.sockets.compat", COMPAT)],
)
def test_a_package_exports_what_was_promised_and_nothing_else(package: str, promised: set[str]) -> None:
    assert set(_all(importlib.import_module(package))) == promised


@pytest.mark.parametrize("name", modules())
def test_exports_are_listed_once_and_in_order(name: str) -> None:
    listed = _all(importlib.import_module(name))

    assert listed == sorted(set(listed), key=_in_order)


def _in_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by name: the order of ruff's RUF022."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_what_is_still_to_come_is_exported_nowhere() -> None:
    there = {name for module in modules() for name in _all(importlib.import_module(module))}

    assert not there & TO_COME, "move these into HOST or SOCKETS"


@pytest.mark.parametrize("name", PROMISED_MODULES)
def test_a_promised_module_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("file", PROMISED_FILES)
def test_a_promised_file_is_there(file: str) -> None:
    assert (ROOT / file).is_file()


@pytest.mark.parametrize(("module", "name"), exports())
def test_an_export_exists_and_says_what_it_is_for(module: ModuleType, name: str) -> None:
    value = getattr(module, name)

    if inspect.isclass(value) or inspect.isfunction(value):
        assert "__doc__" in vars(value) or inspect.isfunction(value)
        assert value.__doc__, f"{name} has no docstring"
        assert not value.__doc__.startswith(f"{name}("), f"{name} has a generated docstring only"


@pytest.mark.parametrize("package", FOR_USERS)
def test_the_guide_explains_every_name_for_users(package: str) -> None:
    text = guide()
    names = [name for name in _all(importlib.import_module(package)) if name != "__version__"]

    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
