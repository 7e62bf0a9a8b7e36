"""What is abused: sockets of each kind, and a page that tells what the process holds."""

import os
import sys

from aquilia.manifest import AppManifest
from controllers import AbusedSocket, ClosedSocket, Figures, PackedSocket, RememberingSocket, Users

if os.environ.get("ABUSE_LOOP") == "asyncio":
    sys.modules["uvloop"] = None  # as if it were not installed

manifest = AppManifest(
    "abused",
    controllers=[AbusedSocket, PackedSocket, RememberingSocket, ClosedSocket, Figures],
    auth=Users(),
    websockets={
        "handshake_timeout": 2.0,
        "tickets": True,
        "trusted_proxies": ["127.0.0.1"],
        "handshake_rate": 5000,
        "max_connections_per_address": 5000,
    },
)
