"""The URL of the Kafka adapter, its TLS and its logins, and what is refused when an application starts."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from kafka_server import KafkaServer
from ports import reserved_port

from aquilia.sockets import AdapterOptions, Publication, SocketFault
from aquilia.sockets.adapters.kafka import KafkaAdapter
from aquilia.sockets.adapters.kafka.url import Target
from aquilia.sockets.adapters.schemes import entry_point_of
from aquilia.sockets.history import History


async def refusal(url: str) -> str:
    """What is said where an application cannot start."""
    broker = KafkaAdapter(url).broker
    with pytest.raises(SocketFault) as refused:
        await broker.start(lambda publication: None)
    await broker.stop()
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    return str(refused.value)


async def goes(url: str) -> None:
    """A publication there and back, in a plain room and through a log."""
    broker = KafkaAdapter(url).broker
    got: list[object] = []
    await broker.start(lambda found: got.append(found.payload))
    for n, history in enumerate((None, History())):
        await broker.subscribe("/a", f"r{n}", history)
        await broker.publish(
            Publication(id="x", namespace="/a", event="e", payload=n, ts=1, room=f"r{n}"), history
        )
    async with asyncio.timeout(10):
        while sorted(got, key=str) != [0, 1]:
            await asyncio.sleep(0.01)
    await broker.stop()


# URLs


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("kafkas://host", "it begins with kafka:// or kafka\\+ssl://"),
        ("kafka://", r"there is no host\[:port\]"),
        ("kafka://host:0", "a number from 1 to 65535"),
        ("kafka://host:secret", "a number from 1 to 65535"),
        ("kafka://h,h", "h:9092 is named twice"),
        ("kafka://host/a.b", "the prefix, behind the host, is 'a.b'"),
        ("kafka://host?partition=3", "did you mean partitions"),
        ("kafka://host?partitions=0", "partitions: a number from 1 to 1000 is needed, not '0'"),
        ("kafka://host?partitions=1001", "partitions: a number from 1 to 1000"),
        ("kafka://host?replicas=x", "replicas: a number from 1 to 100"),
        ("kafka://host?retention=-5", "retention: a number from 1"),
        ("kafka://host?ca=f", r"write kafka\+ssl:// in the place"),
        ("kafka+ssl://host?key=f", "name it with cert=FILE"),
        ("kafka://u:p@host?mechanism=scram-sha-512", "did you mean SCRAM-SHA-512"),
        ("kafka://host?mechanism=PLAIN", "the option mechanism is for a login"),
        ("kafka://u@host", "there is no password behind the user"),
        ("kafka://:p@host", "there is no user before the password"),
        ("kafka://host?password_file=f", "password_file needs a user, without a password"),
        ("kafka://u:p@host?password_file=f", "password_file needs a user, without a password"),
        ("kafka://u:p@h@host", "one login is accepted"),
    ],
)
def test_a_wrong_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        KafkaAdapter(url)
    assert "secret" not in str(refused.value)


def test_an_url_says_where_and_who() -> None:
    target = Target.parse(
        "kafka+ssl://a%40b:p%2Fw@one,kafka+ssl://two:9093/app?partitions=4&replicas=2&ca=/f"
    )
    assert target.servers == (("one", 9092), ("two", 9093))
    assert (target.prefix, target.partitions, target.replicas, target.tls) == ("app", 4, 2, True)
    assert (target.user, target.password) == ("a@b", "p/w")
    assert "p/w" not in repr(target)
    assert str(target) == "one:9092,two:9093"


def test_the_scheme_leads_to_the_adapter() -> None:
    for url in ("kafka://host:9092/app", "kafka+ssl://host:9092/app"):
        assert isinstance(entry_point_of(url).load()(url, AdapterOptions()), KafkaAdapter)


def test_without_aiokafka_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    with pytest.raises(ValueError, match=r"pip install 'aquilia\[kafka\]'"):
        KafkaAdapter("kafka://host")


# Brokers that will not do


async def test_a_broker_that_is_not_there_is_refused_at_boot() -> None:
    with reserved_port() as port:
        told = await refusal(f"kafka://127.0.0.1:{port}")
    assert f"Kafka at 127.0.0.1:{port} cannot be reached" in told
    assert "is the broker running" in told


async def test_of_several_hosts_one_that_answers_is_enough(kafka_server: KafkaServer) -> None:
    with reserved_port() as port:
        await goes(kafka_server.url().replace("127.0.0.1", f"127.0.0.1:{port},127.0.0.1", 1))


async def test_what_is_no_kafka_is_refused_at_boot() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    told = await refusal(f"kafka://127.0.0.1:{port}")
    server.close()
    assert "ends the connection; it may ask for TLS: write kafka+ssl://, or for a login" in told


async def test_too_few_partitions_are_refused_at_boot(kafka_server: KafkaServer) -> None:
    url = kafka_server.url()
    await goes(f"{url}?partitions=2")
    told = await refusal(f"{url}?partitions=3")
    assert "has 2 partitions, and 3 are needed" in told
    assert "--partitions 3" in told


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("message.timestamp.type=CreateTime", "--add-config message.timestamp.type=LogAppendTime"),
        ("cleanup.policy=compact", "--add-config cleanup.policy=delete"),
    ],
)
async def test_a_log_that_cannot_be_replayed_is_refused_at_boot(
    kafka_server: KafkaServer, setting: str, told: str
) -> None:
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    url = kafka_server.url()
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{kafka_server.port}")
    await admin.start()
    name, _, value = setting.partition("=")
    await admin.create_topics([NewTopic(f"{url.rpartition('/')[2]}.log", 16, 1, topic_configs={name: value})])
    await admin.close()
    assert told in await refusal(url)


@pytest.fixture(scope="module")
def locked() -> Iterator[KafkaServer]:
    """A broker that asks for a login. Nobody has one: Tansu keeps them in its storage, which is empty."""
    server = KafkaServer("--authentication")
    yield server
    server.close()


async def test_a_login_that_is_refused_is_told_at_boot_and_not_shown(
    locked: KafkaServer, tmp_path: Path
) -> None:
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        told = await refusal(locked.url(login="ada:hush@", options=f"mechanism={mechanism}"))
        assert f"refuses the login of 'ada' by {mechanism}" in told
        assert "hush" not in told
    file = tmp_path / "password"
    file.write_text("hush\n")
    told = await refusal(locked.url(login="ada@", options=f"mechanism=SCRAM-SHA-512&password_file={file}"))
    assert "refuses the login" in told
    assert "for a login" in await refusal(locked.url())
    assert "another login than by PLAIN" in await refusal(locked.url(login="ada:hush@"))


async def test_a_mechanism_that_the_broker_has_not_is_told_at_boot(kafka_server: KafkaServer) -> None:
    told = await refusal(kafka_server.url(login="ada:hush@"))
    assert "does not take a login by PLAIN: name another one" in told


async def test_a_password_file_that_is_not_there_is_told_at_boot(kafka_server: KafkaServer) -> None:
    told = await refusal(kafka_server.url(login="ada@", options="password_file=/nowhere"))
    assert "password_file=/nowhere: the file cannot be read" in told


# TLS, which is ended before the broker: Tansu's own cannot be told both certificate and key


class Papers:
    """A CA, and what it has signed, in files."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.client = folder / "client.pem"
        self.authority.issue_cert("ada@example.com").private_key_and_cert_chain_pem.write_to_path(
            str(self.client)
        )

    def context(self, *names: str, asks: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*names).configure_cert(context)
        if asks:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


