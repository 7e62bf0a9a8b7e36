"""The first five minutes with Redis go as their page says: its program, its commands, and what a browser sends."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from documents import ROOT, Block, blocks
from redis_servers import RedisServer
from websockets.asyncio.client import connect
from workspaces import TIMEOUT, Workspace

from aquilia.sockets.adapters.redis.calls import not_allowed

PAGE = ROOT / "docs" / "REDIS.md"


def written(language: str) -> Block:
    (found,) = [
        each for each in blocks(PAGE) if each.section == "in-five-minutes" and each.language == language
    ]
    return found


def test_the_login_of_the_page_is_that_of_the_advice_where_one_lacks_something() -> None:
    (line,) = re.findall(r"ACL SETUSER app on >PASSWORD (.*)", PAGE.read_text())
    assert f"`ACL SETUSER app {line}`" in not_allowed("", "", "aquilia")


async def test_two_processes_serve_one_lobby_and_redis_has_what_was_said(
    empty: Workspace, tmp_path: Path
) -> None:
    program, commands, script = written("python"), written("sh"), written("javascript")
    compile_, serve = (line.split()[1:] for line in commands.text.splitlines())
    (frame,) = re.findall(r"ws\.send\('(.*)'\)", script.text)
    (path,) = re.findall(r"localhost:8000(/\w+)", script.text)
    (replay,) = re.findall(r"`aq (ws replay .+?)`", PAGE.read_text())
    with RedisServer(tmp_path / "redis") as redis:
        empty.environment["REDIS_URL"] = f"redis://{redis.address}"
        empty.write(program.options["file"], program.text)
        empty.done(*compile_)
        async with (
            empty.serving(*serve[1:]) as node,
            empty.serving() as elsewhere,
            asyncio.timeout(TIMEOUT),
            connect(node.url.replace("http", "ws") + path, proxy=None) as one,
        ):
            await one.send(frame)
            assert "Hello!" in str(await one.recv())
            async with connect(elsewhere.url.replace("http", "ws") + path, proxy=None) as other:
                await other.send(frame)
                for each in (one, other, other):
                    assert "Hello!" in str(await each.recv())
            assert empty.done(*replay.split()).count("Hello!") == 2
