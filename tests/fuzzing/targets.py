"""What is fuzzed: each function takes any bytes, and raises where the code does not keep its word."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import HTTPConnection

from aquilia.patterns import PatternError, PatternTable, compile_pattern
from aquilia.sockets.codecs import CODECS, Codec
from aquilia.sockets.faults import SocketFault
from aquilia.sockets.handshake.offered_credentials import offered_credential
from aquilia.sockets.handshake.request import check_host, check_origin, choose_profile, origin_problem
from aquilia.sockets.resume.records import Record, Ticket, Tokens
from aquilia.sockets.schema import Schema, payload_type
from fuzzing.compression import compressed_frames, inflation, offers
from fuzzing.conversation import anything, first_words
from fuzzing.memory_wire import MAX_SIZE, Visit
from fuzzing.strangers import cookies, jwt, proxies

CLOSE, PING, PONG = 8, 9, 10
TYPES = [payload_type(None), payload_type(Schema({"text": str})), payload_type(dict[int, float] | None)]


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def frames(data: bytes) -> None:
    """Any bytes behind the handshake: messages within the bound, then one end; no error of ours."""
    _loop().run_until_complete(_frames(data))


async def _frames(data: bytes) -> None:
    visit = Visit()
    # The first byte says in which pieces the others come.
    step = (data[0] if data else 0) % 64 or len(data)
    for at in range(1, len(data), step or 1):
        await visit.feed(data[at : at + step])
        fragments = visit.transport._fragments
        held = 0 if fragments is None else fragments.size
        assert held <= MAX_SIZE, f"{held} bytes of fragments are kept"
    await visit.lose()
    assert len(visit.ends) == visit.gone == 1
    for message, binary in visit.messages:
        assert len(message) <= MAX_SIZE
        binary or message.decode()
    sent = visit.sent()
    assert {opcode for opcode, _ in sent} <= {CLOSE, PONG}
    closes = [payload for opcode, payload in sent if opcode == CLOSE]
    assert PONG not in [opcode for opcode, _ in sent[len(sent) - len(closes) :]], "a pong behind a close"
    # After the answer to a close without a code, picows says goodbye to what came in the same read with it.
    assert len(closes) <= 1 + (closes[:1] == [b""]), "more than one close"
    assert not visit.errors, visit.errors


def codecs(data: bytes) -> None:
    """Any message, of any profile: an envelope, or the fault that says what is wrong with it."""
    for codec in CODECS.values():
        try:
            envelope = codec.decode(data)
        except SocketFault as fault:
            _is_told(fault)
            continue
        _payload(codec, envelope.payload)


def _payload(codec: Codec, raw: Any) -> None:
    for read in [codec.plain, *map(codec.payload_decoder, TYPES)]:
        try:
            read(raw)
        except SocketFault as fault:
            _is_told(fault)


def _is_told(fault: SocketFault) -> None:
    assert (fault.code, fault.close_code) == ("WS_MESSAGE_INVALID", None)
    assert len(msgspec.json.encode(fault.as_dict())) < 20_000


def doors(data: bytes) -> None:
    """Any headers of a handshake: the client may enter, or the fault says why it may not."""
    origin, _, rest = data.partition(b"\n")
    host, _, rest = rest.partition(b"\n")
    authorization, _, protocols = rest.partition(b"\n")
    headers = [(b"origin", origin), (b"host", host), (b"authorization", authorization)]
    connection = HTTPConnection({"type": "websocket", "scheme": "ws", "path": "/", "headers": headers})
    offered = [entry.strip() for entry in protocols.decode("latin-1").split(",") if entry.strip()]
    checks: list[Callable[[], Any]] = [
        lambda: check_origin(connection, None),
        lambda: check_origin(connection, ["https://example.com", "https://*.example.com:8443"]),
        lambda: check_host(connection, ["example.com", "*.example.com", "[::1]"]),
        lambda: choose_profile(offered, ["own"]),
        lambda: offered_credential(connection, offered, ()),
    ]
    for check in checks:
        try:
            check()
        except SocketFault as fault:
            assert fault.code in ("WS_HANDSHAKE_FAILED", "WS_ORIGIN_NOT_ALLOWED")
    origin_problem(origin.decode("latin-1"))


TOKENS = Tokens(b"k" * 32)
TICKET = Ticket("a-session", 1)
TOKEN = TOKENS.issue(TICKET, "/room/1", "ann")


def tokens(data: bytes) -> None:
    """Any token: it is none of ours, but for the one that is."""
    text = data.decode("utf-8", "replace")
    assert TOKENS.read(text, "/room/1", "ann") is None or text == TOKEN
    place = data[0] % len(TOKEN) if data else 0
    damaged = TOKEN[:place] + text + TOKEN[place + 1 :]
    # Base64 is read past what is no base64: then it is another spelling of the same token.
    assert TOKENS.read(damaged, "/room/1", "ann") in (None, TICKET)
    assert TOKENS.read(TOKEN, "/room/" + text, "ann") is None or text == "1"
    assert TOKENS.read(TOKEN, "/room/1", text) is None or text == "ann"
    Record.read(data)


def patterns(data: bytes) -> None:
    """Any pattern, and any path: what matches is built into what matches again."""
    source, _, path = data.decode("utf-8", "replace").partition("\n")
    table: PatternTable[int] = PatternTable()
    for fixed in ("/room/:id", "/room/:id:int", "/files/:rest:path", "/room/lobby"):
        table.add(fixed, 1, where=fixed)
    table.match(path)
    try:
        pattern = compile_pattern(source)
    except PatternError:
        return
    params = pattern.match(path)
    if params is not None:
        assert pattern.match(pattern.build(**params)) == params or any(v != v for v in params.values())


def compressed(data: bytes) -> None:
    """See `compressed_frames`."""
    _loop().run_until_complete(compressed_frames(data))


def hello(data: bytes) -> None:
    """See `first_words`."""
    _loop().run_until_complete(first_words(data))


def dispatch(data: bytes) -> None:
    """See `anything`."""
    _loop().run_until_complete(anything(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        frames, compressed, hello, dispatch, inflation, offers, codecs, doors, tokens, patterns, proxies, jwt,
        cookies,
    )
}  # fmt: skip
