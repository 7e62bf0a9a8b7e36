"""A store apart from the broker: what each of the two does, what is told when one is away, and what needs a store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from door import Complaints
from nats_server import NatsServer
from redis_servers import RedisServer
from shared_hall import Hall, application, heard
from wire import Client, eventually, serving

from aquilia import AppManifest, JWTAuthManager
from aquilia.aquilary import BootError, Registry
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    InMemoryAdapter,
    Socket,
    SocketController,
    SocketFault,
)
from aquilia.sockets.adapters.apart import NoStore, PairedAdapter
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.testing.adapters import AdapterContract, MakeAdapter

pytestmark = pytest.mark.usefixtures("no_store_of_the_environment")


@pytest.fixture
def no_store_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AQ_WS_STORE_URL", raising=False)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[NatsServer]:
    """A server for stores, which tests may kill."""
    server = NatsServer(tmp_path / "keeper")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def urls(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Those of a broker and a store on two servers."""
    server = NatsServer(tmp_path_factory.mktemp("store"))
    yield nats_server.url(), server.url()
    server.kill()


class TestABrokerAndAStoreOfTwoServers(AdapterContract):
    @pytest.fixture
    def make_adapter(self, urls: tuple[str, str]) -> MakeAdapter:
        return lambda: PairedAdapter(*(NatsAdapter(url) for url in urls))


# What a client sees of it


async def came_back(here: str, there: str) -> bool:
    """Whether a client of the one node comes back to its session on the other."""
    async with Client.connect(f"{here}/hall", "v1.json") as client:
        await client.request("enter")
        token = client.welcome["payload"].get("resume")
        client.socket.transport.abort()
    if token is None:
        return False
    async with Client.connect(f"{there}/hall", "v1.json", hello=False) as again:
        await again.send("hello", {"resume": {"token": token}}, type="control")
        await again.expect("welcome")
        return "hall" in (await again.expect("resumed"))["payload"].get("rooms", {})


async def test_sessions_are_in_the_store_and_publications_in_the_broker(
    nats_server: NatsServer, keeper: NatsServer
) -> None:
    url, kept = nats_server.url(), keeper.url()
    nodes = [application(adapter_url=url, store_url=kept) for _ in range(2)]
    assert await heard(*nodes) == "hello"
    async with serving(nodes[0]) as one, serving(nodes[1]) as two:
        assert await came_back(one, two)

    # One broker without the other's store, and one store without the other's broker.
    elsewhere = application(adapter_url=url, store_url=keeper.url())
    deaf = application(adapter_url=nats_server.url(), store_url=kept)
    async with serving(nodes[0]) as one, serving(elsewhere) as two, serving(deaf) as three:
        async with (
            Client.connect(f"{one}/hall", "v1.json") as ann,
            Client.connect(f"{two}/hall", "v1.json") as bob,
        ):
            for client in (ann, bob):
                await client.request("enter")
            await ann.request("say", 1)
            assert (await bob.expect("said"))["payload"] == 1
        assert await came_back(one, three)


async def test_an_application_that_is_alone_may_keep_what_it_stores(keeper: NatsServer) -> None:
    kept = keeper.url()
    async with serving(application(store_url=kept)) as one, serving(application(store_url=kept)) as two:
        assert await came_back(one, two)


@pytest.mark.parametrize("around", [False, True], ids=["a-redis-for-a-nats", "a-nats-for-a-redis"])
async def test_the_two_may_be_of_two_kinds(
    nats_server: NatsServer, redis_server: RedisServer, around: bool
) -> None:
    url, kept = nats_server.url(), redis_server.url()
    if around:
        url, kept = kept, url
    nodes = [application(adapter_url=url, store_url=kept) for _ in range(2)]
    assert await heard(*nodes) == "hello"
    async with serving(nodes[0]) as one, serving(nodes[1]) as two:
        assert await came_back(one, two)


