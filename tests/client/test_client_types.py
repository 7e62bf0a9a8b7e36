"""A typed program of a user's: mypy accepts it, and each of its mistakes is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio
from typing import Any

import msgspec

from aquilia.client import Client, Gap, Left, Message, State


class Line(msgspec.Struct):
    text: str


async def fresh() -> str | None:
    return "a token"


chat = Client("ws://127.0.0.1:8000/chat", token=fresh, codec="cbor")
Client("ws://x/", token=lambda: "a token")
Client("ws://x/", token=lambda: 5)  # wrong
Client("ws://x/", call_timeout="10")  # wrong


@chat.on("said", type=Line)
async def said(message: Message[Line]) -> None:
    message.payload.text.upper()
    message.payload.missing  # wrong


@chat.on("said", type=Line)  # wrong
def wrong(message: Message[int]) -> None: ...


@chat.on("said")
def untyped(message: Message[Any]) -> None: ...


@chat.on(Gap)
def gap(gap: Gap) -> None: ...


@chat.on(Gap)  # wrong
def left(left: Left) -> None: ...


@chat.on(State)
def state(state: State) -> None: ...


@chat.on(int)  # wrong
def number(number: int) -> None: ...


@chat.answers("confirm", type=Line)
async def confirm(message: Message[Line]) -> bool:
    return bool(message.payload.text)


async def main() -> None:
    async with chat:
        line: Line = await chat.call("say", Line("hi"), type=Line)
        count: int = await chat.call("say", type=Line)  # wrong
        numbers: list[int] = await chat.call("numbers", type=list[int], timeout=None, idempotent=True)
        anything = await chat.call("say")
        await chat.send("say", {"text": line.text})
        await chat.send(5)  # wrong
        await chat.call("say", timeout="1")  # wrong
        async for message in chat.messages("said", type=Line):
            text: str = message.payload.text
            number: int = message.payload.text  # wrong
            print(text, number, message.room, message.offset, count, numbers, anything)
        async for now in chat.states():
            print(now.value, now is State.CONNECTED)


asyncio.run(main())
"""


def test_a_typed_program_is_accepted_and_its_mistakes_are_not(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs mypy: `make check` installs it")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
        "program.py",
    ]
    checked = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    wrong = {n for n, line in enumerate(PROGRAM.splitlines(), 1) if "# wrong" in line}
    told = {int(number) for number in re.findall(r"program.py:(\d+): error", checked.stdout)}
    assert told == wrong, checked.stdout + checked.stderr
