"""The upgrade of the native transport: from a request whose head was read to an open connection on picows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from aquilia.sockets.deflate import Agreement
from aquilia.sockets.metrics.figures import Deflated
from aquilia.sockets.transports.borrowed import set_receive_buffer
from aquilia.sockets.transports.compressed import compressed
from aquilia.sockets.transports.frames import NativeTransport
from aquilia.sockets.transports.reader import PicowsReader

__all__ = ["upgrade"]

MIN_RECEIVE_BUFFER, MAX_RECEIVE_BUFFER = 1 << 16, 1 << 20
"""Bytes that the kernel keeps for a connection. picows' buffer becomes as large as what one read gives."""


def upgrade(
    wire: asyncio.Transport,
    key: str,
    headers: Sequence[tuple[str, str]],
    *,
    max_size: int,
    max_fragments: int | None,
    behind: bytes,
    agreement: Agreement | None,
    on_gone: Callable[[NativeTransport], None],
    counted: Mapping[str, Deflated] | None = None,
) -> NativeTransport:
    """Answer a handshake with 101, and give the wire to picows. Nothing is read before the transport's `start`.

    `behind` are bytes that came with the request's head, and `agreement` is that on compression. `on_gone` is called
    once, with the transport, when the wire is gone.
    """
    if agreement is None:
        transport = NativeTransport(wire, max_size, on_gone)
    else:
        transport = compressed(wire, max_size, on_gone, agreement, counted)
    transport.max_fragments = max_fragments
    receive_buffer = max(MIN_RECEIVE_BUFFER, min(max_size, MAX_RECEIVE_BUFFER))
    set_receive_buffer(wire, receive_buffer)
    transport.reader = reader = PicowsReader.begin(wire, transport, key=key, headers=headers)
    wire.pause_reading()
    wire.set_protocol(reader)
    if behind:
        transport.read_behind = partial(reader.feed, behind)
    return transport
