"""nats-py's client, which asks for TLS before it says who it is, and ends in peace.

Imports nats-py: import this where it is used.
"""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client

__all__ = ["DemandingClient", "NoTLSError"]


class NoTLSError(Exception):
    """The server has no TLS, and it was demanded."""


class DemandingClient(Client):
    """Where `tls` is among its options, it says nothing to a server without TLS.

    nats-py itself takes the server's word for whether TLS is used, which whoever sits in between can change, and then
    sends the login in plain text.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and "tls" in self.options:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NoTLSError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _process_op_err(self, e: Exception) -> None:
        """The stream has failed. What still waits goes nowhere: on uvloop its own end would raise at that."""
        self._pending, self._pending_data_size = [], 0
        await super()._process_op_err(e)

    def _connect_command(self) -> bytes:
        """The first words behind TLS."""
        transport: Any = self._transport
        stream = transport._io_writer.transport
        protocol = stream.get_protocol()  # none if it has ended
        if protocol is not None and stream.get_extra_info("ssl_object") is not None:
            # As asyncio's own start_tls does; else it warns at each end of the stream that it is ignored.
            protocol._over_ssl = True
        return super()._connect_command()