async def test_the_environment_wins_over_the_setting(
    keeper: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQ_WS_STORE_URL", keeper.url())
    nodes = application(store_url="nats://127.0.0.1:1"), application()
    async with serving(nodes[0]) as one, serving(nodes[1]) as two:
        assert await came_back(one, two)


async def test_the_broker_s_own_url_is_no_second_adapter(nats_server: NatsServer) -> None:
    url = nats_server.url()
    app = application(adapter_url=url, store_url=url)
    assert isinstance(app._adapter, NatsAdapter)


async def test_an_adapter_that_was_given_has_the_store_of_the_settings(
    nats_server: NatsServer, keeper: NatsServer
) -> None:
    manifest = AppManifest("hall", controllers=[Hall], websockets={"store_url": keeper.url()})
    nodes = [
        AquilaSockets(Registry.build([manifest]), adapter=NatsAdapter(nats_server.url())) for _ in range(2)
    ]
    async with serving(nodes[0]) as one, serving(nodes[1]) as two:
        assert await came_back(one, two)


# What cannot be


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://ada:s3/cret@h", "store_url: one login is accepted"),
        ("nats://ada:s3cret@h:x", "store_url: the port, behind the host"),
        ("local://folder", "store_url: local://folder: a folder is written with its whole path"),
        (
            "memory://",
            "store_url: memory:// is the memory of one process, and the nodes that share the broker",
        ),
    ],
)
def test_a_store_that_cannot_be_taken_is_refused_at_boot(url: str, told: str) -> None:
    with pytest.raises(BootError) as refused:
        application(adapter_url="nats://h", store_url=url)
    assert told in str(refused.value)
    assert "cret" not in str(refused.value)


def test_a_wrong_url_of_the_environment_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQ_WS_STORE_URL", "nat://ada:s3cret@h")
    with pytest.raises(
        BootError, match=r"AQ_WS_STORE_URL: it is none of memory://.*did you mean nats://"
    ) as refused:
        application()
    assert "s3cret" not in str(refused.value)


async def test_a_store_in_memory_is_that_of_an_application_in_memory() -> None:
    assert await heard_alone(application(store_url="memory://")) == "hello"


async def heard_alone(app: AquilaSockets) -> Any:
    async with serving(app) as base, Client.connect(f"{base}/hall", "v1.json") as client:
        await client.request("enter")
        await client.send("say", "hello")
        return (await client.expect("said"))["payload"]


async def test_a_store_that_is_not_there_is_told_at_start_and_nothing_is_left_open(
    nats_server: NatsServer, keeper: NatsServer
) -> None:
    kept = keeper.url()
    keeper.kill()
    app = application(adapter_url=nats_server.url(), store_url=kept)
    with pytest.raises(SocketFault) as refused:
        await app.startup()
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    assert refused.value.message.startswith(f"store_url: NATS at nats://127.0.0.1:{keeper.port}")
    await app.services.aclose()
    keeper.start()
    async with serving(app) as base:
        assert await came_back(base, base)


async def test_a_broker_that_is_not_there_leaves_no_store_open(keeper: NatsServer) -> None:
    pair = PairedAdapter(NatsAdapter("nats://127.0.0.1:1"), NatsAdapter(keeper.url()))
    with pytest.raises(SocketFault, match=r"WS_ADAPTER_UNAVAILABLE: NATS at nats://127\.0\.0\.1:1 "):
        await pair.broker.start(lambda publication: None)
    with pytest.raises(SocketFault, match="WS_ADAPTER_UNAVAILABLE"):
        await pair.store.get("k")
    await pair.broker.stop()


async def test_a_start_that_is_given_up_leaves_no_store_open(
    nats_server: NatsServer, keeper: NatsServer
) -> None:
    pair = PairedAdapter(NatsAdapter(nats_server.url()), NatsAdapter(keeper.url()))
    broker, keeping = pair.broker._broker, pair.broker._keeper
    reached = asyncio.Event()
    connect = broker.start

    async def start(deliver: Any) -> None:
        reached.set()
        await asyncio.Event().wait()
        await connect(deliver)

    broker.start = start  # type: ignore[method-assign]
    starting = asyncio.create_task(pair.broker.start(lambda publication: None))
    await reached.wait()
    assert keeping.connected
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    with pytest.raises(SocketFault, match="WS_ADAPTER_UNAVAILABLE"):
        await pair.store.get("k")


# A store that goes away


