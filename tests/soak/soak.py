"""A soak: real servers and a real broker, killed in mid fan-out, and clients that are cut and stalled.

Publishers note which numbers were acked to them, subscribers note what they are given. Afterwards each subscriber has
each acked number of its rooms once and in order, but where it was told of a gap; what takes effect once did so, but
where it was in the hands of who was killed; no durable event is lost; and presence knows who is there, and nobody
else. Anything else ends this with 1.

    python tests/soak/soak.py                 # 10 kills, 1,000,000 messages, two servers on NATS
    python tests/soak/soak.py --broker local  # the same on one server with local://; --workers 4: by four workers
    python tests/soak/soak.py --broker redis  # on a Redis that writes all to its disk before it answers
    python tests/soak/soak.py --broker redis-cluster  # on three masters, each with a replica that takes its place
    python tests/soak/soak.py --short         # 3 kills, 20,000 messages
    python tests/soak/soak.py --rolling       # a rolling restart of 4 workers with 2,000 clients: see rolling.py
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "sockets")]

import judgement  # noqa: E402
import rolling  # noqa: E402
import stage  # noqa: E402
from peers import ANSWER_WITHIN, CODECS, Publisher, Subscriber  # noqa: E402
from ports import reserved_port  # noqa: E402

SILENCE = 20.0
"""Seconds without anything new after which what has not come is lost."""
FAILED = "failed: "
"""See `soak_app`."""
PLAIN_SHARE = 10
"""Of so many messages one goes into a room that remembers nothing."""


class Soak:
    """One run."""

    def __init__(
        self, options: argparse.Namespace, servers: list[stage.Server], broker: stage.Broker
    ) -> None:
        self.options = options
        self.servers, self.broker = servers, broker
        self.random = random.Random(options.seed)
        rooms = range(options.rooms)
        self.subscribers = [
            Subscriber(
                f"{n}",
                self._ports(n),
                CODECS[n % 3],
                [
                    *(f"room {room}" for room in sorted({n % len(rooms), *rooms[: n % 7 == 0]})),
                    f"plain {n % len(rooms)}",
                ],
                n,
            )
            for n in range(options.subscribers)
        ]
        self.publishers: list[Publisher] = []
        share = options.messages // options.publishers
        for n in range(options.publishers):
            self._publisher(f"room {n % len(rooms)}", "say" if n // len(rooms) % 2 else "say again", share)
        for room in rooms:
            self._publisher(f"plain {room}", "say", options.messages // PLAIN_SHARE // len(rooms))

    def _publisher(self, room: str, event: str, share: int) -> None:
        first = self.publishers[-1].numbers.stop if self.publishers else 0
        n = len(self.publishers)
        numbers = range(first, first + share)
        self.publishers.append(Publisher(self._ports(n), room, event, numbers, self.options.batch, 1000 + n))

    def _ports(self, n: int) -> list[int]:
        ports = [server.port for server in self.servers]
        return [*ports[n % len(ports) :], *ports[: n % len(ports)]]

    def _acked(self) -> int:
        return sum(len(publisher.acked) for publisher in self.publishers)

    async def run(self) -> judgement.Report:
        await asyncio.gather(*(subscriber.enter() for subscriber in self.subscribers))
        reading = [asyncio.create_task(subscriber.read()) for subscriber in self.subscribers]
        booking = [asyncio.create_task(subscriber.book()) for subscriber in self.subscribers]
        rough = asyncio.create_task(self._disturb())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill())
            for publisher in self.publishers:
                group.create_task(publisher.publish())
        for task in (rough, *booking):
            task.cancel()
        for subscriber in self.subscribers:
            subscriber.moving.set()
        due = judgement.wanted(self.publishers)
        await self._settle(lambda: self._rest(due))
        for task in reading:
            if task.done():
                await task  # why it does not read any more
        for session, numbers in self._failed():
            for peer in (*self.publishers, *self.subscribers):
                if session in peer.sessions:
                    peer.rough.update(numbers)
        report = judgement.judge(self.subscribers, self.publishers)
        report.problems += await self._present()
        for subscriber in self.subscribers:
            await subscriber.client.close()
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, *booking, rough, return_exceptions=True)
        return report

    def _failed(self) -> Iterator[tuple[str, list[int]]]:
        """What handlers could not do to the end, and so have done again where it was repeated."""
        for server in self.servers:
            for line in server.log.read_text().splitlines():
                if line.startswith(FAILED):
                    yield json.loads(line.removeprefix(FAILED))

    async def _kill(self) -> None:
        """End servers and broker in turn, in the midst of what they do."""
        for turn in range(self.options.kills):
            messages = sum(len(publisher.numbers) for publisher in self.publishers)
            while self._acked() < (turn + 1) * messages / (self.options.kills + 1):
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.random.random() * 0.2)
            while not any(publisher.waits for publisher in self.publishers):
                await asyncio.sleep(0)
            for peer in (*self.publishers, *self.subscribers):
                peer.begin_harsh()
            server = self.servers[turn % len(self.servers)]
            if turn % 3 != 1:
                self._tell("a server")
                await server.crash(self.random)
            if turn % 3 != 0:
                self._tell("the broker")
                self.broker.kill()
                await asyncio.sleep(self.random.random())
                await asyncio.to_thread(self.broker.start)
            if turn % 3 != 1:
                await server.recover()
            for peer in (*self.publishers, *self.subscribers):
                peer.end_harsh()

    def _tell(self, who: str) -> None:
        calls = sum(publisher.waits for publisher in self.publishers)
        print(f"{self._acked():>9} acked, {calls} calls on their way: killed {who}", flush=True)

    async def _disturb(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self.random.choice([*self.subscribers, *self.publishers]).cut()
            stalled = self.random.choice(self.subscribers)
            stalled.moving.clear()
            asyncio.get_running_loop().call_later(self.random.random() * 2, stalled.moving.set)

    def _rest(self, due: dict[str, set[int]]) -> int:
        """How much may still come."""
        rooms = sum(
            len(due[room] - seen.numbers)
            for subscriber in self.subscribers
            for room, seen in subscriber.seen.items()
            if room.startswith("room ")
        )
        return rooms + sum(
            not subscriber.booked[number] for subscriber in self.subscribers for number in subscriber.bookings
        )

    async def _settle(self, rest: Callable[[], int]) -> None:
        """Wait until nothing is left to come, or nothing comes any more."""
        before, since = -1, time.monotonic()
        while (left := rest()) and time.monotonic() - since < SILENCE:
            if left != before:
                before, since = left, time.monotonic()
            await asyncio.sleep(0.1)

    async def _present(self) -> list[str]:
        """What is wrong with who is said to be present, once everybody is there."""
        began = time.monotonic()
        while True:
            who: dict[str, list[set[str]]] = {}
            for subscriber in self.subscribers:
                for room in subscriber.seen:
                    if room.startswith("room "):
                        told = await subscriber.client.call(
                            "who", room, timeout=ANSWER_WITHIN, idempotent=True
                        )
                        who.setdefault(room, []).append(set(told))
            problems = list(judgement.presence(self.subscribers, who))
            if not problems or time.monotonic() - began > SILENCE:
                return problems
            await asyncio.sleep(0.5)


async def soak(options: argparse.Namespace, folder: Path) -> int:
    """Kill under load; 1 where anything is wrong with what came of it."""
    began = time.monotonic()
    count = 1 if options.broker == "local" else options.servers
    with stage.broker(options.broker, folder) as (broker, url):
        async with stage.servers(count, options.workers or 1, url, options.history, folder) as servers:
            run = Soak(options, servers, broker)
            report = await run.run()
    _print_logs(folder, everything=options.verbose or bool(report.problems))
    report.show()
    refused = sum(publisher.refused for publisher in run.publishers)
    booked = sum(len(subscriber.bookings) for subscriber in run.subscribers)
    seconds = time.monotonic() - began
    print(
        f"{run._acked()} acked, {refused} calls refused and said anew, {booked} durable events, {seconds:.0f} s"
    )
    for problem in report.problems:
        print("PROBLEM:", problem)
    print("nothing lost, nothing doubled" if not report.problems else f"{len(report.problems)} problems")
    return 1 if report.problems else 0


def _print_logs(folder: Path, *, everything: bool) -> None:
    for log in sorted(folder.glob("*.log")):
        text = log.read_text()
        if everything or "Traceback" in text:
            print(f"== {log.name}\n{text[-6000:]}")


async def main(options: argparse.Namespace) -> int:
    """What the command line asks for."""
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)  # no server stays behind
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if options.rolling:
            return await rolling.run(options, Path(folder), stack.enter_context(reserved_port()))
        return await soak(options, Path(folder))


def asked(words: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--short", action="store_true", help="3 kills, 20,000 messages; with --rolling 60 clients"
    )
    parser.add_argument("--broker", choices=["nats", "local", "redis", "redis-cluster"], default="nats")
    parser.add_argument("--messages", type=int)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--subscribers", type=int, default=20)
    parser.add_argument("--publishers", type=int, default=12)
    parser.add_argument("--servers", type=int, default=2, help="local has one")
    parser.add_argument("--workers", type=int, help="of each server; `aq serve` has them")
    parser.add_argument("--rooms", type=int, default=3)
    parser.add_argument("--batch", type=int, default=10, help="messages in a call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--history", type=int, default=200_000, help="messages that a room keeps; few: gaps")
    parser.add_argument("--verbose", action="store_true", help="print what the servers logged")
    parser.add_argument("--rolling", action="store_true", help="replace workers under load, and kill nothing")
    parser.add_argument("--by", choices=["sighup", "drain"], default="sighup", help="how, with --rolling")
    parser.add_argument("--clients", type=int, help="with --rolling")
    parser.add_argument("--crowds", type=int, help="processes that have them")
    parser.add_argument("--rate", type=float, default=20.0, help="numbers a second, with --rolling")
    options = parser.parse_args(words)
    options.messages = options.messages or (20_000 if options.short else 1_000_000)
    options.kills = options.kills or (3 if options.short else 10)
    if options.rolling:
        options.workers = options.workers or (2 if options.short else 4)
    options.clients = options.clients or (60 if options.short else 2_000)
    options.crowds = options.crowds or (1 if options.short else 4)
    return options


if __name__ == "__main__":
    sys.exit(asyncio.run(main(asked())))
