"""One question to nodes, and their answers, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aquilia.sockets.cluster.control import Parts
from aquilia.sockets.faults import SocketFault

__all__ = ["Answers", "Question"]


@dataclass(frozen=True, slots=True)
class Answers:
    """What nodes answered to one question, by their ids. Each that was asked is in one of the first three."""

    by_node: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, SocketFault] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    """Who did not answer: not in time, not any more, or since it knows no such verb."""
    gone: frozenset[str] = frozenset()
    """Those of the silent that died or left meanwhile."""
    ignorant: frozenset[str] = frozenset()
    """Those of them that know no such verb: they are of an earlier version."""


class Question:
    """What was asked, and who has yet to answer."""

    __slots__ = (
        "_answers",
        "_enough",
        "_faults",
        "_gone",
        "_ignorant",
        "_open",
        "_silent",
        "complete",
        "parts",
    )

    def __init__(self, asked: Iterable[str], enough: Callable[[Any], bool] | None) -> None:
        self._open = dict.fromkeys(asked)
        self._enough = enough
        self._answers: dict[str, Any] = {}
        self._faults: dict[str, SocketFault] = {}
        self._silent: list[str] = []
        self._gone: set[str] = set()
        self._ignorant: set[str] = set()
        self.parts: dict[str, Parts] = {}
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._open:
            self.end()

    def waits_for(self, node: str) -> bool:
        """Whether this node has yet to answer."""
        return node in self._open and not self.complete.done()

    def settle(self, node: str, answer: Any = None, fault: SocketFault | None = None) -> None:
        """A node has answered."""
        if not self.waits_for(node):
            return
        if fault is not None:
            self._faults[node] = fault
        else:
            self._answers[node] = answer
            if self._enough is not None and self._enough(answer):
                self.end()
        self._settled(node)

    def close(self, node: str) -> None:
        """A node will not answer."""
        if self.waits_for(node):
            self._silent.append(node)
            self._settled(node)

    def pass_over(self, node: str) -> None:
        """A node knows no such verb."""
        if self.waits_for(node):
            self._ignorant.add(node)
            self.close(node)

    def lose(self, node: str) -> None:
        """A node is not there any more."""
        if self.waits_for(node):
            self._gone.add(node)
            self.close(node)

    def _settled(self, node: str) -> None:
        self._open.pop(node, None)
        self.parts.pop(node, None)
        if not self._open:
            self.end()

    def end(self) -> None:
        """Wait no longer."""
        if not self.complete.done():
            self.complete.set_result(None)

    def answers(self) -> Answers:
        """What has come of it."""
        silent = (*self._silent, *self._open)
        return Answers(self._answers, self._faults, silent, frozenset(self._gone), frozenset(self._ignorant))
