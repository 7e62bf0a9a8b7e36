"""The chain of an audit file: lines of JSON, each with a number, the hash of the line before, and its own.

    {"seq":2,"prev":"<hash of line 1>",…the record…,"hash":"<hash of all that stands before it in this line>"}

A hash is SHA-256 (FIPS 180-4) of the line's bytes up to `,"hash"`. With a secret it is HMAC-SHA-256 (RFC 2104): then
who can write the file, and lacks the secret, cannot make a chain that verifies. Pure: bytes are passed in.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["BEGINNING", "FIRST", "Chain", "Line", "Verdict", "Verifier", "read_line"]

FIRST = "0" * 64
"""What stands for the hash before the first line."""

BEGINNING = b'{"seq":1,"prev":"'
"""With what every file begins."""

_END = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_END_LENGTH = len(',"hash":"') + 64 + len('"}')


@dataclass(frozen=True, slots=True)
class Line:
    """A line whose own hash is right."""

    seq: int
    prev: str
    hash: str
    content: Mapping[str, Any]


class Chain:
    """Makes the lines of one file. `seq` and `head` are those of the last line."""

    def __init__(self, secret: bytes | None = None, *, seq: int = 0, head: str = FIRST) -> None:
        self._secret = secret
        self.seq = seq
        self.head = head

    def line(self, record: bytes) -> bytes:
        """The next line, with its newline. `record` is a JSON object with one member at least."""
        seq = self.seq + 1
        content = b'{"seq":%d,"prev":"%s",%s' % (seq, self.head.encode(), record[1:-1])
        self.seq, self.head = seq, _hash(self._secret, content)
        return b'%s,"hash":"%s"}\n' % (content, self.head.encode())


def _hash(secret: bytes | None, content: bytes) -> str:
    if secret is None:
        return hashlib.sha256(content).hexdigest()
    return hmac.new(secret, content, hashlib.sha256).hexdigest()


def read_line(line: bytes, secret: bytes | None) -> Line | str:
    """A line without its newline; or why it is none of such a chain."""
    content, end = line[:-_END_LENGTH], _END.fullmatch(line[-_END_LENGTH:])
    if end is None:
        return "it does not end with its hash"
    told = end[1].decode()
    if not hmac.compare_digest(told, _hash(secret, content)):
        if secret is not None and told == _hash(None, content):
            return "it was written without the secret"
        return (
            f"its hash is not that of its text, or it was written with a{'nother' if secret else ''} secret"
        )
    try:
        read = msgspec.json.decode(content + b"}", type=dict[str, Any])
    except msgspec.DecodeError:
        return "it is no JSON object"
    seq, prev = read.get("seq"), read.get("prev")
    if type(seq) is not int or not isinstance(prev, str):
        return "it has no number, or no hash of the line before"
    return Line(seq, prev, told, read)


@dataclass(slots=True)
class Verdict:
    """What a file says of itself. `problem` is why it does not verify, at `line`, or None."""

    lines: int = 0
    head: str = FIRST
    problem: str | None = None
    line: int = 0
    begun: int = 0
    """Processes that wrote it,"""
    closed: int = 0
    """and those of them that ended as they should."""
    sealed: int = 0
    """Torn lines, of processes that were killed, that the next has sealed."""
    lost: int = 0
    """Records that could not be written, as it says itself."""
    torn: bool = False
    """It ends in the middle of a line: a process was killed there, or writes it now."""
    behind_head: int | None = None
    """How many lines came behind the head that was looked for; None: it is not there, or none was."""


class Verifier:
    """Reads a file line by line, until one is wrong. `each` is told of every line that is right."""

    def __init__(
        self,
        secret: bytes | None = None,
        *,
        head: str | None = None,
        each: Callable[[Line], object] | None = None,
    ) -> None:
        self._secret = secret
        self._sought = head
        self._each = each
        self._read = 0
        self._found: int | None = None
        self._torn: bytes | None = None
        self._why = ""
        self.verdict = Verdict()

    def read(self, lines: Iterable[bytes]) -> Verdict:
        """Look at all lines, each with its newline."""
        for line in lines:
            if not self.take(line):
                return self.verdict
        return self.finish()

    def take(self, line: bytes) -> bool:
        """Look at the next line, with its newline. False: it is wrong, or the one before was."""
        self._read += 1
        self.verdict.line = self._read
        self.verdict.problem = self._take(line)
        return self.verdict.problem is None

    @property
    def waits(self) -> bool:
        """Whether the last line is wrong, unless the next says that it is a torn one."""
        return self._torn is not None

    def finish(self) -> Verdict:
        """There are no more lines."""
        verdict = self.verdict
        if self._torn is not None:
            verdict.problem = self._why
        elif self._found is not None:
            verdict.behind_head = verdict.lines - self._found
        return verdict

    def _take(self, line: bytes) -> str | None:
        if not line.endswith(b"\n"):
            return self._last(line)
        read = read_line(line[:-1], self._secret)
        if isinstance(read, str):
            if self._torn is None:
                self._torn, self._why = line[:-1], read  # the next line may say that it is known
                return None
            self.verdict.line -= 1
            return self._why
        torn, self._torn = self._torn, None
        if torn is not None:
            if read.content.get("torn") != hashlib.sha256(torn).hexdigest():
                self.verdict.line -= 1
                return self._why
            self.verdict.sealed += 1
        elif "torn" in read.content:
            return "the torn line that it seals is gone"
        return self._follows(read)

    def _last(self, line: bytes) -> str | None:
        if self._torn is not None:
            self.verdict.line -= 1
            return self._why
        read = read_line(line, self._secret)
        if isinstance(read, str):
            self.verdict.torn = True
            return None
        return self._follows(read)

    def _follows(self, read: Line) -> str | None:
        verdict = self.verdict
        if read.seq != verdict.lines + 1:
            return f"its number is {read.seq}, and {verdict.lines + 1} is due"
        if read.prev != verdict.head:
            return "it does not follow on the line before: its prev is another hash"
        verdict.lines, verdict.head = read.seq, read.hash
        if read.hash == self._sought:
            self._found = read.seq
        event = read.content.get("event")
        verdict.begun += event == "audit.opened"
        verdict.closed += event == "audit.closed"
        if event == "audit.lost":
            verdict.lost += int(read.content.get("count", 1))
        if self._each is not None:
            self._each(read)
        return None