@contextlib.asynccontextmanager
async def behind_tls(context: ssl.SSLContext) -> AsyncIterator[str]:
    """Host and port of a broker that is spoken to in TLS."""
    server = KafkaServer()
    links: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        links.add(task)
        from_there, there = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            await asyncio.gather(copy(reader, there), copy(from_there, writer))
        except OSError:
            pass  # an end has gone
        finally:
            writer.transport.abort()
            there.transport.abort()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
        target.close()

    front = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    server.kill()
    server.advertised = front.sockets[0].getsockname()[1]
    server.start()
    try:
        yield f"127.0.0.1:{server.advertised}"
    finally:
        front.close()
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        server.close()


async def test_tls_is_spoken_with_a_broker_whose_certificate_the_named_ca_signed(papers: Papers) -> None:
    async with behind_tls(papers.context("127.0.0.1")) as where:
        await goes(f"kafka+ssl://{where}/app?ca={papers.ca}")
        assert "name the file of its CA, as in ?ca=FILE" in await refusal(f"kafka+ssl://{where}/app")


async def test_a_certificate_for_another_name_is_told(papers: Papers) -> None:
    async with behind_tls(papers.context("elsewhere.example")) as where:
        told = await refusal(f"kafka+ssl://{where}/app?ca={papers.ca}")
    assert "its certificate is" in told


async def test_a_broker_may_ask_for_a_certificate(papers: Papers) -> None:
    async with behind_tls(papers.context("127.0.0.1", asks=True)) as where:
        await goes(f"kafka+ssl://{where}/app?ca={papers.ca}&cert={papers.client}")
        await refusal(f"kafka+ssl://{where}/app?ca={papers.ca}")


async def test_a_broker_that_is_too_old_is_told_at_boot(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That this one has all that is needed is what the other tests show; so more is asked of it than there is."""
    from aquilia.sockets.adapters.kafka import link

    monkeypatch.setattr(link, "_NEEDED", [(link.FetchRequest, 99)])
    told = await refusal(kafka_server.url())
    assert "does not speak what Aquilia needs (IncompatibleBrokerVersion: FetchRequest of version" in told
    assert "Kafka 1.0 or later is needed" in told
