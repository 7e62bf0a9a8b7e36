"""Frames in any order, whole and broken, in any pieces: the native transport does as a model of RFC 6455."""

from __future__ import annotations

from dataclasses import dataclass, field

from fuzzing.memory_wire import MAX_SIZE, Visit
from hypothesis import example, given
from hypothesis import strategies as st
from rawsocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame


@dataclass(frozen=True)
class Sent:
    opcode: int
    payload: bytes
    final: bool = True
    rsv: int = 0
    masked: bool = True

    @property
    def wire(self) -> bytes:
        return frame(self.opcode, self.payload, final=self.final, rsv=self.rsv, masked=self.masked)


@dataclass
class Model:
    """One connection, frame by frame."""

    messages: list[tuple[bytes, bool]] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    end: int | None = None
    opcode: int | None = None
    parts: bytes = b""

    def take(self, sent: Sent) -> None:
        if self.end is not None:
            return
        control = sent.opcode & 8
        malformed = control and (len(sent.payload) > 125 or not sent.final)
        if malformed or not sent.masked or sent.opcode not in (0, 1, 2, 8, 9, 10):
            self.end = 1002
        elif not control and len(sent.payload) > MAX_SIZE:
            self.end = 1009
        elif sent.rsv:
            self.end = 1002
        elif sent.opcode == CLOSE:
            self._close(sent)
        elif sent.opcode == PING:
            self.pongs.append(sent.payload)
        elif not control:
            self._data(sent)

    def _close(self, sent: Sent) -> None:
        code = int.from_bytes(sent.payload[:2], "big")
        if not sent.payload:
            self.end = 1005
        elif (
            len(sent.payload) == 1 or not (1000 <= code <= 1014 or code >= 3000) or code in (1004, 1005, 1006)
        ):
            self.end = 1002
        else:
            self.end = code

    def _data(self, sent: Sent) -> None:
        if (sent.opcode == CONTINUATION) is (self.opcode is None):
            self.end = 1002
            return
        if self.opcode is None:
            self.opcode, self.parts = sent.opcode, b""
        self.parts += sent.payload
        if self.opcode == TEXT and not _may_be_text(self.parts, sent.final):
            self.end = 1007
        elif len(self.parts) > MAX_SIZE:
            self.end = 1009
        elif sent.final:
            self.messages.append((self.parts, self.opcode == BINARY))
            self.opcode = None


def _may_be_text(data: bytes, whole: bool) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return not whole and error.reason == "unexpected end of data"
    return True


payloads = st.sampled_from(
    [b"", b"x", "ä€😀".encode(), b"\xc3", b"\xff", b"x" * 400, b"x" * MAX_SIZE, b"x" * 1001]
)
data_frames = st.builds(Sent, st.sampled_from([TEXT, BINARY, CONTINUATION]), payloads, st.booleans())
control_frames = st.builds(Sent, st.sampled_from([PING, PONG]), st.binary(max_size=125))
closes = st.builds(
    Sent, st.just(CLOSE), st.sampled_from([b"", b"\x03", b"\x03\xe8", b"\x03\xee", b"\x0f\xa0bye", b"\0\1"])
)
broken = st.builds(
    Sent, st.integers(0, 15), payloads, st.booleans(), st.integers(0, 7), st.sampled_from([True, True, False])
)
sequences = st.lists(st.one_of(data_frames, data_frames, control_frames, closes, broken), max_size=12)


@example([Sent(CLOSE, b"", rsv=1)])
@given(sequences)
async def test_what_comes_frame_by_frame_is_what_the_model_hands_up(frames: list[Sent]) -> None:
    visit, model = Visit(), Model()
    for each in frames:
        model.take(each)
        await visit.feed(each.wire)
    await visit.lose()

    assert visit.messages == model.messages
    assert [payload for opcode, payload in visit.sent() if opcode == PONG] == model.pongs
    assert [code for code, _ in visit.ends] == [model.end or 1006]
    assert visit.errors == []


@given(sequences, st.lists(st.integers(1, 700), min_size=1, max_size=4))
async def test_in_any_pieces_nothing_else_is_handed_up(frames: list[Sent], sizes: list[int]) -> None:
    visit, model = Visit(), Model()
    for each in frames:
        model.take(each)
    data = b"".join(each.wire for each in frames)
    turn = 0
    while data:
        size = sizes[turn % len(sizes)]
        await visit.feed(data[:size])
        data, turn = data[size:], turn + 1
    await visit.lose()

    # What stands right before a broken frame may be dropped with it.
    assert visit.messages == model.messages[: len(visit.messages)]
    if model.end is None:
        assert visit.messages == model.messages
    assert len(visit.ends) == visit.gone == 1
    closes = [payload for opcode, payload in visit.sent() if opcode == CLOSE]
    # After the answer to a close without a code, picows says goodbye to what came in the same read with it.
    assert len(closes) <= 1 + (closes[:1] == [b""])
    assert visit.errors == []


@given(st.lists(st.builds(Sent, st.just(TEXT), st.sampled_from([b"a", b"bc"])), min_size=65, max_size=300))
async def test_messages_that_came_in_one_read_keep_their_order(frames: list[Sent]) -> None:
    visit = Visit()
    await visit.feed(b"".join(each.wire for each in frames))
    await visit.lose()

    assert [data for data, _ in visit.messages] == [each.payload for each in frames]


async def test_what_is_broken_behind_a_broken_frame_is_not_answered_with_another_close() -> None:
    visit = Visit()
    await visit.feed(frame(TEXT, b"{}", rsv=4))
    await visit.feed(frame(11, b"x"))
    await visit.lose()

    assert [(opcode, payload[:2]) for opcode, payload in visit.sent()] == [(CLOSE, b"\x03\xea")]


async def test_a_reason_that_is_too_long_for_a_close_frame_is_cut_between_characters() -> None:
    visit = Visit()
    visit.transport.close(4000, "x" + "ä" * 100 + "€")
    visit.transport.close(4001, "and no second")
    await visit.lose()

    assert visit.sent() == [(CLOSE, b"\x0f\xa0x" + "ä".encode() * 61)]
