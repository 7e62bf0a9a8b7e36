"""What the tests of metrics share: a controller for every figure, and what a scrape tells."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from wire import TIMEOUT

from aquilia import Fault
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Emits,
    Event,
    MetricsMiddleware,
    OnConnect,
    Socket,
    SocketController,
    Subscribe,
)

PATTERN = "/hall/:name"


@Socket(PATTERN, backpressure={"strategy": "drop_oldest", "buffer_size": 10})
class Hall(SocketController):
    heard = Emits("heard", str)

    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        await conn.send_event("welcome", "hi")

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "all"

    @Event("say", middleware=[MetricsMiddleware()])
    async def say(self, conn: Connection, payload: str) -> int:
        await self.publish_room("all", self.heard, payload)
        return len(payload)

    @Event("flood")
    async def flood(self, conn: Connection, payload: int) -> None:
        for _ in range(payload):
            await self.publish_room("all", "flooded", "x" * 60_000)

    @Event("ask")
    async def ask(self, conn: Connection) -> Any:
        return await conn.request("really", timeout=5)

    @Event("fail")
    async def fail(self, conn: Connection, payload: str) -> None:
        raise Fault(payload, "as asked")

    @Event("tell")
    async def tell(self, conn: Connection, payload: str) -> None:
        await conn.send_event(payload)


def hall(**settings: Any) -> AquilaSockets:
    return AquilaSockets.from_controllers([Hall], **{"metrics": True, **settings})


async def fetched(base: str, path: str = "/metrics", **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(f"{base.replace('ws', 'http', 1)}{path}", **options)


class Scrape(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Every sample of an exposition, by its name and labels."""

    @classmethod
    def of(cls, text: str) -> Scrape:
        families = list(text_string_to_metric_families(text))
        return cls(
            {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
        )

    def get_one(self, name: str, **labels: str) -> float:
        return self[name, frozenset({"pattern": PATTERN, **labels}.items())]


async def scraped(base: str, path: str = "/metrics") -> Scrape:
    answer = await fetched(base, path)
    assert answer.status_code == 200, answer.text
    return Scrape.of(answer.text)


async def shows(base: str, name: str, value: float, **labels: str) -> None:
    """Wait until a sample has this value."""
    async with asyncio.timeout(TIMEOUT):
        while (await scraped(base)).get((name, frozenset({"pattern": PATTERN, **labels}.items()))) != value:
            await asyncio.sleep(0.01)
