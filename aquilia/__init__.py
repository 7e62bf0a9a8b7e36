"""Aquilia: a manifest-first, controller-based realtime framework. The sockets are in `aquilia.sockets`."""

from __future__ import annotations

from aquilia.auth import AuthManager, Identity
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
from aquilia.jwt import JWTAuthManager
from aquilia.manifest import AppManifest

__all__ = [
    "DELETE",
    "GET",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "POST",
    "PUT",
    "AppManifest",
    "AuthManager",
    "Body",
    "Controller",
    "Fault",
    "FaultDomain",
    "FaultEngine",
    "Identity",
    "JWTAuthManager",
    "RequestCtx",
    "Severity",
    "__version__",
    "service",
]

__version__ = "0.1.0"
