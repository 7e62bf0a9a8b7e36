"""What is abused: a chat, and a page that tells what the process holds."""

from aquilia.manifest import AppManifest
from controllers import AbusedSocket, Figures

manifest = AppManifest("abused", controllers=[AbusedSocket, Figures], websockets={"handshake_timeout": 2.0})
