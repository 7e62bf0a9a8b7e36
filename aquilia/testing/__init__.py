"""The test kit for applications: clients in the same process, without a socket, and a live server for real ones.

Everything above the wire is what serves in production: handshake, guards, middleware, services, handlers, rooms,
codecs and the outbox. Payloads are written and read by the real codec too: it costs a microsecond, and a payload
that no client could get fails in the test. What is missing is the network: frames, pings, TLS, and slow links. Time
is the system's until the test holds it, and moves it on.
"""

from __future__ import annotations

from aquilia.testing.client import Client
from aquilia.testing.clock import ControlledClock
from aquilia.testing.handshake import HandshakeRefused
from aquilia.testing.kit import SocketsTest, sockets_test
from aquilia.testing.live import live_server
from aquilia.testing.sync import SyncClient, SyncClock, SyncSocketsTest, sockets_test_sync

__all__ = [
    "Client",
    "ControlledClock",
    "HandshakeRefused",
    "SocketsTest",
    "SyncClient",
    "SyncClock",
    "SyncSocketsTest",
    "live_server",
    "sockets_test",
    "sockets_test_sync",
]
