"""What the nodes of an application have to know of its topics before they read them, in a compacted topic.

It is the newest epoch of each partition of the log, and how many partitions are used: with another number, rooms
would be elsewhere. Nothing in it is signed: it has no publications.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from aquilia.sockets.adapters.kafka.dial import EPOCHS, LOG, PLAIN, DialError
from aquilia.sockets.adapters.kafka.url import Target
from aquilia.sockets.adapters.messages import Messages

__all__ = ["Epoch", "Epochs"]

_ALL = "partitions"
"""The key of the record that says how many there are."""


class Epoch(NamedTuple):
    """What is known of a partition of the log."""

    name: str
    born: int
    """The offset of the record in the log with which it began."""


class Epochs:
    """See the head of this module."""

    def __init__(self, target: Target, messages: Messages) -> None:
        self._target = target
        self._messages = messages
        self._place = (target.topic(EPOCHS), 0)

    async def known(self, link: Any) -> dict[int, Epoch]:
        """The epochs of the partitions."""
        told = await self._read(link)
        return {
            int(key): Epoch(value["life"], value["born"]) for key, value in told.items() if key.isdecimal()
        }

    async def tell(self, link: Any, number: int, epoch: Epoch) -> None:
        """Say what the epoch of a partition is."""
        await self._write(link, str(number), {"life": epoch.name, "born": epoch.born})

    async def require_partitions(self, link: Any) -> None:
        """Have all nodes use as many partitions as the first one.

        Raises:
            DialError: the URL says another number.
        """
        told = await self._read(link)
        if _ALL not in told:
            await self._write(link, _ALL, {_ALL: self._target.partitions})
            told = await self._read(link)
        count = told[_ALL][_ALL]
        if count != self._target.partitions:
            raise DialError(
                f"the topics {self._target.topic(PLAIN)} and {self._target.topic(LOG)} on Kafka are used with "
                f"{count} partitions: say ?partitions={count}, or take another prefix to begin anew",
                3,
            )

    async def _write(self, link: Any, key: str, told: dict[str, Any]) -> None:
        await link.produce(self._place, [(key.encode(), json.dumps(told).encode())])

    async def _read(self, link: Any) -> dict[str, dict[str, Any]]:
        start = (await link.offsets([self._place], -2))[self._place]
        found: dict[str, dict[str, Any]] = {}
        for record in await link.read_from(self._place, max(0, start)):
            try:
                key, told = (record.key or b"").decode(), json.loads(record.value or b"")
                wanted = {_ALL: int} if key == _ALL else {"life": str, "born": int}
                if not all(isinstance(told[name], kind) for name, kind in wanted.items()):
                    raise TypeError("other types are needed")
                found[key] = told
            except (ValueError, KeyError, TypeError) as error:
                self._messages.ignore(ValueError(f"a record of the topic {self._place[0]}: {error}"))
        return found
