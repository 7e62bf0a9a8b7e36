"""The controllers of the workspace."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from pathlib import Path
from typing import Any

from aquilia import GET, Controller
from aquilia.sockets import Connection, Event, Socket, SocketController, Subscribe, Unsubscribe

COUNTED = ("aquilia.sockets", "picows", "uvicorn")


@Socket("/abused", max_message_size=10_000, message_rate_limit=500)
class AbusedSocket(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("flood")
    async def flood(self, conn: Connection) -> None:
        for _ in range(100):
            await conn.send_event("flooded", "x" * 2000)

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Unsubscribe("leave")
    async def leave(self, conn: Connection, payload: str) -> str:
        return payload


class Figures(Controller):
    @GET("/figures")
    async def figures(self) -> dict[str, Any]:
        gc.collect()
        kinds = Counter(
            f"{type(each).__module__}.{type(each).__qualname__}"
            for each in gc.get_objects()
            if type(each).__module__.startswith(COUNTED)
        )
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240
        return {
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
            "files": len(os.listdir("/proc/self/fd")),
            "tasks": len(asyncio.all_tasks()),
            "objects": dict(kinds),
        }
