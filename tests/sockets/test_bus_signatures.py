"""What nodes say to one another by a broker is signed where there is a secret, and nothing else is believed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats_server import NatsServer
from wire import eventually

from aquilia.clock import Clock
from aquilia.sockets import Publication
from aquilia.sockets.adapters import adapter_for
from aquilia.sockets.adapters.names import token
from aquilia.sockets.adapters.signing import Signer, bus_signer
from aquilia.sockets.adapters.stored import encode
from aquilia.sockets.history import History

HISTORY = History(size=100, ttl=60)
OLD, NEW = "old " + "q8Zr" * 8, "new " + "t3Ws" * 8


def publication(n: int) -> Publication:
    return Publication(id=f"p{n}", namespace="/a", event="e", payload=n, ts=n, room="r")


class Node:
    def __init__(self, url: str, secret: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AQ_WS_ADAPTER_URL", url)
        if secret is None:
            monkeypatch.delenv("AQ_WS_BUS_SECRET", raising=False)
        else:
            monkeypatch.setenv("AQ_WS_BUS_SECRET", secret)
        self.broker = adapter_for("nats", None, Clock()).broker
        self.got: list[object] = []
        self.foreign = 0
        self.broker.on_foreign = self._count

    def _count(self) -> None:
        self.foreign += 1

    @contextlib.asynccontextmanager
    async def running(self, history: History | None = None) -> AsyncIterator[Node]:
        await self.broker.start(lambda told: self.got.append(told.payload))
        try:
            await self.broker.subscribe("/a", "r", history)
            yield self
        finally:
            await self.broker.stop()


@pytest.mark.parametrize("history", [None, HISTORY], ids=["plain", "log"])
async def test_with_a_secret_nothing_else_is_believed(
    nats_server: NatsServer,
    history: History | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = nats_server.url()
    one, bare, other = (Node(url, secret, monkeypatch) for secret in (OLD, None, NEW))
    async with one.running(history), bare.running(history), other.running(history):
        for n, node in enumerate((bare, other, one)):
            await node.broker.publish(publication(n), history)
        for node, own in ((one, 2), (bare, 0), (other, 1)):
            await eventually(lambda node=node, own=own: (node.got, node.foreign) == ([own], 2))
        if history is not None:
            page = await one.broker.read("/a", "r", history)
            assert [told.payload for told in page.publications] == [2]
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 3, "each node says it once a minute"
    assert not any(secret in line for line in told for secret in (OLD, NEW))


async def test_a_secret_is_replaced_without_a_break(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = nats_server.url()
    one, two = Node(url, f"{OLD}, {NEW}", monkeypatch), Node(url, f"{NEW},{OLD}", monkeypatch)
    async with one.running(), two.running():
        await one.broker.publish(publication(1))
        await two.broker.publish(publication(2))
        for node in (one, two):
            await eventually(lambda node=node: sorted(map(str, node.got)) == ["1", "2"])


async def test_a_signature_is_of_one_kind_of_room_and_one_application(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = nats_server.url()
    prefix = url.rpartition("/")[2]
    node, signer, data = Node(url, OLD, monkeypatch), Signer([OLD.encode()]), encode(publication(1))
    sound = signer.sign(data, prefix, "plain")
    wrong = [
        signer.sign(data, prefix, "log"),
        signer.sign(data, "another", "plain"),
        sound[:-1] + b"\x02",
        sound[:20] + bytes([sound[20] ^ 1]) + sound[21:],
        sound[:10],
        data,
        b"",
    ]
    async with node.running():
        bus = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
        for forged in (*wrong, sound):
            await bus.publish(f"{prefix}.plain.{token('/a')}.{token('r')}", forged)
        await bus.flush()
        await eventually(lambda: (node.got, node.foreign) == ([1], len(wrong)))
        await bus.close()


def test_secrets_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AQ_WS_BUS_SECRET", raising=False)
    assert bus_signer() is None
    file = tmp_path / "secrets"
    file.write_text(f"{NEW}\n\n{OLD}\n")
    monkeypatch.setenv("AQ_WS_BUS_SECRET_FILE", str(file))
    signer = bus_signer()
    assert signer is not None
    for secret in (OLD, NEW):
        assert signer.verified(Signer([secret.encode()]).sign(b"x", "app", "log"), "app", "log") == b"x"


@pytest.mark.parametrize(
    ("secret", "file", "told"),
    [
        ("short", None, "AQ_WS_BUS_SECRET: secret 1 has 5 bytes, and 32 are needed"),
        (f"{OLD},word", None, "secret 2 has 4 bytes"),
        (" , ", None, "there is no secret in it"),
        (OLD, "present", "both set"),
        ("", "absent", "it cannot be read"),
        ("", "empty", "there is no secret in it"),
        ("", "binary", "it is no text"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_at_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, file: str | None, told: str
) -> None:
    (tmp_path / "present").write_text(NEW)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    monkeypatch.setenv("AQ_WS_BUS_SECRET", secret)
    monkeypatch.setenv("AQ_WS_BUS_SECRET_FILE", str(tmp_path / file) if file else "")
    monkeypatch.setenv("AQ_WS_ADAPTER_URL", "nats://127.0.0.1:4222")
    with pytest.raises(ValueError, match=told) as refused:
        adapter_for("nats", None, Clock())
    assert "word" not in str(refused.value)
