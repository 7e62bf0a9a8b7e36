"""A restart under 2,000 clients: how they come back. `python benchmarks/restart.py [CLIENTS]`.

`aq serve`'s server (`servers/aquilia_app.py`) is stopped by SIGTERM and started again on its port. Clients of v1, by
`aquilia.client`, follow `goaway`. What is printed: how long the old process took to end, how many clients the new one
welcomed in each tenth of a second, and how many attempts found nobody.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from aquilia.client import Client, Connected, Disconnected, GoAway

SERVER = Path(__file__).resolve().parent / "servers" / "aquilia_app.py"
AT_ONCE = 50
"""Clients that are opened together."""
PATIENCE = 120.0
STEP = 0.1


class Story:
    """What befell the clients, with its moments."""

    def __init__(self, count: int) -> None:
        self.all = asyncio.Event()
        self._count = count
        self.welcomed: list[float] = []
        self.told: list[float] = []
        self.failed = 0

    def follow(self, client: Client) -> None:
        """Note what this client tells."""
        client.on(Connected)(self._came)
        client.on(GoAway)(lambda notice: self.told.append(notice.reconnect_in))
        client.on(Disconnected)(self._left)

    def _came(self, notice: Connected) -> None:
        self.welcomed.append(time.monotonic())
        if len(self.welcomed) == self._count:
            self.all.set()

    def _left(self, notice: Disconnected) -> None:
        self.failed += "cannot be reached" in notice.reason or "HTTP" in notice.reason


def started(port: int) -> subprocess.Popen[bytes]:
    """The server, once it listens."""
    process = subprocess.Popen([sys.executable, str(SERVER), str(port), "native"])
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.02)
    process.kill()
    raise SystemExit("the server did not start")


async def connected(clients: list[Client]) -> None:
    """Open them all, so many at a time."""
    for first in range(0, len(clients), AT_ONCE):
        await asyncio.gather(*(client.connect() for client in clients[first : first + AT_ONCE]))


async def restart(count: int, port: int) -> None:
    """Do it, and print what was seen."""
    story = Story(count)
    clients = [Client(f"ws://127.0.0.1:{port}/", keep_trying=True) for _ in range(count)]
    for client in clients:
        story.follow(client)
    process = await asyncio.to_thread(started, port)
    try:
        await connected(clients)
        story.welcomed.clear()
        story.all.clear()
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)
        ended = time.monotonic()
        process = await asyncio.to_thread(started, port)
        ready = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            await story.all.wait()
        show(story, count, begun, ended, ready)
    finally:
        await asyncio.gather(*(client.close() for client in clients))
        process.terminate()
        process.wait()


def show(story: Story, count: int, begun: float, ended: float, ready: float) -> None:
    """Print it."""
    print(f"{count:,} clients; told to come back within {min(story.told):.2f} to {max(story.told):.2f} s")
    print(f"the old process ended in {ended - begun:.2f} s; the new one listened at {ready - begun:.2f} s")
    print(f"attempts that failed: {story.failed:,}")
    tenths = Counter(int((moment - begun) / STEP) for moment in story.welcomed)
    most = max(tenths.values())
    print(
        f"all were back at {max(story.welcomed) - begun:.2f} s; at most {most / STEP:,.0f} connects a second:"
    )
    for tenth in sorted(tenths):
        bar = "#" * round(50 * tenths[tenth] / most)
        print(f"  {tenth * STEP:5.1f} s {tenths[tenth] / STEP:7,.0f}/s {bar}")


def main() -> None:
    """See the head of this file."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asyncio.run(restart(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000, port))


if __name__ == "__main__":
    main()
