"""The chain of an audit file: whatever is done to its lines shows, but for a tail that is cut off whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import msgspec
import pytest

from aquilia.sockets.audit.chain import FIRST, Chain, Verdict, Verifier

SECRET = b"s" * 32
Lines = list[bytes]


def written(secret: bytes | None = None, records: int = 5) -> Lines:
    chain = Chain(secret)
    return [chain.line(msgspec.json.encode({"event": "connection.kicked", "n": n})) for n in range(records)]


def verified(lines: Lines, secret: bytes | None = None, head: str | None = None) -> Verdict:
    return Verifier(secret, head=head).read(lines)


def hash_of(line: bytes) -> str:
    return str(json.loads(line)["hash"])


@pytest.mark.parametrize("secret", [None, SECRET])
def test_what_was_written_verifies(secret: bytes | None) -> None:
    lines = written(secret)
    verdict = verified(lines, secret)

    assert (verdict.problem, verdict.lines, verdict.head) == (None, 5, hash_of(lines[-1]))
    assert verified([], secret).head == FIRST


def test_a_line_is_json_with_the_hash_of_all_before_it() -> None:
    first, second = written(records=2)

    assert json.loads(second)["prev"] == hash_of(first)
    before = first.partition(b',"hash"')[0]
    assert hash_of(first) == hashlib.sha256(before).hexdigest()


TAMPERING: dict[str, tuple[Callable[[Lines], Lines], int, str]] = {
    "edited": (lambda s: [*s[:2], s[2].replace(b'"n":2', b'"n":7'), *s[3:]], 3, "not that of its text"),
    "removed": (lambda s: [*s[:2], *s[3:]], 3, "its number is 4, and 3 is due"),
    "first removed": (lambda s: s[1:], 1, "its number is 2, and 1 is due"),
    "doubled": (lambda s: [*s[:3], s[2], *s[3:]], 4, "its number is 3, and 4 is due"),
    "moved": (lambda s: [s[0], s[2], s[1], *s[3:]], 2, "its number is 3, and 2 is due"),
    "added": (lambda s: [*s[:2], b'{"event":"x"}\n', *s[2:]], 3, "does not end with its hash"),
    "an empty line": (lambda s: [*s[:2], b"\n", *s[2:]], 3, "does not end with its hash"),
    "added at the end": (lambda s: [*s, b"words\n"], 6, "does not end with its hash"),
    "respaced": (lambda s: [*s[:4], s[4].replace(b",", b", ", 1)], 5, "not that of its text"),
    "from another chain": (lambda s: [*s[:2], *other_chain()[2:]], 3, "does not follow on the line before"),
    "two added": (lambda s: [*s[:2], b"a\n", b"b\n", *s[2:]], 3, "does not end with its hash"),
    "cut within": (lambda s: [*s[:3], s[3][:-20] + b"\n", s[4]], 4, "does not end with its hash"),
}


def other_chain() -> Lines:
    chain = Chain()
    return [chain.line(b'{"event":"limit.hit"}') for _ in range(5)]


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_shows_with_its_first_line_and_why(name: str) -> None:
    tamper, line, told = TAMPERING[name]
    verdict = verified(tamper(written()))

    assert verdict.problem is not None
    assert told in verdict.problem
    assert verdict.line == line
    assert verdict.lines == line - 1


def test_without_the_secret_nobody_makes_a_chain_that_verifies() -> None:
    assert "written without the secret" in str(verified(written(None), SECRET).problem)
    assert "not that of its text" in str(verified(written(b"t" * 32), SECRET).problem)
    assert "or it was written with a secret" in str(verified(written(SECRET), None).problem)


def test_a_tail_that_is_cut_off_shows_by_a_hash_that_was_kept() -> None:
    lines = written()
    kept = hash_of(lines[-1])

    assert verified(lines, head=kept).behind_head == 0
    assert verified(lines, head=hash_of(lines[1])).behind_head == 3
    cut = verified(lines[:-1], head=kept)
    assert (cut.problem, cut.behind_head) == (None, None)


def test_the_middle_of_a_line_at_the_end_is_told_and_no_problem() -> None:
    lines = written()
    verdict = verified([*lines[:4], lines[4][:30]])

    assert (verdict.problem, verdict.torn, verdict.lines) == (None, True, 4)
    whole = verified([*lines[:4], lines[4][:-1]])
    assert (whole.torn, whole.lines) == (False, 5)


def sealing(torn: bytes) -> Lines:
    chain = Chain()
    first = chain.line(b'{"event":"audit.opened"}')
    told = {"event": "audit.sealed", "torn": hashlib.sha256(torn).hexdigest()}
    return [first, torn + b"\n", chain.line(msgspec.json.encode(told)), chain.line(b'{"event":"limit.hit"}')]


def test_a_torn_line_that_the_next_seals_is_no_problem_and_any_other_is() -> None:
    lines = sealing(b'{"seq":2,"pre')
    assert (verified(lines).problem, verified(lines).sealed) == (None, 1)

    other = verified([lines[0], b"other\n", *lines[2:]])
    assert (other.line, other.sealed) == (2, 0)
    assert "does not end with its hash" in str(other.problem)
    gone = verified([lines[0], *lines[2:]])
    assert gone.problem == "the torn line that it seals is gone"
