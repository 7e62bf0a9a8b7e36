"""`aq serve --workers`: several processes serve the same rooms, on the same sockets, and end and start as one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from glob import glob
from pathlib import Path

import httpx
import pytest
from hall_workspace import HALL, HALL_FILE, MANIFEST, MANIFEST_FILE, PATIENCE, Listener, until
from ports import reserved_port
from processes import descendants, vanished
from workspaces import ARTIFACT, TIMEOUT, Server, Workspace

from aquilia.cli.shared_folder import shared_folder

MANY = 40


@pytest.fixture
def hall(empty: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A room that remembers; nothing is said of an adapter."""
    empty.write(MANIFEST_FILE, MANIFEST)
    empty.write(HALL_FILE, HALL)
    empty.environment["TMPDIR"] = str(tmp_path_factory.mktemp("tmp"))
    return empty


class Member(Listener):
    """One that knows which worker serves it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.pid = 0

    async def enter(self) -> None:
        self.pid = await self.client.call("enter", timeout=PATIENCE)

    async def say(self, number: int) -> None:
        assert await self.client.call("say", number, idempotent=True, timeout=PATIENCE) == number


def room(server: Server) -> str:
    return server.sockets[0].replace(":name", "a")


@contextlib.asynccontextmanager
async def members(server: Server, least: int = 1) -> AsyncIterator[dict[int, Member]]:
    """Clients, until there are that many and one at least of each of two workers; one of each, by its process."""
    found: dict[int, Member] = {}
    count = 0
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(PATIENCE) as patience:
        while len(found) < 2 or count < least:
            count += 1
            member = Member(room(server))
            await stack.enter_async_context(member.client)
            await member.enter()
            found.setdefault(member.pid, member)
        patience.reschedule(None)
        yield found


# Together


async def test_a_room_is_one_for_the_clients_of_all_workers(hall: Workspace) -> None:
    hall.edit(MANIFEST_FILE, '"health": True', '"health": True, "metrics": True, "audit": True')
    hall.compile()
    async with hall.serving("--workers", "2", "--log-level", "warning") as server:
        assert ", 2 workers;" in server.heading
        async with members(server) as found, httpx.AsyncClient(trust_env=False) as http:
            one, two = found.values()
            await one.say(1)
            await two.say(2)
            await until(lambda: one.heard[-2:] == two.heard[-2:] == [1, 2])
            for member in (one, two):
                assert await member.client.call("remember", timeout=TIMEOUT) == [1, 2]
            said = 'aquilia_messages_received_total{event="say",pattern="/hall/:name",type="event"} 2.0'
            async with asyncio.timeout(TIMEOUT):
                while said not in (await http.get(f"{server.url}/metrics")).text:
                    await asyncio.sleep(0.05)
        (shared,) = glob(f"{hall.environment['TMPDIR']}/aquilia-metrics-*")
        everyone = descendants(server.process.pid)
        assert {one.pid, two.pid} < set(everyone)
        assert await server.end(signal.SIGTERM) == (0, "")
        assert glob(shared) == []
        for pid in everyone:
            await vanished(pid)
    hall.done("ws", "audit", "verify", "artifacts/audit.crous", "artifacts/audit.2.crous")


# Ends


async def test_a_killed_worker_is_replaced_and_its_client_has_missed_nothing(hall: Workspace) -> None:
    hall.compile()
    async with hall.serving("--workers", "2", "--log-level", "error") as server:
        async with members(server) as found:
            one, two = found.values()
            os.kill(one.pid, signal.SIGKILL)
            told = await server.logged("is started again")
            assert f"process {one.pid} ended (signal 9)" in told
            await two.say(1)
            await until(lambda: one.resumed and one.heard == two.heard == [1])
            # Of what was sent to it alone nobody knows any more.
            assert [gap.room for gap in one.gaps] in ([], [""])
            assert not two.resumed
            async with members(server) as later:
                assert one.pid not in later
                assert two.pid in later
        assert (await server.end(signal.SIGINT))[0] == 0


async def test_a_second_ctrl_c_ends_all_at_once_and_without_a_trace(hall: Workspace) -> None:
    hall.compile()
    async with (
        hall.serving("--workers", "2", "--drain-delay", "600", "--log-level", "error") as server,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT):
            while (await http.get(f"{server.url}/health")).status_code == 200:
                await asyncio.sleep(0.05)
        server.process.send_signal(signal.SIGHUP)  # nothing is restarted any more
        _, told = await server.end(signal.SIGINT)
        assert told == ""


async def test_who_kills_the_first_process_leaves_nobody_behind(hall: Workspace) -> None:
    hall.edit(MANIFEST_FILE, '"health": True', '"metrics": True')
    hall.compile()
    figures = f"{hall.environment['TMPDIR']}/aquilia-metrics-*"
    async with hall.serving("--workers", "2", "--log-level", "critical") as server:
        everyone = descendants(server.process.pid)
        async with members(server) as found:
            assert set(found) < set(everyone)
            server.process.kill()
            for pid in everyone:
                await vanished(pid)
    (left,) = glob(figures)
    async with hall.serving("--workers", "2", "--log-level", "critical") as server:
        assert len(glob(figures)) == 1
        assert left not in glob(figures)
        assert (await server.end(signal.SIGTERM))[0] == 0
    assert glob(figures) == []


def test_the_figures_of_those_who_live_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "aquilia-metrics-of-somebody").mkdir()
    with shared_folder() as one, shared_folder() as two:
        assert one != two
        assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["aquilia-metrics-of-somebody"]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_it_serves_though_nobody_reads_what_it_says(hall: Workspace, workers: str) -> None:
    hall.compile()
    reading, writing = os.pipe()
    os.close(reading)
    with reserved_port() as port:
        process = await hall.start("--port", str(port), "--workers", workers, stdout=writing)
        os.close(writing)
        try:
            async with asyncio.timeout(PATIENCE), httpx.AsyncClient(trust_env=False) as http:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        assert (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200
                        break
                    await asyncio.sleep(0.1)
            if workers == "2":
                async with members(Server(process, sockets=[f"ws://127.0.0.1:{port}/hall/:name"])) as found:
                    assert all([await each.client.call("where", timeout=TIMEOUT) for each in found.values()])
        finally:
            process.send_signal(signal.SIGTERM)
            _, told = await process.communicate()
    assert process.returncode == 0, told.decode()


# Those that hang


@pytest.mark.parametrize(("event", "payload"), [("sleep", 600.0), ("match", None)])
async def test_a_worker_whose_event_loop_stands_still_is_replaced_and_says_where(
    hall: Workspace, event: str, payload: object
) -> None:
    hall.compile()
    async with hall.serving("--workers", "2", "--worker-timeout", "3", "--log-level", "error") as server:
        async with members(server) as found:
            one, two = found.values()
            await one.client.send(event, payload)
            assert "event loop has not turned for" in await server.logged(f"process {one.pid} is ended")
            await server.logged(f"in {event}")
            await server.logged(f"process {one.pid} ended (signal {signal.SIGABRT:d})")
            await until(lambda: one.resumed)
            await two.say(1)
            await until(lambda: one.heard == two.heard == [1])
            assert await two.client.call("where", timeout=TIMEOUT) == two.pid
            assert await one.client.call("where", timeout=TIMEOUT) != one.pid
        assert (await server.end(signal.SIGTERM))[0] == 0


async def test_a_worker_that_is_stopped_is_replaced(hall: Workspace) -> None:
    hall.compile()
    async with hall.serving("--workers", "2", "--worker-timeout", "3", "--log-level", "error") as server:
        async with members(server) as found:
            one, two = found.values()
            os.kill(one.pid, signal.SIGSTOP)
            await server.logged(f"process {one.pid} did not end, and is killed")
            await server.logged(f"process {one.pid} ended (signal {signal.SIGKILL:d})")
            await until(lambda: one.resumed)
            assert not two.resumed
        assert (await server.end(signal.SIGTERM))[0] == 0


async def test_a_worker_may_stand_still_where_nothing_is_said_against_it(hall: Workspace) -> None:
    hall.compile()
    async with hall.serving("--workers", "2", "--worker-timeout", "0", "--log-level", "error") as server:
        async with members(server) as found:
            for member in found.values():
                await member.client.call("sleep", 1.5, timeout=PATIENCE)
                assert await member.client.call("where", timeout=TIMEOUT) == member.pid
        assert await server.end(signal.SIGTERM) == (0, "")


async def test_who_was_asleep_takes_nobody_for_dead(hall: Workspace) -> None:
    hall.compile()
    async with hall.serving("--workers", "2", "--worker-timeout", "3", "--log-level", "error") as server:
        async with members(server) as found:
            everyone = [server.process.pid, *found]
            for pid in everyone:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(6)  # the time that they were away is what this is about
            for pid in everyone:
                os.kill(pid, signal.SIGCONT)
            for _ in range(2):
                for pid, member in found.items():
                    assert await member.client.call("where", timeout=PATIENCE) == pid
        assert (await server.end(signal.SIGTERM))[0] == 0


# Replacing them


async def test_sighup_replaces_all_workers_and_no_client_misses_or_hears_twice(hall: Workspace) -> None:
    hall.compile()
    async with hall.serving("--workers", "2", "--log-level", "warning") as server:
        before = set(descendants(server.process.pid))
        url = room(server)
        async with contextlib.AsyncExitStack() as clients:
            listeners = [Member(url) for _ in range(MANY)]
            for listener in listeners:
                await clients.enter_async_context(listener.client)
                await listener.enter()
            assert len({listener.pid for listener in listeners}) == 2
            speaker = Member(url)
            await clients.enter_async_context(speaker.client)
            stop = asyncio.Event()

            async def speak() -> int:
                number = 0
                while not stop.is_set():
                    number += 1
                    await speaker.say(number)
                    await asyncio.sleep(0.02)
                return number

            async def ask(answered: list[str]) -> None:
                async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
                    while not stop.is_set():
                        answer = await http.get(f"{server.url}/health", headers={"Connection": "close"})
                        answered.append(answer.json()["status"])

            answered: list[str] = []
            asking = [asyncio.create_task(ask(answered)) for _ in range(4)]
            speaking = asyncio.create_task(speak())
            await until(lambda: len(listeners[0].heard) > 5)
            server.process.send_signal(signal.SIGHUP)
            for pid in {listener.pid for listener in listeners}:
                await vanished(pid)
            await until(lambda: all(listener.resumed for listener in listeners))
            stop.set()
            last = await speaking
            await asyncio.gather(*asking)
            await until(lambda: all(listener.heard[-1] == last for listener in listeners))
            now = {await listener.client.call("where", timeout=PATIENCE) for listener in listeners}
        assert now.isdisjoint({listener.pid for listener in listeners})
        assert len(set(descendants(server.process.pid)) - before) == 2
        assert (await server.end(signal.SIGTERM))[0] == 0
    assert all(listener.heard == list(range(1, last + 1)) for listener in listeners)
    assert not any(listener.gaps for listener in listeners)
    assert answered.count("draining") <= len(asking)  # by who had been connected before
    assert set(answered) <= {"ready", "draining"}
    # Others serve: nobody waits for a boot, which takes a second at least; the rest is the spread.
    assert min(listener.asked[0].reconnect_in for listener in listeners) < 0.5
    assert max(listener.asked[0].reconnect_in for listener in listeners) <= 1.0


async def test_sighup_while_it_boots_does_not_end_it(hall: Workspace) -> None:
    hall.compile()
    process = await hall.start("--port", "0", "--workers", "2", "--log-level", "error")
    await until(lambda: descendants(process.pid))  # it checks the workspace
    process.send_signal(signal.SIGHUP)
    server = Server(process)
    await server.started()
    assert (await server.end(signal.SIGTERM))[0] == 0


async def test_workers_whose_successor_does_not_start_go_on(hall: Workspace) -> None:
    hall.environment["AQ_ENV"] = "development"
    async with hall.serving("--workers", "2", "--log-level", "error") as server:
        async with members(server) as found:
            one, _two = found.values()
            hall.write(HALL_FILE, HALL.replace("import os", "import oss"))
            server.process.send_signal(signal.SIGHUP)
            assert HALL_FILE in await server.logged("oss")
            await server.logged("the others go on as they are")
            await one.say(1)
            assert {await each.client.call("where", timeout=TIMEOUT) for each in found.values()} == set(found)
        assert (await server.end(signal.SIGTERM))[0] == 0


SHARED = """
import os, signal, socket
from pathlib import Path
from aquilia.server import boot, serve

