"""Dependency injection: `@service`, and containers in five scopes, over dishka.

The whole graph is checked when it is built, and every problem in it is reported at once.
"""

from __future__ import annotations

from aquilia.di.container import Constructor, Injection, ScopeContainer
from aquilia.di.declaration import (
    Consumer,
    Scope,
    ScopeName,
    ServiceDeclaration,
    service,
    service_declaration,
)
from aquilia.di.problems import DIError, Link, Problem
from aquilia.di.services import Services
from aquilia.di.signatures import Dependency, call_dependencies, constructor_dependencies

__all__ = [
    "Constructor",
    "Consumer",
    "DIError",
    "Dependency",
    "Injection",
    "Link",
    "Problem",
    "Scope",
    "ScopeContainer",
    "ScopeName",
    "ServiceDeclaration",
    "Services",
    "call_dependencies",
    "constructor_dependencies",
    "service",
    "service_declaration",
]
