"""Which adapters there are, by the scheme of their URLs: Aquilia's own, and those that installed packages bring.

A package brings one by an entry point in the group `aquilia.sockets.adapters`: its name is the scheme, and the object
behind it an `AdapterFactory`. Ours go the same road. Nothing is imported here; the one that is used is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import NamedTuple

__all__ = [
    "GROUP",
    "adapter_names",
    "adapter_of_scheme",
    "entry_point_of",
    "is_own",
    "package_of",
    "url_of",
    "urls_of",
]

GROUP = "aquilia.sockets.adapters"
"""That of the entry points."""
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
"""RFC 3986 section 3.1, in small letters."""
_LONGEST_SHOWN = 20
"""Characters of what stands where a scheme should: it may be something else, and secret."""


class _Own(NamedTuple):
    adapter: str
    """What the setting `adapter` calls it."""
    accepted: str
    factory: str


_MODULES = "aquilia.sockets.adapters"
_OWN = {
    "memory": _Own("inmemory", "memory://", f"{_MODULES}.inmemory:InMemoryAdapter.from_url"),
    "local": _Own("local", "local://…", f"{_MODULES}.local:LocalAdapter.from_url"),
    "nats": _Own("nats", "nats://host:4222/prefix", f"{_MODULES}.nats:NatsAdapter.from_url"),
    "tls": _Own("nats", "tls://host:4222/prefix", f"{_MODULES}.nats:NatsAdapter.from_url"),
    **{
        f"{base}{kind}": _Own("redis", f"{base}{kind}://{hosts}", f"{_MODULES}.redis:RedisAdapter.from_url")
        for kind, hosts in (("", "host:6379"), ("+cluster", "host,…"), ("+sentinel", "host,…?service=name"))
        for base in ("redis", "rediss")
    },
    "kafka": _Own("kafka", "kafka://host:9092/prefix", f"{_MODULES}.kafka:KafkaAdapter.from_url"),
    "kafka+ssl": _Own("kafka", "kafka+ssl://host:9092/prefix", f"{_MODULES}.kafka:KafkaAdapter.from_url"),
}
_URLS = {
    "inmemory": "memory://",
    "local": "local://",
    "nats": "nats://127.0.0.1:4222",
    "redis": "redis://127.0.0.1:6379",
    "kafka": "kafka://127.0.0.1:9092",
}


def is_own(scheme: str) -> bool:
    """Whether it is one of Aquilia's."""
    return scheme in _OWN


def adapter_names() -> tuple[str, ...]:
    """What the setting `adapter` accepts: our names, then the schemes that packages bring."""
    return (*_URLS, *_brought())


def urls_of(adapter: str) -> str:
    """The URLs that one of our adapters accepts, as words."""
    return _listed([own.accepted for own in _OWN.values() if own.adapter == adapter])


def adapter_of_scheme(scheme: str) -> str:
    """What the setting `adapter` calls the one with this scheme."""
    return _OWN[scheme].adapter if scheme in _OWN else scheme


def url_of(adapter: str) -> str:
    """The URL of an adapter that is known by its name alone."""
    return _URLS.get(adapter) or f"{adapter}://"


def entry_point_of(url: str) -> EntryPoint:
    """What makes the adapter of a URL. Of that, no more than the scheme is shown.

    Raises:
        ValueError: nobody has the scheme, several have it, or a package has one that is ours.
    """
    scheme, parted, _ = url.partition("://")
    if not parted or not _SCHEME.fullmatch(scheme):
        raise ValueError(f"an URL is needed: {_accepted()}")
    found = [point for point in _points() if point.name == scheme]
    if found and is_own(scheme):
        raise ValueError(
            f"{scheme}:// is Aquilia's own, and {_packages(found)} has it too: uninstall that one"
        )
    if scheme in _OWN:
        return EntryPoint(scheme, _OWN[scheme].factory, GROUP)
    if len({(point.value, package_of(point)) for point in found}) > 1:
        raise ValueError(f"{_packages(found)} both have {scheme}://: uninstall one of them")
    if not found:
        known = [*_OWN, *_brought()]
        near = get_close_matches(scheme, known, n=1) if len(scheme) < _LONGEST_SHOWN else []
        hint = f"did you mean {near[0]}://?" if near else "another one needs its package to be installed"
        raise ValueError(f"it is none of {_accepted()}; {hint}")
    return found[0]


def package_of(point: EntryPoint) -> str:
    """The installed package that brings it."""
    return "aquilia" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _packages(points: Iterable[EntryPoint]) -> str:
    return " and ".join(sorted({package_of(point) for point in points}))


def _points() -> EntryPoints:
    return _points_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _points_on(path: tuple[str, ...]) -> EntryPoints:
    """It takes 3 ms where 80 packages are installed."""
    return entry_points(group=GROUP)


def _brought() -> list[str]:
    names = {point.name for point in _points()}
    return sorted(name for name in names if not is_own(name) and _SCHEME.fullmatch(name))


def _accepted() -> str:
    return _listed([own.accepted for own in _OWN.values()] + [f"{scheme}://…" for scheme in _brought()])


def _listed(urls: list[str]) -> str:
    return ", ".join(urls[:-1]) + f" or {urls[-1]}"