seen = []

class Shared(socket.socket):
    def dup(self):
        copy = super().dup()
        seen.append(os.get_blocking(copy.fileno()))
        return copy

if __name__ == "__main__":
    listener = Shared()
    listener.bind(("127.0.0.1", 0))
    end = lambda: os.kill(os.getpid(), signal.SIGTERM)
    try:
        serve(boot(Path.cwd()).application, [listener], on_started=end)
    finally:
        print(set(seen))
"""


def test_a_worker_that_starts_never_blocks_the_socket_that_others_accept_from(compiled: Workspace) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHARED],
        cwd=compiled.root,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert done.stdout == "{False}\n"


# Refused


def test_problems_are_told_once_and_before_anything_starts(hall: Workspace) -> None:
    hall.write(HALL_FILE, HALL.replace("import os", "import oss"))
    told = hall.refused("serve", "--port", "0", "--workers", "2")
    assert told.count("No module named 'oss'") == 1
    assert "Traceback" not in told
    assert not (hall.root / ".aquilia").exists()


def test_an_application_that_was_not_compiled_is_refused_once(hall: Workspace) -> None:
    told = hall.refused("serve", "--port", "0", "--workers", "2")
    assert told.count("error: ") == 1
    assert ARTIFACT in told


def test_an_application_that_does_not_start_is_told_once(compiled: Workspace) -> None:
    compiled.edit(
        "modules/echo/controllers.py",
        "class Page(Controller):",
        "class Page(Controller):\n    async def on_startup(self) -> None: raise RuntimeError('no database')\n",
    )
    told = compiled.refused("serve", "--port", "0", "--workers", "2")
    assert "RuntimeError: no database" in told
    assert told.count("Traceback") == 1
    assert told.endswith("error: the application did not start\n")
    assert told.count("error: ") == 1


def test_rooms_in_the_memory_of_each_are_refused(hall: Workspace) -> None:
    hall.edit(MANIFEST_FILE, '"health": True', '"adapter_url": "memory://"')
    hall.compile()
    told = hall.refused("serve", "--port", "0", "--workers", "2")
    assert "adapter_url: memory:// is the memory of one process, and each of the 2 workers" in told


def test_sessions_in_the_memory_of_each_are_refused(hall: Workspace) -> None:
    hall.edit(MANIFEST_FILE, "controllers=[Hall]", "controllers=[Hall], sessions=SessionEngine()")
    hall.edit(
        MANIFEST_FILE, "from controllers", "from aquilia.sessions import SessionEngine\nfrom controllers"
    )
    hall.environment["AQ_SESSION_SECRET"] = "x7" * 20
    hall.compile()
    told = hall.refused("serve", "--port", "0", "--workers", "2")
    assert f"{MANIFEST_FILE}: sessions: MemorySessionStore is the memory of one process" in told


def test_without_a_server_to_run_several_workers_are_refused(hall: Workspace) -> None:
    hall.compile()
    hall.write("elsewhere/sitecustomize.py", "import sysconfig\nsysconfig.get_path = lambda *_: '/nowhere'\n")
    hall.environment |= {"PYTHONPATH": f"{hall.root / 'elsewhere'}:{Path.cwd()}", "PATH": "/nowhere"}
    told = hall.refused("serve", "--port", "0", "--workers", "2")
    assert "2 workers need a broker that they share" in told
    assert "pip install 'aquilia[local]'" in told


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--workers", "0"], "should be greater than or equal to 1"),
        (["--workers", "two"], "unable to parse string as an integer"),
        (["--workers", "2", "--worker-timeout", "nan"], "should be greater than or equal to 0"),
        (["--workers", "2", "--worker-timeout", "inf"], "--worker-timeout: a number of seconds"),
        (["--workers", "2", "--worker-timeout", "-1"], "should be greater than or equal to 0"),
        (["--workers", "2", "--worker-timeout", "0.5"], "0, or 1 and more is needed, not 0.5"),
        (["--workers", "1", "--worker-timeout", "5"], "is for several workers: add --workers"),
        (["--workers", "2", "--drain-delay", "inf"], "--drain-delay: a number of seconds"),
        (["--workers", "2", "--reload"], "--workers: --reload serves with one process"),
    ],
)
def test_a_number_that_cannot_be_served_is_refused(hall: Workspace, words: list[str], problem: str) -> None:
    told = " ".join(hall.refused("serve", *words, code=2).replace("│", " ").split())
    assert words[-2] in told or words[-1] in told
    assert problem in told
