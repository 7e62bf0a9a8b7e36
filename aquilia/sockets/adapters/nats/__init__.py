"""The NATS adapter: `nats://host/prefix`, for several processes and machines. nats-py is imported when it starts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Self

from aquilia.clock import Clock
from aquilia.sockets.adapters.nats.broker import NatsBroker
from aquilia.sockets.adapters.nats.connection import NatsConnection
from aquilia.sockets.adapters.nats.dial import MISSING
from aquilia.sockets.adapters.nats.store import NatsStore
from aquilia.sockets.adapters.nats.url import Target
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.signing import Signer

__all__ = ["NatsAdapter"]


class NatsAdapter:
    """A broker and a store over one connection to NATS with JetStream (server 2.11 or later).

    `url` is `nats://[user:password@ or token@]host[:port][,host…][/prefix][?option=…&…]`, or the same with `tls://`;
    `Target` has the options.
    `publish_timeout` is for rooms with history, and `signer` for all: see `NatsBroker`.
    Applications that share a server have different prefixes; the default is "aquilia".

    Raises:
        ValueError: the URL is wrong, or nats-py is not installed.
    """

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        *,
        publish_timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        target = Target.parse(url)
        if find_spec("nats") is None:
            raise ValueError(MISSING)
        connection = NatsConnection(target)
        self.store = NatsStore(connection, clock or Clock.current())
        self.broker = NatsBroker(connection, self.store.start, publish_timeout=publish_timeout, signer=signer)

    @classmethod
    def from_url(cls, url: str, options: AdapterOptions) -> Self:
        """See `AdapterFactory`."""
        return cls(url, options.clock, publish_timeout=options.publish_timeout, signer=options.signer)
