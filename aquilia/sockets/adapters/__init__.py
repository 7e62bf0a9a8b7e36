"""The adapters: brokers and stores, behind the two ports of `base`."""

from __future__ import annotations

import logging
import os

from aquilia.clock import Clock
from aquilia.sockets.adapters.apart import with_store
from aquilia.sockets.adapters.base import Adapter
from aquilia.sockets.adapters.choice import ADAPTER_URL, Choice, chosen
from aquilia.sockets.adapters.making import made
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.schemes import entry_point_of, url_of
from aquilia.sockets.adapters.signing import bus_signer

logger = logging.getLogger("aquilia.sockets")

__all__ = ["ADAPTER_URL", "LOCAL_HOST", "WORKERS", "adapter_for"]

LOCAL_HOST = "AQ_WS_LOCAL_HOST"
"""The variable that `aq serve` sets for its children: port and secret of the process that has servers for local://."""
WORKERS = "AQ_WS_WORKERS"
"""The variable that `aq serve` sets for its children: how many there are that share the rooms."""


def adapter_for(
    name: str,
    url: str | None,
    clock: Clock,
    *,
    redis_url: str | None = None,
    store: Choice | None = None,
    publish_timeout: float | None = None,
    where: str | None = None,
    joining: bool = False,
) -> Adapter:
    """The adapter that the settings `adapter`, `adapter_url` and `redis_url` name, unless the environment does.

    `store` names the one whose store is taken, if that is another. `where` says who else names the URL: then neither
    setting nor environment does. The other words are those of `AdapterOptions`.

    Raises:
        ValueError: the URL is wrong, a secret of the bus is, or what is needed is not installed. No password and no
            secret is shown.
    """
    choice = chosen(name, url, redis_url) if where is None else Choice(where, url or url_of(name))
    where, url = choice or ("adapter_url", _by_default() if name == "inmemory" else url_of(name))
    signer = bus_signer()
    options = AdapterOptions(clock=clock, publish_timeout=publish_timeout, signer=signer, joining=joining)
    try:
        adapter = made(entry_point_of(url), url, options)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error.__cause__
    if (workers := _workers()) > 1 and getattr(adapter.broker, "alone", False):
        raise ValueError(
            f"{where}: {url.partition('://')[0]}:// is the memory of one process, and each of the {workers} workers "
            "would have rooms of its own: take local://, nats://host:4222 or redis://host:6379, or --workers 1"
        )
    return adapter if store is None or store.url == url else with_store(adapter, store, options)


def _workers() -> int:
    return int(os.environ.get(WORKERS) or 1)


def _by_default() -> str:
    """Where nothing was said: in memory, unless that is lost while the application is served: at each reload.

    Raises:
        ValueError: it would have to be shared by several workers, and there is nothing to do it by.
    """
    if LOCAL_HOST not in os.environ:
        return "memory://"
    from aquilia.sockets.adapters.local.server import missing

    problem = missing()
    if problem and (workers := _workers()) > 1:
        raise ValueError(
            f"{workers} workers need a broker that they share, local:// by default: {problem}; or name a NATS "
            "server, as AQ_WS_ADAPTER_URL=nats://host:4222; or take --workers 1"
        )
    if problem:
        logger.warning("what rooms remember, and what is stored, is lost at each reload: %s", problem)
        return "memory://"
    return "local://"
