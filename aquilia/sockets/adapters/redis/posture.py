"""What a server's settings mean for what is kept there, said once when the application starts."""

from __future__ import annotations

import logging

from aquilia.sockets.adapters.redis.dial import Address, DialError, shown
from aquilia.sockets.adapters.redis.link import Link, Refusal
from aquilia.sockets.adapters.redis.url import Target

__all__ = ["look_at"]

logger = logging.getLogger("aquilia.sockets.redis")


async def look_at(target: Target, address: Address, link: Link) -> None:
    """Say what may be lost there. A login that may not ask (INFO) is told nothing.

    Raises:
        DialError: it has not as many replicas as the URL wants each publication to be on.
    """
    try:
        told = await _info(link)
    except Refusal:
        return
    where = f"Redis at {shown(address)}"
    policy, memory = told.get("maxmemory_policy", "noeviction"), told.get("maxmemory", "0")
    if policy != "noeviction" and memory != "0":
        logger.warning(
            "%s throws keys away when its memory is full (maxmemory-policy %s): logs of rooms, sessions and answers "
            "that are remembered may go at any time; set noeviction",
            *(where, policy),
        )
    if told.get("aof_enabled") == "0":
        logger.info(
            "%s writes no log of its own (appendonly no): what rooms remember, and what is stored, is lost or goes "
            "back when it is started again",
            where,
        )
    replicas = int(told.get("connected_slaves", target.replicas))
    if replicas < target.replicas:
        raise DialError(
            f"{where} has {replicas} replicas, and replicas={target.replicas} in the URL wants each publication on "
            "so many: add some, or take replicas away",
            refused=True,
        )


async def _info(link: Link) -> dict[str, str]:
    lines = ""
    for section in ("memory", "persistence", "replication"):
        part = await link.ask("INFO", section)
        lines += part.decode() if isinstance(part, bytes) else str(part)
    return dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