@contextlib.asynccontextmanager
async def probed(app: AquilaSockets) -> AsyncIterator[tuple[str, Any]]:
    """Where an application is served, and what waits until its health has all this."""
    async with serving(app) as base, httpx.AsyncClient(trust_env=False) as http:

        async def healthy(code: int, body: dict[str, Any], *, without: str = "") -> None:
            async with asyncio.timeout(15):
                while True:
                    answer = await http.get(f"http{base[2:]}/health")
                    told = answer.json()
                    if answer.status_code == code and body.items() <= told.items() and without not in told:
                        return
                    await asyncio.sleep(0.02)

        yield base, healthy


async def test_a_store_that_is_away_keeps_nobody_out_and_is_told(
    nats_server: NatsServer, keeper: NatsServer, complaints: Complaints
) -> None:
    app = application(adapter_url=nats_server.url(), store_url=keeper.url(), health="/health")
    async with probed(app) as (base, healthy):
        await healthy(200, {"status": "ready"}, without="store")
        async with Client.connect(f"{base}/hall", "v1.json") as ann:
            await ann.request("enter")
            keeper.kill()
            await healthy(200, {"status": "ready", "store": "unreachable"})
            assert app.cluster.trouble is None
            async with Client.connect(f"{base}/hall", "v1.json") as bob:
                assert "resume" not in bob.welcome["payload"]
                await ann.send("say", 1)
                assert (await ann.expect("said"))["payload"] == 1
            keeper.start()
            await healthy(200, {"status": "ready"}, without="store")
        assert await came_back(base, base)
    assert complaints.take()


async def test_what_needs_the_store_fails_while_it_is_away_and_works_again_afterwards(
    nats_server: NatsServer, keeper: NatsServer, complaints: Complaints
) -> None:
    settings = {"adapter_url": nats_server.url(), "store_url": keeper.url()}
    app = AquilaSockets.from_controllers([Hall, Once], **settings)
    async with serving(app) as base, Client.connect(f"{base}/once", "v1.json") as payer:
        async with Client.connect(f"{base}/hall", "v1.json") as ann:
            token = ann.welcome["payload"]["resume"]
        keeper.kill()
        await eventually(lambda: app.cluster.store_trouble == "unreachable")
        answer = await payer.request("pay", 1)
        assert answer["error"]["code"] == "WS_ADAPTER_UNAVAILABLE"
        async with Client.connect(f"{base}/hall", "v1.json", hello=False) as again:
            await again.send("hello", {"resume": {"token": token}}, type="control")
            assert (await again.closed())[0] == 1013
        keeper.start()
        await eventually(lambda: app.cluster.store_trouble is None)
        assert (await payer.request("pay", 2))["data"] == 2
        assert await came_back(base, base)
    complaints.take()


async def test_where_new_clients_are_looked_up_in_it_none_are_sent_while_it_is_away(
    nats_server: NatsServer, keeper: NatsServer, complaints: Complaints
) -> None:
    app = application(
        adapter_url=nats_server.url(), store_url=keeper.url(), health="/health", revocation=True
    )
    async with probed(app) as (_, healthy):
        await healthy(200, {"status": "ready"})
        keeper.kill()
        await healthy(503, {"status": "store_lost", "reason": "unreachable"})
        keeper.start()
        await healthy(200, {"status": "ready"}, without="store")
    complaints.take()


async def test_a_broker_that_is_away_is_told_as_ever(
    nats_server: NatsServer, keeper: NatsServer, complaints: Complaints
) -> None:
    app = application(adapter_url=keeper.url(), store_url=nats_server.url(), health="/health")
    async with probed(app) as (base, healthy), Client.connect(f"{base}/hall", "v1.json") as ann:
        await ann.request("enter")
        keeper.kill()
        await healthy(503, {"status": "broker_lost", "reason": "unreachable"})
        keeper.start()
        await healthy(200, {"status": "ready"}, without="store")
        assert (await ann.expect("gap"))["payload"]["cause"] == "broker_lost"
    complaints.take()


