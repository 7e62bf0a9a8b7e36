"""The Redis adapter: `redis://host`, for several processes and machines. hiredis is imported when it starts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.redis.url import Target
from aquilia.sockets.adapters.signing import Signer

if TYPE_CHECKING:
    from aquilia.sockets.adapters.redis.broker import RedisBroker
    from aquilia.sockets.adapters.redis.store import RedisStore

__all__ = ["RedisAdapter"]

MISSING = "the Redis adapter needs hiredis: pip install 'aquilia[redis]'"


class RedisAdapter:
    """A broker and a store on Redis 7.0 or later: one server, what sentinels watch, or a cluster.

    `Target` says what `url` may be. `publish_timeout` is for rooms with history, and `signer` for all: see
    `RedisBroker`. Applications that share a server have different prefixes; the default is "aquilia".

    Raises:
        ValueError: the URL is wrong, or hiredis is not installed.
    """

    broker: RedisBroker
    store: RedisStore

    def __init__(
        self, url: str, *, publish_timeout: float | None = None, signer: Signer | None = None
    ) -> None:
        target = Target.parse(url)
        if find_spec("hiredis") is None:
            raise ValueError(MISSING)
        from aquilia.sockets.adapters.redis.broker import RedisBroker
        from aquilia.sockets.adapters.redis.connection import RedisConnection
        from aquilia.sockets.adapters.redis.store import RedisStore

        connection = RedisConnection(target)
        self.store = RedisStore(connection)
        self.broker = RedisBroker(connection, publish_timeout=publish_timeout, signer=signer)

    @classmethod
    def from_url(cls, url: str, options: AdapterOptions) -> Self:
        """See `AdapterFactory`."""
        return cls(url, publish_timeout=options.publish_timeout, signer=options.signer)
