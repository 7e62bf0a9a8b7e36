"""What a broker says of the connections of nodes to it: who listens to what, and how much it got."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass

import httpx
from brokers import Broker
from nats_server import NatsServer
from redis_servers import RedisServer


@dataclass
class Heard:
    """One connection of a node."""

    bytes: int
    """That were sent to it."""
    subscriptions: int


async def connections(server: Broker, prefix: str) -> list[Heard]:
    """Those of an application, the oldest first."""
    if isinstance(server, NatsServer):
        return [Heard(each["out_bytes"], each["subscriptions"]) for each in await _of_nats(server, prefix)]
    assert isinstance(server, RedisServer)
    lines = (await asyncio.to_thread(server.command, "CLIENT", "LIST")).splitlines()
    clients = [dict(word.partition("=")[::2] for word in line.split(" ")) for line in lines]
    clients.sort(key=lambda client: int(client["id"]))
    ours = [client for client in clients if client["name"] == f"aquilia-{prefix}"]
    return [Heard(int(client["tot-net-out"]), int(client["ssub"])) for client in ours]


async def rooms(server: Broker, prefix: str) -> list[str]:
    """The rooms that the nodes of an application listen to; those of namespaces as a whole are none."""
    if isinstance(server, NatsServer):
        found = []
        for each in await _of_nats(server, prefix):
            for subject in each.get("subscriptions_list", []):
                words = subject.split(".")
                if words[1] == "plain" and (room := _text(words[-1])) is not None:
                    found.append(room)
        return sorted(found)
    assert isinstance(server, RedisServer)
    channels = await asyncio.to_thread(server.command, "PUBSUB", "SHARDCHANNELS", f"{prefix}:*")
    named = [_text(channel.rpartition(":")[2]) for channel in channels]
    return sorted(room for room in named if room is not None)


def _text(word: str) -> str | None:
    """The name that a word of a subject or a channel stands for; none for what is no room."""
    if not word.startswith("n"):
        return None
    return base64.urlsafe_b64decode(word[1:] + "=" * (-len(word[1:]) % 4)).decode()


async def _of_nats(server: NatsServer, prefix: str) -> list[dict[str, object]]:
    """By its monitoring port."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{server.monitor}/connz", params={"subs": 1, "sort": "cid", "limit": 1000})
    return [each for each in answer.json()["connections"] if each.get("name") == f"aquilia {prefix}"]
