"""What comes from NATS is the same messages, in whatever parts it comes."""

from __future__ import annotations

from typing import Any

import pytest
from nats.errors import ProtocolError

from aquilia.sockets.adapters.nats.client import DemandingClient

SAID = (
    b"MSG room.a 1 5\r\nhello\r\n"
    b"+OK\r\n"
    b"MSG room.b 1 answers.7 0\r\n\r\n"
    b"HMSG room.c 1 36 38\r\nNATS/1.0\r\nA: 1\r\nNats-Sequence: 7\r\n\r\nhi\r\n"
    b"MSG room.d 2 3\r\nnot\r\n"
    b"HMSG room.e 1 answers.8 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n"
    b"MSG room.f 1 22\r\n\r\nMSG room.a 1 2\r\nno\r\n\r\n"
    b"MSG room.\xff 1 4\r\n\xff\x00\r\n\r\n"
    b"HMSG room.g 1 18 20\r\nNATS/1.0\r\n\xff: 1\r\n\r\nho\r\n"
)
HEARD = [
    ("room.a", "", b"hello", {}),
    ("room.b", "answers.7", b"", {}),
    ("room.c", "", b"hi", {"A": "1", "Nats-Sequence": "7"}),
    ("room.e", "answers.8", b"", {"Status": "404", "Description": "No Messages"}),
    ("room.f", "", b"\r\nMSG room.a 1 2\r\nno\r\n", {}),
]


async def heard(*parts: bytes) -> list[tuple[str, str, bytes, dict[str, str]]]:
    came: list[tuple[str, str, bytes, dict[str, str]]] = []

    def take(message: Any) -> None:
        came.append((message.subject, message.reply, message.data, dict(message.headers or {})))

    client = DemandingClient()
    assert client.listen("room.*", take) == 1
    for part in parts:
        await client._ps.parse(part)
    return came


async def test_it_is_all_there_when_it_comes_at_once() -> None:
    *known, strange, odd = await heard(SAID)
    assert known == HEARD
    assert strange[2] == b"\xff\x00\r\n", "a subject that is no text ends nothing"
    assert odd[2] == b"ho", "nor do such headers"


TEXT = SAID[: SAID.index(b"MSG room.\xff")]


async def test_a_cut_anywhere_changes_nothing() -> None:
    for cut in range(len(TEXT) + 1):
        assert await heard(TEXT[:cut], TEXT[cut:]) == HEARD, f"cut at {cut}: {TEXT[:cut]!r}"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17])
async def test_nor_do_many_small_parts(size: int) -> None:
    assert await heard(*(TEXT[at : at + size] for at in range(0, len(TEXT), size))) == HEARD


@pytest.mark.parametrize(
    "said",
    [
        b"MSG room.a 1 -18\r\n",
        b"MSG room.a 1 -2\r\n",
        b"HMSG room.a 1 x 12\r\nNATS/1.0\r\n\r\n\r\n",
        b"HMSG room.a 1 -5 12\r\nNATS/1.0\r\n\r\n\r\n",
        b"-ERR \r\n",
        b"-ERR '\xff'\r\n",
        b"INFO {bad\r\n",
        b"INFO \xff\r\n",
        b"MSG room.a 1\r\n",
    ],
)
async def test_what_no_server_says_is_an_error_of_the_protocol(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        await heard(said)
    with pytest.raises(ProtocolError):
        await heard(*(said[at : at + 1] for at in range(len(said))))
