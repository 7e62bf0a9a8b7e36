"""The Kafka adapter: `kafka://host/prefix`, for several processes and machines. aiokafka is imported when it starts.

Kafka carries publications and logs, and has no place for a store: that is the setting `store_url`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar, Self

from aquilia.clock import Clock
from aquilia.sockets.adapters.apart import NoStore
from aquilia.sockets.adapters.kafka.broker import KafkaBroker
from aquilia.sockets.adapters.kafka.connection import KafkaConnection
from aquilia.sockets.adapters.kafka.dial import MISSING
from aquilia.sockets.adapters.kafka.url import Target
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.signing import Signer

__all__ = ["KafkaAdapter"]


class KafkaAdapter:
    """A broker over Apache Kafka, or what speaks its protocol.

    `url` is `kafka://[user:password@]host[:port][,host…][/prefix][?option=…&…]`, or the same with `kafka+ssl://`;
    `Target` has the options. `publish_timeout` is for rooms with history, and `signer` for all: see `KafkaBroker`.
    Applications that share a cluster have different prefixes; the default is "aquilia".

    Raises:
        ValueError: the URL is wrong, or aiokafka is not installed.
    """

    has_store: ClassVar[bool] = False
    """What needs a store asks for `store_url`."""

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        *,
        publish_timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        target = Target.parse(url)
        if find_spec("aiokafka") is None:
            raise ValueError(MISSING)
        self.store = NoStore()
        self.broker = KafkaBroker(
            KafkaConnection(target), clock or Clock.current(), publish_timeout=publish_timeout, signer=signer
        )

    @classmethod
    def from_url(cls, url: str, options: AdapterOptions) -> Self:
        """See `AdapterFactory`."""
        return cls(url, options.clock, publish_timeout=options.publish_timeout, signer=options.signer)
