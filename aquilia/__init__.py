"""Aquilia: a manifest-first, controller-based realtime framework. The sockets are in `aquilia.sockets`."""

from __future__ import annotations

from aquilia.auth import AuthManager, Identity
from aquilia.clock import Clock
from aquilia.controller import (
    DELETE,
    GET,
    HEAD,
    OPTIONS,
    PATCH,
    POST,
    PUT,
    Body,
    Controller,
    RequestCtx,
)
from aquilia.di import service
from aquilia.faults import Fault, FaultDomain, FaultEngine, Severity
from aquilia.jwks import JWKS
from aquilia.jwt import JWTAuthManager
from aquilia.manifest import AppManifest
from aquilia.sessions import (
    MemorySessionStore,
    RedisSessionStore,
    Session,
    SessionEngine,
    SessionStore,
    SQLSessionStore,
)

__all__ = [
    "DELETE",
    "GET",
    "HEAD",
    "JWKS",
    "OPTIONS",
    "PATCH",
    "POST",
    "PUT",
    "AppManifest",
    "AuthManager",
    "Body",
    "Clock",
    "Controller",
    "Fault",
    "FaultDomain",
    "FaultEngine",
    "Identity",
    "JWTAuthManager",
    "MemorySessionStore",
    "RedisSessionStore",
    "RequestCtx",
    "SQLSessionStore",
    "Session",
    "SessionEngine",
    "SessionStore",
    "Severity",
    "__version__",
    "service",
]

__version__ = "0.1.0"
