"""A soak: real servers and a real broker, killed in mid fan-out, and clients that are cut and stalled.

Publishers note which numbers were acked to them, subscribers note what they are given. Afterwards each subscriber has
each acked number of its rooms once and in order, but where it was told of a gap; anything else ends this with 1.

    python tests/soak/soak.py                 # 10 kills, 1,000,000 messages, two servers on NATS
    python tests/soak/soak.py --broker local  # the same on one server with local://
    python tests/soak/soak.py --short         # 3 kills, 20,000 messages
    python tests/soak/soak.py --rolling       # a rolling restart of 4 workers with 2,000 clients: see rolling.py
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "sockets")]

import rolling  # noqa: E402
from nats_server import NatsServer  # noqa: E402
from ports import reserved_port  # noqa: E402

from aquilia.client import Client, ClientFault, Gap, Left, Message, Resumed  # noqa: E402
from aquilia.client.link import Link  # noqa: E402

CODECS = ("json", "msgpack", "cbor")
ANSWER_WITHIN = 60.0
SILENCE = 20.0
"""Seconds without anything new after which what has not come is lost."""


class Broker(Protocol):
    """What holds the logs: it is killed, and started again."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


class LocalBroker:
    """The server that an application has by `local://`, which starts it again by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"local://{folder}"

    def kill(self) -> None:
        for file in self.folder.glob("nats-server_*.ports"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.stem.rpartition("_")[2]), signal.SIGKILL)

    def start(self) -> None:
        """The application does."""


class Server:
    """A node: a process that is killed, and started again on its port."""

    def __init__(self, port: int, url: str, history: int, log: Path) -> None:
        self.port = port
        self._history = history
        self._url = url
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "uvicorn", "soak_app:app", "--port", str(self.port)]
        command += ["--ws", "aquilia.sockets.transports.native:NativeProtocol", "--log-level", "warning"]
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path, "SOAK_URL": self._url, "SOAK_HISTORY": str(self._history)}
        with self._log.open("ab") as output:
            return subprocess.Popen(command, env=env, stdout=output, stderr=output)

    async def start(self) -> None:
        """Start it, until it takes connections; anew where the broker that it needs is not up yet."""
        self._process = self._spawn()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            if self._process.poll() is not None:
                self._process = self._spawn()
            await asyncio.sleep(0.05)
        raise TimeoutError(f"no server on port {self.port}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Peer:
    """A client whose link can be cut."""

    def __init__(self, port: int, codec: str, seed: int) -> None:
        url = f"ws://127.0.0.1:{port}/soak"
        self.client = Client(
            url,
            codec=codec,
            proxy=None,
            keep_trying=True,
            backoff_base=0.1,
            backoff_cap=1.0,
            random=random.Random(seed).random,
        )
        self._link: Link | None = None
        self.client._dialer._options["create_connection"] = self._made

    def _made(self, *args: Any, **options: Any) -> Link:
        self._link = Link(*args, **options)
        return self._link

    def cut(self) -> None:
        """Break the connection, as a lost network does."""
        if self._link is not None and hasattr(self._link, "transport"):
            self._link.abort()


Place = tuple[str, int]


@dataclass
class Seen:
    """What one subscriber was given of one room, in order: numbers with their places, and words of gaps."""

    items: list[tuple[Place, int | None]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    excused: list[tuple[Place | None, Place | None]] = field(default_factory=list)


class Subscriber(Peer):
    """Reads what its rooms say, and now and then does not."""

    def __init__(self, name: str, port: int, codec: str, rooms: list[str], seed: int) -> None:
        super().__init__(port, codec, seed)
        self.name = name
        self.seen = {room: Seen() for room in rooms}
        self.resumed = 0
        self.moving = asyncio.Event()
        self.moving.set()
        self._stream = self.client.stream("said", Gap, Left, Resumed, buffer=64)

    async def enter(self) -> None:
        await self.client.connect()
        for room in self.seen:
            await self.client.call("enter", room, timeout=ANSWER_WITHIN, idempotent=True)

    async def read(self) -> None:
        async for item in self._stream:
            await self.moving.wait()
            if isinstance(item, Message):
                assert item.room is not None
                assert item.epoch is not None
                assert item.offset is not None
                seen = self.seen[item.room]
                seen.items.append(((item.epoch, item.offset), item.payload))
                seen.numbers.add(item.payload)
            elif isinstance(item, Gap):
                self._gap(item)
            elif isinstance(item, Left):
                self.seen[item.room].told.append(f"left (resumed={item.resumed})")
                self.seen[item.room].excused.append((self._last(item.room), None))
            else:
                self.resumed += 1

    def _last(self, room: str) -> Place | None:
        items = self.seen[room].items
        return items[-1][0] if items else None

    def _gap(self, gap: Gap) -> None:
        if not gap.room:  # nothing is sent to it directly
            return
        place = None if gap.position is None else (gap.position.epoch, gap.position.offset)
        self.seen[gap.room].told.append(gap.cause)
        self.seen[gap.room].excused.append((self._last(gap.room), place))


class Publisher(Peer):
    """Says numbers, a batch in each call, until they are acked."""

    def __init__(self, port: int, room: str, event: str, numbers: range, batch: int, seed: int) -> None:
        super().__init__(port, CODECS[seed % 3], seed)
        self.room, self.event = room, event
        self.numbers, self.batch = numbers, batch
        self.acked: list[int] = []
        self.refused = 0

    async def publish(self) -> None:
        async with self.client:
            for first in range(0, len(self.numbers), self.batch):
                said = list(self.numbers[first : first + self.batch])
                while True:
                    try:
                        await self.client.call(
                            self.event, [self.room, said], timeout=ANSWER_WITHIN, idempotent=True
                        )
                    except ClientFault:
                        self.refused += 1
                        await asyncio.sleep(0.1)
                    else:
                        break
                self.acked += said


@dataclass
class Report:
    """The table, and what must not be in it."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, servers: list[Server], broker: Broker) -> None:
        self.options = options
        self.servers, self.broker = servers, broker
        self.random = random.Random(options.seed)
        rooms = [f"room {n}" for n in range(options.rooms)]
        self.subscribers = [
            Subscriber(
                f"{n}", self._port(n), CODECS[n % 3], [rooms[n % len(rooms)], *rooms[: n % 7 == 0]][:2], n
            )
            for n in range(options.subscribers)
        ]
        for subscriber in self.subscribers:
            subscriber.seen = dict(sorted(subscriber.seen.items()))
        share = options.messages // options.publishers
        self.publishers = [
            Publisher(
                self._port(n),
                rooms[n % len(rooms)],
                "say" if n % 2 else "say again",
                range(n * share, (n + 1) * share),
                options.batch,
                1000 + n,
            )
            for n in range(options.publishers)
        ]

    def _port(self, n: int) -> int:
        return self.servers[n % len(self.servers)].port

    def _acked(self) -> int:
        return sum(len(publisher.acked) for publisher in self.publishers)

    async def run(self) -> Report:
        await asyncio.gather(*(subscriber.enter() for subscriber in self.subscribers))
        reading = [asyncio.create_task(subscriber.read()) for subscriber in self.subscribers]
        rough = asyncio.create_task(self._disturb())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill())
            for publisher in self.publishers:
                group.create_task(publisher.publish())
        rough.cancel()
        for subscriber in self.subscribers:
            subscriber.moving.set()
        await self._settle()
        for task in reading:
            if task.done():
                await task  # why it does not read any more
        for subscriber in self.subscribers:
            await subscriber.client.close()
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, rough, return_exceptions=True)
        return self._judge()

    async def _kill(self) -> None:
        """End servers and broker in turn, in the midst of what they do."""
        for turn in range(self.options.kills):
            while self._acked() < (turn + 1) * self.options.messages / (self.options.kills + 1):
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.random.random() * 0.2)
            if turn % 3 != 1:
                server = self.servers[turn % len(self.servers)]
                server.kill()
                print(f"{self._acked():>9} acked: killed a server", flush=True)
                if turn % 3 == 2:
                    await self._kill_broker()
                await server.start()
            else:
                await self._kill_broker()

    async def _kill_broker(self) -> None:
        self.broker.kill()
        print(f"{self._acked():>9} acked: killed the broker", flush=True)
        await asyncio.sleep(self.random.random())
        await asyncio.to_thread(self.broker.start)

    async def _disturb(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self.random.choice([*self.subscribers, *self.publishers]).cut()
            stalled = self.random.choice(self.subscribers)
            stalled.moving.clear()
            asyncio.get_running_loop().call_later(self.random.random() * 2, stalled.moving.set)

    def _wanted(self) -> dict[str, set[int]]:
        wanted: dict[str, set[int]] = {}
        for publisher in self.publishers:
            wanted.setdefault(publisher.room, set()).update(publisher.acked)
        return wanted

    async def _settle(self) -> None:
        """Wait until everyone has everything, or nothing comes any more."""
        wanted = self._wanted()
        before, since = -1, time.monotonic()
        while time.monotonic() - since < SILENCE:
            had = sum(len(seen.items) for sub in self.subscribers for seen in sub.seen.values())
            if had != before:
                before, since = had, time.monotonic()
            if all(
                wanted[room] <= seen.numbers for sub in self.subscribers for room, seen in sub.seen.items()
            ):
                return
            await asyncio.sleep(0.1)

    def _judge(self) -> Report:
        report = Report()
        wanted = self._wanted()
        places: dict[int, Place] = {}
        for subscriber in self.subscribers:
            for seen in subscriber.seen.values():
                for place, number in seen.items:
                    places.setdefault(number or 0, place)
        for subscriber in self.subscribers:
            for room, seen in subscriber.seen.items():
                report.rows.append(self._row(report, subscriber, room, seen, wanted[room], places))
        return report

    def _row(
        self,
        report: Report,
        subscriber: Subscriber,
        room: str,
        seen: Seen,
        wanted: set[int],
        places: dict[int, Place],
    ) -> tuple[str, ...]:
        missing = sorted(wanted - seen.numbers)
        lost = [number for number in missing if not _excused(places.get(number), seen.excused)]
        doubled = len(seen.items) - len({place for place, _ in seen.items})
        disorder = sum(
            before[0][0] == after[0][0] and before[0][1] >= after[0][1]
            for before, after in zip(seen.items, seen.items[1:], strict=False)
        )
        numbers = [number for _, number in seen.items]
        first = list(dict.fromkeys(numbers))
        share = self.options.messages // self.options.publishers
        by_publisher: dict[int, int] = {}
        for number in first:
            assert number is not None
            if number < by_publisher.get(number // share, -1):
                disorder += 1
            by_publisher[number // share] = number
        for what, count in (("lost", len(lost)), ("doubled", doubled), ("out of order", disorder)):
            if count:
                detail = f": {[(n, places.get(n)) for n in lost[:5]]}" if what == "lost" else ""
                report.problems.append(f"subscriber {subscriber.name}, {room}: {count} {what}{detail}")
        told = ", ".join(sorted(set(seen.told))) or "-"
        return (
            subscriber.name,
            room,
            str(subscriber.resumed),
            str(len(numbers)),
            str(len(lost)),
            str(doubled),
            str(disorder),
            str(len(numbers) - len(first)),
            f"{len(seen.told)} {told}",
            str(len(missing) - len(lost)),
        )


def _excused(place: Place | None, gaps: list[tuple[Place | None, Place | None]]) -> bool:
    """Whether a gap was told where this would have been."""
    if place is None:
        return False
    for before, behind in gaps:
        after_it = before is None or before[0] != place[0] or place[1] > before[1]
        before_it = behind is None or behind[0] != place[0] or place[1] <= behind[1]
        if after_it and before_it:
            return True
    return False


@contextlib.asynccontextmanager
async def staged(options: argparse.Namespace, folder: Path) -> AsyncIterator[Soak]:
    """The broker and the servers, started."""
    servers: list[Server] = []
    with contextlib.ExitStack() as stack:
        broker: Broker
        if options.broker == "local":
            broker = local = LocalBroker(folder / "local")
            url, count = local.url, 1
        else:
            broker = nats = NatsServer(folder / "nats")
            stack.callback(nats.kill)
            url, count = nats.url("soak"), options.servers
        for n in range(count):
            servers.append(
                Server(stack.enter_context(reserved_port()), url, options.history, folder / f"server{n}.log")
            )
            stack.callback(servers[-1].kill)
            await servers[-1].start()
        yield Soak(options, servers, broker)


async def main(options: argparse.Namespace) -> int:
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)  # no server stays behind
    with tempfile.TemporaryDirectory() as folder:
        if options.rolling:
            with reserved_port() as port:
                return await rolling.run(options, Path(folder), port)
        began = time.monotonic()
        async with staged(options, Path(folder)) as soak:
            report = await soak.run()
        _print_logs(Path(folder), everything=options.verbose)
        seconds = time.monotonic() - began
    _print(report)
    refused = sum(publisher.refused for publisher in soak.publishers)
    print(f"{soak._acked()} acked, {refused} calls refused and said anew, {seconds:.0f} s")
    for problem in report.problems:
        print("PROBLEM:", problem)
    print("nothing lost, nothing doubled" if not report.problems else f"{len(report.problems)} problems")
    return 1 if report.problems else 0


def _print_logs(folder: Path, *, everything: bool) -> None:
    for log in sorted(folder.glob("*.log")):
        text = log.read_text()
        if everything or "Traceback" in text:
            print(f"== {log.name}\n{text[-6000:]}")


def _print(report: Report) -> None:
    head = (
        *("subscriber", "room", "resumed", "got", "lost", "doubled", "disorder"),
        *("said twice", "gaps told", "within"),
    )
    rows = [head, *report.rows]
    widths = [max(len(row[n]) for row in rows) for n in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def asked(words: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--short", action="store_true", help="3 kills, 20,000 messages")
    parser.add_argument("--broker", choices=["nats", "local"], default="nats")
    parser.add_argument("--messages", type=int)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--subscribers", type=int, default=20)
    parser.add_argument("--publishers", type=int, default=12)
    parser.add_argument("--servers", type=int, default=2, help="with nats; local has one")
    parser.add_argument("--rooms", type=int, default=3)
    parser.add_argument("--batch", type=int, default=10, help="messages in a call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--history", type=int, default=200_000, help="messages that a room keeps; few: gaps")
    parser.add_argument("--rolling", action="store_true", help="replace workers under load, and kill nothing")
    parser.add_argument("--by", choices=["sighup", "drain"], default="sighup", help="how, with --rolling")
    parser.add_argument("--workers", type=int, help="of `aq serve`, with --rolling")
    parser.add_argument("--clients", type=int, help="with --rolling")
    parser.add_argument("--crowds", type=int, help="processes that have them")
    parser.add_argument("--rate", type=float, default=20.0, help="numbers a second, with --rolling")
    parser.add_argument("--verbose", action="store_true", help="print what the servers logged")
    options = parser.parse_args(words)
    options.messages = options.messages or (20_000 if options.short else 1_000_000)
    options.kills = options.kills or (3 if options.short else 10)
    options.workers = options.workers or (2 if options.short else 4)
    options.clients = options.clients or (60 if options.short else 2_000)
    options.crowds = options.crowds or (1 if options.short else 4)
    return options


if __name__ == "__main__":
    sys.exit(asyncio.run(main(asked())))
