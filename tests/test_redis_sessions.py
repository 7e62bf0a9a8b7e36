"""Sessions in a real Redis, alone and as a cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py
from http_app import client_of
from redis_servers import RedisServer
from session_pages import SECRET, serving, shown
from session_servers import PASSWORD, OfTwoProcesses, redis
from session_store_contract import BOUND, PassTime

from aquilia import Fault, RedisSessionStore, SessionEngine


@pytest.fixture(scope="module")
def alone() -> Iterator[RedisServer]:
    with redis("--requirepass", PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    with redis("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf") as server:
        with redis_py.Redis(port=server.port) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            while client.cluster("INFO")["cluster_state"] != "ok":  # bounded by the test's time
                pass
        yield server


def url(server: RedisServer) -> str:
    return f"redis://:{PASSWORD}@127.0.0.1:{server.port}/3"


class _OnRedis(OfTwoProcesses):
    @pytest.fixture
    def pair(self, place: tuple[str, bool]) -> list[RedisSessionStore]:
        where, is_cluster = place
        return [RedisSessionStore(where, cluster=is_cluster, max_session_size=BOUND) for _ in range(2)]

    @pytest.fixture
    def pass_time(self, place: tuple[str, bool]) -> PassTime:
        async def pass_time(seconds: float) -> None:
            with redis_py.Redis.from_url(place[0]) as client:
                for key in client.keys("aquilia:session:*"):
                    client.pexpire(key, max(0, client.pttl(key) - int(seconds * 1000)))

        return pass_time

    @pytest.fixture(autouse=True)
    def emptied(self, place: tuple[str, bool]) -> None:
        with redis_py.Redis.from_url(place[0]) as client:
            client.flushall()


class TestAlone(_OnRedis):
    @pytest.fixture
    def place(self, alone: RedisServer) -> tuple[str, bool]:
        return url(alone), False


class TestCluster(_OnRedis):
    @pytest.fixture
    def place(self, cluster: RedisServer) -> tuple[str, bool]:
        return f"redis://127.0.0.1:{cluster.port}", True


async def test_redis_has_no_id_and_ends_each_session_by_itself(alone: RedisServer) -> None:
    store = RedisSessionStore(url(alone), prefix="shop:")
    await store.create("an-id", {"x": b"1"}, 100)
    with redis_py.Redis.from_url(url(alone)) as client:
        [key] = client.keys("shop:*")
        assert b"an-id" not in key
        assert 0 < client.ttl(key) <= 100
        client.flushall()
    await store.stop()


async def test_other_prefixes_are_other_sessions(alone: RedisServer) -> None:
    one, two = (RedisSessionStore(url(alone), prefix=prefix) for prefix in ("one:", "two:"))
    await one.create("a", {"x": b"1"}, 100)
    assert await two.load("a") is None
    await one.stop()
    await two.stop()


async def test_a_server_that_is_away_is_a_fault_and_one_that_is_back_is_used_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aquilia.sessions")
    with redis("--requirepass", PASSWORD) as server:
        store = RedisSessionStore(url(server))
        async with serving(SessionEngine(SECRET, store=store)) as app, client_of(app) as client:
            await client.post("/set", json={"a": 1})
            server.kill()
            for _ in range(3):
                answer = await client.get("/show")
                assert answer.status_code == 503
                assert answer.json()["code"] == "SESSION_STORE_UNAVAILABLE"
            server.start()
            assert (await client.post("/set", json={"b": 1})).status_code == 204
            assert await shown(client) == {"b": 1}
    told = [record.getMessage() for record in caplog.records if record.name == "aquilia.sessions"]
    assert [("cannot be reached" in line, "again" in line) for line in told] == [(True, False), (False, True)]
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("redis://:wrong-word@127.0.0.1:{port}", "sessions cannot be kept there: invalid username-password"),
        ("redis://:{password}@127.0.0.1:1", "redis://127.0.0.1:1: sessions cannot be kept there: .*1"),
        (
            "redis://:{password}@127.0.0.1:{port}/99",
            "redis://127.0.0.1:{port}/99: .*DB index is out of range",
        ),
    ],
)
async def test_what_cannot_be_used_does_not_start(alone: RedisServer, wrong: str, told: str) -> None:
    store = RedisSessionStore(wrong.format(port=alone.port, password=PASSWORD))
    with pytest.raises(Fault, match=told.format(port=alone.port)) as refused:
        async with serving(SessionEngine(SECRET, store=store)):
            pass
    assert refused.value.code == "SESSION_STORE_UNAVAILABLE"
    assert not refused.value.recoverable
    assert PASSWORD not in str(refused.value)
    assert "wrong-word" not in str(refused.value)


async def test_a_cluster_is_not_taken_for_a_server(cluster: RedisServer) -> None:
    with pytest.raises(Fault, match=r"a node of a Redis Cluster: RedisSessionStore\(…, cluster=True\)"):
        await RedisSessionStore(f"redis://127.0.0.1:{cluster.port}").start()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"url": "http://:pa55word@host"},
            "redis://host:6379/0, rediss://… with TLS, or unix:///path is needed",
        ),
        ({"url": "redis://:pa#55word@host"}, "it cannot be read|write '#'"),
        ({"url": "redis://:pa/55word@host"}, "it cannot be read"),
        ({"url": "redis://"}, "redis://host:6379/0"),
        ({"url": None}, "is needed"),
        ({"url": "unix:///x", "cluster": True}, "the nodes of a cluster are reached by redis://"),
        (
            {"url": "redis://host", "max_session_size": 0},
            "max_session_size: a whole number above 0 is needed",
        ),
        ({"url": "redis://host", "max_connections": True}, "max_connections: a whole number above 0"),
        ({"url": "redis://host", "timeout": -1}, "timeout: a number of seconds above 0 is needed, not -1"),
        ({"url": "redis://host", "prefix": b"x"}, "prefix: a string is needed"),
    ],
)
def test_wrong_arguments_are_refused_when_it_is_made(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        RedisSessionStore(**arguments)
    assert "55word" not in str(refused.value)


def test_no_password_is_shown() -> None:
    assert (
        repr(RedisSessionStore("rediss://me:pa55@[::1]:7000/2"))
        == "<RedisSessionStore rediss://[::1]:7000/2>"
    )
    assert (
        repr(RedisSessionStore("unix://:pa55@/run/redis.sock"))
        == "<RedisSessionStore unix:///run/redis.sock>"
    )