async def test_an_admin_sees_which_of_the_two_is_away(
    nats_server: NatsServer,
    keeper: NatsServer,
    complaints: Complaints,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AQ_ADMIN_SECRET", "the-secret-of-an-admin-of-32-bytes")
    app = application(adapter_url=nats_server.url(), store_url=keeper.url(), admin=True)

    async def inspected(base: str) -> tuple[int, dict[str, Any], str]:
        url = base.replace("ws://", "http://")
        pipe = asyncio.subprocess.PIPE
        command = ["-m", "aquilia.cli", "ws", "inspect", "--live", "--url", url, "--json"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=tmp_path, stdout=pipe, stderr=pipe
        )
        shown, told = await process.communicate()
        return process.returncode or 0, json.loads(shown), told.decode()

    async with serving(app) as base:
        code, shown, told = await inspected(base)
        assert (code, shown["broker"], shown["store"], told) == (0, "connected", "connected", "")
        keeper.kill()
        await eventually(lambda: app.cluster.store_trouble == "unreachable")
        code, shown, told = await inspected(base)
        assert (code, shown["broker"], shown["store"]) == (2, "connected", "unreachable")
        assert told.startswith("the store is unreachable from the node that was asked")
        keeper.start()
        await eventually(lambda: app.cluster.store_trouble is None)
    complaints.take()


# An adapter without a store


class Storeless:
    """A broker of one process, as somebody may write it who has no store."""

    has_store = False

    def __init__(self) -> None:
        self.broker = InMemoryAdapter().broker
        self.store = NoStore()


@Socket("/plain", resume=False)
class Plain(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: int) -> int:
        return payload


@Socket("/once", resume=False)
class Once(SocketController):
    @Event("pay", delivery="effectively_once")
    async def pay(self, conn: Connection, payload: int) -> int:
        return payload


def storeless(*controllers: type, **settings: Any) -> AquilaSockets:
    auth = JWTAuthManager("a secret of 32 bytes, or of more")
    manifest = AppManifest("plain", controllers=controllers, auth=auth, websockets=settings)
    return AquilaSockets(Registry.build([manifest]), adapter=Storeless())


async def test_what_needs_no_store_is_served_without_one() -> None:
    async with serving(storeless(Plain)) as base, Client.connect(f"{base}/plain", "v1.json") as client:
        assert "resume" not in client.welcome["payload"]
        assert (await client.request("echo", 7))["data"] == 7


@pytest.mark.parametrize(
    ("controllers", "settings", "told"),
    [
        ([Hall, Plain], {}, "clients of /hall come back to their sessions (unless they say resume=False)"),
        ([Once], {}, 'delivery="effectively_once" remembers answers (pay of /once)'),
        ([Plain], {"revocation": True}, "the setting revocation"),
        ([Plain], {"tickets": True}, "the setting tickets"),
        ([Plain], {"identity_rate_limit": 5}, "the setting identity_rate_limit"),
        (
            [Plain],
            {"identity_byte_rate_limit": 5, "revocation": True},
            "the settings revocation and identity_byte_rate_limit",
        ),
    ],
    ids=["sessions", "once", "revocation", "tickets", "rate", "two-settings"],
)
def test_what_needs_a_store_is_refused_by_name(
    controllers: list[type], settings: dict[str, Any], told: str, keeper: NatsServer
) -> None:
    with pytest.raises(BootError) as refused:
        storeless(*controllers, **settings)
    assert f"it has no store, and this application needs one: {told}. Name that of" in str(refused.value)
    assert "store_url" in str(refused.value)
    storeless(*controllers, **settings, store_url=keeper.url())


def test_all_that_needs_a_store_is_told_at_once() -> None:
    with pytest.raises(BootError) as refused:
        storeless(Hall, Once, tickets=True)
    for told in ("clients of /hall", "pay of /once", "the setting tickets"):
        assert told in str(refused.value)


async def test_an_adapter_without_a_store_has_that_of_another(keeper: NatsServer) -> None:
    async with serving(storeless(Hall, store_url=keeper.url())) as base:
        assert await came_back(base, base)


async def test_a_store_that_is_none_says_what_to_do() -> None:
    store = NoStore()
    calls = [
        store.get("k"),
        store.put("k", b"v"),
        store.compare_and_swap("k", None, b"v"),
        store.get_and_delete("k"),
    ]
    for call in calls:
        with pytest.raises(
            SocketFault, match=r"WS_ADAPTER_UNAVAILABLE: this adapter has no store: .* store_url"
        ):
            await call
