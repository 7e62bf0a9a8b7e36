"""`make abuse`: a real `aq serve` under clients that mean harm; in the end it must hold no more than before.

    make abuse                          # a minute
    make abuse ARGS="--seconds 600"
    make abuse ARGS="--loop asyncio"    # in the place of uvloop

A healthy client asks all the while, and must be answered. What the process holds is compared between the first
quarter of the run and its end: objects of connections, tasks, timers, threads and open files, and its memory. The
last lines say whether it held; the exit code is 0 if it did.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import websockets

from abuse.attacks import ATTACKS

WORKSPACE = Path(__file__).parent / "workspace"
AT_ONCE = 20
ANSWER_WITHIN = 5.0
SETTLE = 20.0
"""Seconds for what has a time limit: closing handshakes, heads that never come."""
FIRST = 7.0
"""Seconds for that after the first quarter, which leaves behind what is made once."""
SPARE = 4
"""Objects of one kind that there may be more of, as those of the connections that ask for the figures."""
KEPT = ("Ticket", "Record", "Succession", "Session", "Resum")
"""Sessions that a client may come back to are kept for two minutes."""
NUMBERS = ("files", "threads", "tasks", "timers")
GROWTH = 24 * 2**20
"""Bytes of memory that may be added: freed memory is not all given back at once."""


async def attack(port: int, until: float, chance: random.Random, done: Counter[str]) -> None:
    """One attack behind the other."""
    while time.monotonic() < until:
        chosen = chance.choice(ATTACKS)
        with contextlib.suppress(
            OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            await asyncio.wait_for(chosen(port, chance), 5)
        done[chosen.__name__] += 1


async def ask(port: int, until: float) -> tuple[int, float]:
    """The healthy client: how many answers it got, and the longest wait for one.

    Raises:
        TimeoutError: one did not come in time.
    """
    answers, slowest = 0, 0.0
    async with websockets.connect(f"ws://127.0.0.1:{port}/abused", proxy=None) as client:
        while time.monotonic() < until:
            begun = time.monotonic()
            await client.send('{"event":"echo","id":"1","ack":true,"payload":1}')
            await asyncio.wait_for(client.recv(), ANSWER_WITHIN)
            answers, slowest = answers + 1, max(slowest, time.monotonic() - begun)
            await asyncio.sleep(0.02)
    return answers, slowest


async def abuse(port: int, seconds: float, seed: int) -> tuple[Counter[str], int, float]:
    """All of it at once."""
    until, done = time.monotonic() + seconds, Counter[str]()
    asking = asyncio.create_task(ask(port, until))
    await asyncio.gather(*(attack(port, until, random.Random(seed + n), done) for n in range(AT_ONCE)))
    return done, *(await asking)


async def figures(port: int) -> dict[str, Any]:
    """What the process holds."""
    async with httpx.AsyncClient(trust_env=False) as client:
        found: dict[str, Any] = (await client.get(f"http://127.0.0.1:{port}/figures", timeout=20)).json()
    return found


def grown(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What there is more of than may be."""
    problems = [
        f"{kind}: {before['objects'].get(kind, 0)} became {count}"
        for kind, count in after["objects"].items()
        if count > before["objects"].get(kind, 0) + SPARE and not any(word in kind for word in KEPT)
    ]
    for key in NUMBERS:
        if after[key] > before[key] + SPARE:
            problems.append(f"{key}: {before[key]} became {after[key]}")
    if after["rss"] > before["rss"] + GROWTH:
        problems.append(f"memory: {before['rss'] >> 20} MB became {after['rss'] >> 20} MB")
    return problems


async def settled(port: int, before: dict[str, Any], patience: float = SETTLE) -> list[str]:
    """What is still there when it has had its time."""
    deadline = time.monotonic() + patience
    while (problems := grown(before, await figures(port))) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return problems


async def run(port: int, seconds: float, seed: int, loop: str) -> list[str]:
    """The whole of it; what is wrong in the end."""
    fresh = await figures(port)
    await abuse(port, seconds / 4, seed)
    await settled(port, fresh, FIRST)
    before = await figures(port)
    done, answers, slowest = await abuse(port, seconds * 3 / 4, seed + 1000)
    problems = await settled(port, before)
    after = await figures(port)
    print(f"{sum(done.values())} attacks: {dict(sorted(done.items()))}")
    print(f"{answers} answers to the healthy client, the slowest after {slowest:.3f} s")
    print(f"on {after['loop']}:")
    for key in ("rss", *NUMBERS):
        print(f"{key}: {fresh[key]} at first, {before[key]} after a quarter, {after[key]} in the end")
    missing = {attack.__name__ for attack in ATTACKS} - set(done)
    if after["loop"] != loop:
        problems.append(f"it ran on {after['loop']}, not on {loop}")
    return problems + [f"never tried: {sorted(missing)}"] * bool(missing)


@contextlib.asynccontextmanager
async def served(folder: Path, loop: str):  # type: ignore[no-untyped-def]
    """`aq serve` of the workspace, on a port that the system chooses, and an event loop of this kind."""
    shutil.copytree(WORKSPACE, folder, dirs_exist_ok=True)
    aq = [sys.executable, "-m", "aquilia.cli"]
    environment = {**os.environ, "ABUSE_LOOP": loop}
    compiled = await asyncio.create_subprocess_exec(
        *aq, "compile", cwd=folder, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    assert await compiled.wait() == 0
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(*aq, "serve", "--port", "0"),
            cwd=folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                await process.stdout.readline()
                url = (await process.stdout.readline()).decode().strip()
            draining = asyncio.create_task(process.stdout.read())
            yield int(url.rpartition(":")[2].rstrip("/"))
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 30)
            await draining


async def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="make abuse ARGS=", description="Clients that mean harm")
    parser.add_argument("--seconds", type=float, default=60, help="of abuse (60)")
    parser.add_argument("--seed", type=int, default=1, help="of what they do when (1)")
    parser.add_argument(
        "--loop", choices=["uvloop", "asyncio"], default="uvloop", help="of the server (uvloop)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder), options.loop) as port:
            problems = await run(port, options.seconds, options.seed, options.loop)
        complaints = (Path(folder) / "log").read_text(errors="replace")
        if "Traceback" in complaints:
            problems.append(f"the server logged an error:\n{complaints[-4000:]}")
    for problem in problems:
        print(f"- {problem}")
    print("It did NOT hold." if problems else "It held: nothing is left of it.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
