"""What an adapter is made with, besides its URL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Adapter
from aquilia.sockets.adapters.signing import Signer

__all__ = ["AdapterFactory", "AdapterOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOptions:
    """What Aquilia asks of any adapter. Later versions may have more fields, each with a default."""

    clock: Clock = field(default_factory=Clock.current)
    """What the time is, for whatever an adapter counts by itself."""
    publish_timeout: float | None = None
    """Seconds that what goes into a room with history waits for a broker that is lost; 0 is at once, and None is for
    the adapter to say."""
    signer: Signer | None = None
    """Signs what nodes say to each other, where the application has a secret for that."""
    joining: bool = False
    """It is for a program that serves nobody, and asks the nodes of an application that runs already: an adapter that
    would start a server of its own joins theirs."""


AdapterFactory = Callable[[str, AdapterOptions], Adapter]
"""Makes an adapter that is not started, from its whole URL; ValueError says what is wrong with that. It neither
connects nor blocks: that is for `Broker.start`."""
