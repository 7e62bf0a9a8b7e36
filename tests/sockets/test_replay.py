"""`aq ws replay`: what a room remembers, read from a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from nats_server import NatsServer

from aquilia.clock import Clock
from aquilia.sockets import History, Publication
from aquilia.sockets.adapters import adapter_for
from aquilia.sockets.adapters.local import LocalAdapter

HISTORY = History(size=50, ttl=300)
KEPT: dict[str, str] = {}
"""What else the environment of `aq` has."""
WORKSPACE = """
from aquilia import AppManifest
from aquilia.sockets import History, Socket, SocketController

print("on the way")

@Socket("/hall/:name", history={"kept*": History(size=50, ttl=300)})
class Hall(SocketController):
    pass

manifest = AppManifest("hall", controllers=[Hall])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "manifest.py").write_text(WORKSPACE)
    return tmp_path


def aq(
    folder: Path, *words: str, url: str | None = None, answer: str = ""
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AQ_")}
    environment = {**kept, **KEPT} if url is None else {**kept, **KEPT, "AQ_WS_ADAPTER_URL": url}
    return subprocess.run(
        [sys.executable, "-m", "aquilia.cli", "ws", "replay", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        input=answer,
        text=True,
        check=False,
        timeout=30,
    )


async def remember(url: str, *payloads: object) -> list[str]:
    """Publish to the room as a server would; the positions."""
    os.environ["AQ_WS_ADAPTER_URL"] = url
    try:
        broker = adapter_for("nats", None, Clock()).broker
    finally:
        del os.environ["AQ_WS_ADAPTER_URL"]
    await broker.start(lambda publication: None)
    places = []
    for payload in payloads:
        told = Publication(
            id=uuid4().hex, namespace="/hall/a", event="said", payload=payload, ts=1000, room="kept"
        )
        place = await broker.publish(told, HISTORY)
        assert place is not None
        places.append(f"{place.epoch}:{place.offset}")
    await broker.stop()
    return places


def shown(folder: Path, url: str, *words: str) -> list[object]:
    done = aq(folder, "/hall/a", "kept", "--format", "json", *words, url=url)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["namespace"], told["room"]) == ("/hall/a", "kept")
    return [message["payload"] for message in told["messages"]]


async def test_a_room_is_printed_and_what_is_behind_a_position(folder: Path, nats_server: NatsServer) -> None:
    url = nats_server.url()
    places = await remember(url, {"n": 1}, "zwei", 3)

    text = aq(folder, "/hall/a", "kept", url=url)

    assert text.stdout.splitlines() == [
        f'{places[0]}  1970-01-01T00:00:01.000Z  said  {{"n":1}}',
        f'{places[1]}  1970-01-01T00:00:01.000Z  said  "zwei"',
        f"{places[2]}  1970-01-01T00:00:01.000Z  said  3",
    ]
    assert "on the way" in text.stderr
    assert shown(folder, url) == [{"n": 1}, "zwei", 3]
    assert shown(folder, url, "--limit", "2") == ["zwei", 3]
    assert shown(folder, url, f"--since={places[0]}", "--limit", "1") == ["zwei"]


async def test_a_room_on_this_machine_is_read_while_it_is_served_and_when_it_is_not(folder: Path) -> None:
    url = f"local://{folder}/kept"
    assert shown(folder, url) == []
    serving = LocalAdapter(url)
    got: asyncio.Queue[Publication] = asyncio.Queue()
    await serving.broker.start(got.put_nowait)
    try:
        await serving.broker.subscribe("/hall/a", "kept", HISTORY)
        told = Publication(id="1", namespace="/hall/a", event="said", payload=1, ts=1000, room="kept")
        await serving.broker.publish(told, HISTORY)
        assert await asyncio.to_thread(shown, folder, url) == [1]
        done = await asyncio.to_thread(aq, folder, "/hall/a", "kept", "--send", "--yes", url=url)
        assert done.returncode == 0, done.stderr
        assert [(await asyncio.wait_for(got.get(), 5)).payload for _ in range(2)] == [1, 1]
    finally:
        await serving.broker.stop()
    assert await asyncio.to_thread(shown, folder, url) == [1, 1]


async def test_what_is_sent_again_is_new(folder: Path, nats_server: NatsServer) -> None:
    url = nats_server.url()
    await remember(url, 1, 2)

    refused = aq(folder, "/hall/a", "kept", "--send", url=url, answer="n\n")
    assert refused.returncode == 1
    assert "send 2 messages to 'kept' of /hall/a again?" in refused.stderr
    assert shown(folder, url) == [1, 2]

    assert aq(folder, "/hall/a", "kept", "--send", url=url, answer="y\n").returncode == 0
    assert aq(folder, "/hall/a", "kept", "--limit", "1", "--send", "--yes", url=url).returncode == 0
    assert shown(folder, url) == [1, 2, 1, 2, 2]


async def test_a_position_of_another_life_is_refused(folder: Path, nats_server: NatsServer) -> None:
    url = nats_server.url()
    await remember(url, 1)
    done = aq(folder, "/hall/a", "kept", "--since", "other:3", url=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not all that came behind other:3 is in the log" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["/hall/a", "kept"], 1, "dies with that"),
        (["/hall/a", "kept"], 1, "to local:// on one machine, or to nats://HOST:PORT"),
        (["/hall/a", "other"], 1, "keeps no history"),
        (["/hal/a", "kept"], 1, "no controller serves the namespace '/hal/a'"),
        (["/hall/a", "kept", "--since", "7"], 2, "EPOCH:OFFSET"),
        (["/hall/a", "kept", "--limit", "0"], 2, "limit"),
    ],
)
def test_what_cannot_be_read_is_told(folder: Path, words: list[str], code: int, told: str) -> None:
    done = aq(folder, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in " ".join(done.stderr.split())


def test_a_broker_that_cannot_be_reached_is_told_without_its_password(
    folder: Path, nats_server: NatsServer
) -> None:
    done = aq(folder, "/hall/a", "kept", url="nats://ada:s3cret@127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_signed_room_is_read_by_who_has_the_secret(
    folder: Path, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, secret = nats_server.url(), "a secret of this test that is long enough"
    monkeypatch.setenv("AQ_WS_BUS_SECRET", secret)
    await remember(url, 1, 2)
    assert shown(folder, url) == [], "aq is run without it"
    monkeypatch.setattr(sys.modules[__name__], "KEPT", {"AQ_WS_BUS_SECRET": secret})
    assert shown(folder, url) == [1, 2]
