"""The chat app, as data: what `aq compile` checks and `aq serve` runs."""

from aquilia.manifest import AppManifest
from controllers import ChatPage, ChatSocket

manifest = AppManifest("chat", controllers=[ChatPage, ChatSocket])
