"""What `make fuzz` feeds with all that atheris thinks of holds for what Hypothesis thinks of, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing.memory_wire import MAX_SIZE
from fuzzing.targets import TARGETS, TOKEN
from hypothesis import given
from hypothesis import strategies as st
from processes import succeeds
from rawsocket import CONTINUATION, PING, TEXT, frame

SEEDS = [
    b"",
    b"\x00",
    b"\x00" + frame(TEXT, b"{}") + frame(PING, b"x") + frame(CONTINUATION, b"x"),
    b"\x03" + frame(TEXT, b"x" * (MAX_SIZE + 1)),
    b"\x00" + frame(TEXT, b"x", rsv=4) + frame(11),
    b'{"type":"event","event":"say","payload":{"text":"hi"},"id":"1","ack":true}',
    b"https://a.example.com:8443\nexample.com:1\nBearer x\naquilia.bearer64.eA, aquilia.v1.json",
    b"/room/:id:int\n/room/7",
    TOKEN.encode(),
    b"\x95\x01\xa4\xffway\x02\xa1o\x90",
    b"permessage-deflate; client_max_window_bits, permessage-deflate; server_max_window_bits=9",
    b'for=192.0.2.1;proto=https;host="a.example:80", for="[2001:db8::1]:47011"',
    bytes(range(256)),
    b"\x01\xff" * 60,
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", SEEDS, ids=range(len(SEEDS)))
def test_a_target_holds_for_what_is_nearly_right(target: str, seed: bytes) -> None:
    TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.binary(max_size=300))
def test_a_target_holds_for_any_bytes(target: str, data: bytes) -> None:
    TARGETS[target](data)


async def test_what_a_run_has_found_can_be_tried_once_more(tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.write_bytes(SEEDS[2])
    await succeeds("-m", "fuzzing", "--only", "frames", "--input", str(found), seconds=30)
