"""WebSocket controllers: write a class, decorate its methods, and serve it with `aq serve` or any ASGI server."""

from __future__ import annotations

from aquilia.sockets.adapters.base import Adapter, Broker, Publication, Store
from aquilia.sockets.adapters.inmemory import InMemoryAdapter
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.redis import RedisAdapter
from aquilia.sockets.auth_guards import HandshakeAuthGuard, MessageAuthGuard, RoleGuard, ScopeGuard
from aquilia.sockets.connection import Connection, ConnectionState, DisconnectReason
from aquilia.sockets.controller import SocketController
from aquilia.sockets.decorators import (
    AckEvent,
    Event,
    Guard,
    OnConnect,
    OnDisconnect,
    OnPresence,
    Socket,
    Subscribe,
    Unsubscribe,
)
from aquilia.sockets.deflate import Compression
from aquilia.sockets.emits import Emits
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import CloseCode, SocketFault
from aquilia.sockets.guards import OriginGuard, RateLimitGuard, RoomGuard, SocketGuard
from aquilia.sockets.handshake.request import Handshake
from aquilia.sockets.history import History, Position
from aquilia.sockets.hub_port import HistoryMessage, HistoryPage, Member, Namespace
from aquilia.sockets.middleware import (
    LoggingMiddleware,
    MessageValidationMiddleware,
    MetricsMiddleware,
    RateLimitMiddleware,
    SocketMiddleware,
)
from aquilia.sockets.presence.values import Presence, PresencePage, Present
from aquilia.sockets.publisher import Publisher, SyncPublisher
from aquilia.sockets.revocation import Revocations
from aquilia.sockets.room_answers import RoomAnswers
from aquilia.sockets.runtime import AquilaSockets
from aquilia.sockets.schema import Schema, SchemaError

__all__ = [
    "AckEvent",
    "Adapter",
    "AdapterOptions",
    "AquilaSockets",
    "Broker",
    "CloseCode",
    "Compression",
    "Connection",
    "ConnectionState",
    "DisconnectReason",
    "Emits",
    "Event",
    "Guard",
    "Handshake",
    "HandshakeAuthGuard",
    "History",
    "HistoryMessage",
    "HistoryPage",
    "InMemoryAdapter",
    "LoggingMiddleware",
    "Member",
    "MessageAuthGuard",
    "MessageEnvelope",
    "MessageValidationMiddleware",
    "MetricsMiddleware",
    "Namespace",
    "OnConnect",
    "OnDisconnect",
    "OnPresence",
    "OriginGuard",
    "Position",
    "Presence",
    "PresencePage",
    "Present",
    "Publication",
    "Publisher",
    "RateLimitGuard",
    "RateLimitMiddleware",
    "RedisAdapter",
    "Revocations",
    "RoleGuard",
    "RoomAnswers",
    "RoomGuard",
    "Schema",
    "SchemaError",
    "ScopeGuard",
    "Socket",
    "SocketController",
    "SocketFault",
    "SocketGuard",
    "SocketMiddleware",
    "Store",
    "Subscribe",
    "SyncPublisher",
    "Unsubscribe",
]
