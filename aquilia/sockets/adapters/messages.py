"""Publications as a broker carries them: signed, where there is a secret; what is none of ours is ignored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf

from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.adapters.signing import BUS_SECRET, HEAD, SignatureError, Signer
from aquilia.sockets.adapters.stored import decode, encode
from aquilia.sockets.history import Position

__all__ = ["FORGOTTEN", "Messages", "OfMessages"]

FORGOTTEN = "\0forgotten"
"""The event of the mark with which a log begins that was emptied; no user's event has such a name."""
UNSIGNED_EVERY = 60.0
"""Seconds between two lines in the log of what is not signed."""


class Messages:
    """Those of one application, below one prefix. `where` is what its operator calls the place that they come by."""

    def __init__(self, prefix: str, signer: Signer | None, where: str, logger: logging.Logger) -> None:
        self._prefix = prefix
        self._where = where
        self._logger = logger
        self._signer = signer
        self._unsigned = 0
        """Since that was last said."""
        self._unsigned_said = -inf
        self._told = False
        self.on_foreign: Callable[[], None] | None = None
        """See `Broker`."""

    def write(self, publication: Publication, *, logged: bool) -> bytes:
        """A publication, for a plain room or for a log."""
        data = encode(publication)
        if self._signer is not None:
            data = self._signer.sign(data, self._prefix, "log" if logged else "plain")
        return data

    def mark(self, namespace: str, room: str) -> bytes:
        """What says that all before it was forgotten."""
        told = Publication(id="", namespace=namespace, event=FORGOTTEN, payload=None, ts=0, room=room)
        return self.write(told, logged=True)

    def is_mark(self, data: bytes, position: Position) -> bool:
        """Whether an entry says that."""
        try:
            return self.read(data, position, None).event == FORGOTTEN
        except ValueError:
            return False

    def read(self, data: bytes, position: Position | None, previous: int | None) -> Publication:
        """The publication again; with a position, from a log.

        Raises:
            ValueError: it is none of ours.
        """
        if self._signer is not None:
            data = self._signer.verified(data, self._prefix, "plain" if position is None else "log")
        try:
            return decode(data, position, previous)
        except ValueError:
            if data.startswith(HEAD):
                raise SignatureError(f"it is signed, and {BUS_SECRET} is not set here") from None
            raise

    def ignore(self, error: Exception) -> None:
        """Count what could not be read, and say so now and then."""
        if self.on_foreign is not None:
            self.on_foreign()
        if isinstance(error, SignatureError):
            self._unsigned += 1
            now = asyncio.get_running_loop().time()
            if now - self._unsigned_said >= UNSIGNED_EVERY:
                self._logger.warning(
                    "publications %s are not signed by our %s, and ignored: %d since this was last said; of the "
                    "newest, %s",
                    *(self._where, BUS_SECRET, self._unsigned, error),
                )
                self._unsigned, self._unsigned_said = 0, now
        elif not self._told:
            self._told = True
            self._logger.warning(
                "something %s is no publication of ours, and is ignored (said once): %s",
                self._where,
                error,
            )


class OfMessages:
    """A broker that hears of what is foreign from its messages."""

    _messages: Messages

    @property
    def on_foreign(self) -> Callable[[], None] | None:
        """See `Broker`."""
        return self._messages.on_foreign

    @on_foreign.setter
    def on_foreign(self, heard: Callable[[], None] | None) -> None:
        self._messages.on_foreign = heard
