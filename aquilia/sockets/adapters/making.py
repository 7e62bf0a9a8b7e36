"""How an adapter is made by what an entry point names, and looked at before anything relies on it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any
from urllib.parse import unquote

from aquilia.sockets.adapters.base import Adapter, Broker, Store
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.schemes import is_own, package_of

__all__ = ["made"]

_TELLS = re.compile("auth|cred|key|pass|pwd|secret|sig|token", re.IGNORECASE)
_CALLED = "it is called with the URL and AdapterOptions, and returns an Adapter"


def made(point: EntryPoint, url: str, options: AdapterOptions) -> Adapter:
    """The adapter of a URL.

    Raises:
        ValueError: it cannot be imported, refuses the URL, or is no adapter. Nothing of the URL's login is shown.
    """
    if is_own(point.name):  # what it raises has no secret in it, and it returns an adapter
        ours: Adapter = point.load()(url, options)
        return ours
    whose = f"{point.name}://, {point.value} of {package_of(point)}"
    try:
        factory = point.load()
    except Exception as error:
        raise ValueError(f"{whose}: it cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise ValueError(f"{whose}: it is {factory!r}, which cannot be called: {_CALLED}")
    try:
        adapter = factory(url, options)
    except ValueError as error:
        raise ValueError(f"{point.name}://: {_without_secrets(str(error), url)}") from None
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        told = _without_secrets(said, url)
        raise ValueError(f"{whose}: it failed: {told}; {_CALLED}") from (error if told == said else None)
    if problem := _problem(adapter):
        raise ValueError(f"{whose}: what it returned is no Adapter: {problem}")
    checked: Adapter = adapter
    return checked


def _problem(adapter: Any) -> str | None:
    if inspect.iscoroutine(adapter):
        adapter.close()
        return "it is a coroutine; what has to be awaited is for Broker.start"
    for owner, name, port in ((adapter, "broker", Broker), (adapter, "store", Store)):
        if not _has(owner, name):
            return f"{type(owner).__name__} has no {name}"
        part = getattr(owner, name)
        if missing := [verb for verb in _verbs(port) if not _has(part, verb)]:
            return f"its {name}, {type(part).__name__}, has no {' and no '.join(missing)}"
    return None


def _verbs(port: type) -> list[str]:
    return [name for name in {**vars(port), **port.__annotations__} if not name.startswith("_")]


def _has(owner: object, name: str) -> bool:
    """Without asking for its value: a property may have none yet."""
    return inspect.getattr_static(owner, name, _has) is not _has


def _without_secrets(words: str, url: str) -> str:
    scheme, _, rest = url.partition("://")
    shown = words.replace(url, f"{scheme}://…") if rest else words
    for secret in sorted(_secrets(url), key=len, reverse=True):
        shown = shown.replace(secret, "***")
    return shown


def _secrets(url: str) -> Iterator[str]:
    """What may be one: a login before the host, which may have any character in it, and options called so."""
    rest = url.partition("://")[2]
    login = rest.rpartition("@")[0]
    user, colon, password = login.partition(":")
    options = [part.partition("=") for part in rest.partition("?")[2].split("&")]
    told = [value for name, _, value in options if _TELLS.search(name)]
    for said in (login, password if colon else user, *told):
        yield from filter(None, (said, unquote(said)))
