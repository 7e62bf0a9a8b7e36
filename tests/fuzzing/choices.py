"""Bytes as choices: what a fuzzer mutates decides step by step, so that it gets past what random bytes never pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_NAMES = ["type", "event", "id", "ack", "payload", "room", "meta", "text", "epoch", "offset", ""]
_NUMBERS = [0, 1, -1, 64, 65, 2**31, 2**53 + 1, -(2**63), 2**64 - 1]
_FLOATS = [0.5, -0.0, 1e308, float(2**53)]
_TEXTS = ["", "a", "ä", "\x00", "\ud7ff😀", "lobby", "x" * 64, "x" * 129]


class Choices:
    """Takes one after the other from the bytes; where they end, each choice is the first of its options."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """0 and more."""
        size = 1 if below <= 256 else 4
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "big") % below

    def of(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[self.number(len(options))]

    def once_in(self, times: int) -> bool:
        """Seldom true, and never behind the end."""
        return self.number(times) == times - 1

    def some(self, most: int = 255) -> bytes:
        """Bytes as they are."""
        size = self.number(most + 1)
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        taken, self._at = self._data[self._at :], len(self._data)
        return taken

    def text(self) -> str:
        """Usual words, and unusual ones."""
        return self.some(40).decode("utf-8", "replace") if self.once_in(4) else self.of(_TEXTS)

    def value(self, depth: int = 3) -> Any:
        """Plain data that every codec can write."""
        kind = self.number(9 if depth else 6)
        if kind == 6:
            return [self.value(depth - 1) for _ in range(self.number(4))]
        if kind > 6:
            return {
                self.of(_NAMES) if kind == 7 else self.text(): self.value(depth - 1)
                for _ in range(self.number(4))
            }
        simple = [None, True, False, self.of(_NUMBERS), self.of(_FLOATS), self.text()]
        return simple[kind]
