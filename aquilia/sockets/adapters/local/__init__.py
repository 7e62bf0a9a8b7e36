"""The embedded adapter: `local://`, a NATS server with JetStream that Aquilia runs itself, for one machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Adapter, Deliver
from aquilia.sockets.adapters.local.host import url_of
from aquilia.sockets.adapters.local.server import LocalServer, missing
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.sockets.adapters.nats.broker import NatsBroker
from aquilia.sockets.adapters.nats.connection import NatsConnection
from aquilia.sockets.adapters.nats.store import NatsStore
from aquilia.sockets.adapters.nats.url import Target
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.signing import Signer
from aquilia.sockets.adapters.urls import options_of

__all__ = ["LocalAdapter", "LocalBroker", "local_server"]

FOLDER = ".aquilia"
"""In the working directory, if the URL names none."""


def local_server(url: str) -> LocalServer:
    """The server that `local://` or `local:///path/to/folder` names, not started; `?sync=always` survives power cuts.

    Raises:
        ValueError: the URL is wrong.
    """
    scheme, _, rest = url.partition("://")
    path, _, query = rest.partition("?")
    sync = options_of(query, ("sync",)).get("sync")
    if scheme != "local" or sync not in (None, "always"):
        raise ValueError(
            "local:// is followed by nothing or by ?sync=always, after the folder if there is one"
        )
    if path and not path.startswith("/"):
        raise ValueError(
            f"local://{path}: a folder is written with its whole path, local:///path/to/folder; local:// alone "
            f"is {FOLDER} in the working directory"
        )
    folder = Path(unquote(path)) if path.strip("/") else Path.cwd() / FOLDER
    return LocalServer(folder, sync=sync is not None)


class LocalAdapter:
    """A broker and a store on a server that starts and stops with the broker.

    Raises:
        ValueError: the URL is wrong, or nats-server or nats-py is not installed.
    """

    def __init__(
        self,
        url: str = "local://",
        clock: Clock | None = None,
        *,
        publish_timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        server = local_server(url)
        if problem := missing():
            raise ValueError(problem)
        connection = NatsConnection(Target(()))
        self.store = NatsStore(connection, clock or Clock.current())
        self.broker = LocalBroker(
            connection, self.store, server, publish_timeout=publish_timeout, signer=signer
        )

    @classmethod
    def from_url(cls, url: str, options: AdapterOptions) -> Adapter:
        """See `AdapterFactory`. Who joins has no server, and is at that of the application which runs."""
        if not options.joining:
            return cls(url, options.clock, publish_timeout=options.publish_timeout, signer=options.signer)
        if (running := local_server(url).running()) is None:
            raise ValueError("no application that runs has the server of this folder")
        return NatsAdapter.from_url(running, options)


class LocalBroker(NatsBroker):
    """See `NatsBroker`; its server lives between `start` and `stop`, unless another process has it for us."""

    def __init__(
        self,
        connection: NatsConnection,
        store: NatsStore,
        server: LocalServer,
        *,
        publish_timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        super().__init__(connection, store.start, publish_timeout=publish_timeout, signer=signer)
        self.server = server

    async def start(self, deliver: Deliver) -> None:
        """See `Broker`.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: the server does not start, or its folder is in use.
        """
        url = await asyncio.to_thread(url_of, self.server)
        try:
            self._connection.target = Target.parse(url)
            await super().start(deliver)
        except BaseException:
            await asyncio.to_thread(self.server.stop)
            raise

    async def stop(self) -> None:
        """See `Broker`."""
        await super().stop()
        await asyncio.to_thread(self.server.stop)
