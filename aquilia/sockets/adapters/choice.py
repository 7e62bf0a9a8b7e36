"""Which URL an application has its adapter by: the environment's, one of its settings, or the one by default."""

from __future__ import annotations

import os
from typing import NamedTuple

from aquilia.sockets.adapters.schemes import adapter_of_scheme, urls_of

__all__ = ["ADAPTER_URL", "REDIS_URL", "STORE_URL", "Choice", "chosen", "chosen_store"]

ADAPTER_URL = "AQ_WS_ADAPTER_URL"
"""The variable of the environment whose URL wins over the settings: it may hold a password."""
REDIS_URL = "REDIS_URL"
"""The variable by which hosting platforms say where their Redis is: for the adapter "redis", where nothing else says
so."""

STORE_URL = "AQ_WS_STORE_URL"
"""The variable whose URL wins over the setting `store_url`."""


class Choice(NamedTuple):
    """A URL, and the setting or variable that has it."""

    where: str
    url: str


def chosen(adapter: str, adapter_url: str | None, redis_url: str | None = None) -> Choice | None:
    """By the settings, and the environment over them. None: nothing says more than the name of the adapter.

    Raises:
        ValueError: `REDIS_URL` is none of Redis. It is not shown.
    """
    if said := os.environ.get(ADAPTER_URL):
        return Choice(ADAPTER_URL, said)
    if adapter_url:
        return Choice("adapter_url", adapter_url)
    if redis_url:
        return Choice("redis_url", redis_url)
    if adapter != "redis" or not (said := os.environ.get(REDIS_URL)):
        return None
    if adapter_of_scheme(said.partition("://")[0]) != "redis":
        raise ValueError(
            f"{REDIS_URL}: a URL of Redis is needed: {urls_of('redis')}; {ADAPTER_URL} wins over it"
        )
    return Choice(REDIS_URL, said)


def chosen_store(store_url: str | None) -> Choice | None:
    """The adapter whose store is taken: that of the environment, or of the setting. None: the broker's own."""
    if said := os.environ.get(STORE_URL):
        return Choice(STORE_URL, said)
    return Choice("store_url", store_url) if store_url else None
