"""What a nats-server says of its connections, over its monitoring port (`-m`): who listens to what, and got what."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass

import httpx
from nats_server import NatsServer


@dataclass
class Heard:
    """One connection of a node."""

    messages: int
    """That were sent to it."""
    subjects: Counter[str]

    def rooms(self, road: str = "plain") -> list[str]:
        """The rooms that it listens to; those of namespaces as a whole, and of nodes, are none."""
        found = []
        for subject in self.subjects.elements():
            words = subject.split(".")
            if words[1] == road and (room := text(words[-1])) is not None:
                found.append(room)
        return sorted(found)


def text(word: str) -> str | None:
    """The name that a word of a subject stands for; none for what is no room."""
    if not word.startswith("n"):
        return None
    return base64.urlsafe_b64decode(word[1:] + "=" * (-len(word[1:]) % 4)).decode()


async def connections(server: NatsServer, prefix: str) -> list[Heard]:
    """Those of an application, the oldest first."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{server.monitor}/connz", params={"subs": 1, "sort": "cid", "limit": 1000})
    return [
        Heard(each["out_msgs"], Counter(each.get("subscriptions_list", [])))
        for each in answer.json()["connections"]
        if each.get("name") == f"aquilia {prefix}"
    ]
