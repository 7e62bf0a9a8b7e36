"""The chat app, as data: what `aq compile` checks and `aq serve` runs."""

from aquilia.manifest import AppManifest
from controllers import ChatPage, ChatSocket

# Nobody logs in here, so an address is all that one can be told by; some share one.
manifest = AppManifest(
    "chat",
    controllers=[ChatPage, ChatSocket],
    websockets={
        "handshake_rate": 5,
        "max_connections_per_address": 200,
        "handler_timeout": 10,
        "health": True,  # asked by what deploy/ runs it with
    },
)
