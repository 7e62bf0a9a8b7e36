"""The Redis servers that the tests of the adapter stand on do what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from certificates import Authority
from ports import reserved_port
from processes import gone
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_cluster import RedisCluster
from redis_sentinels import RedisSentinels
from redis_servers import RedisServer, debian_redis


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_a_server_with_a_file_keeps_a_key_when_it_is_killed_and_comes_back_to_its_port(
    tmp_path: Path,
) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        port = server.port
        server.command("SET", "key", b"\xff\x00")
        server.restart()
        assert server.port == port
        assert server.command("GET", "key") == "\udcff\x00"
        server.use("--maxmemory", "100mb")
        server.stop()
        server.start()
        assert server.command("GET", "key") is None
        assert server.command("CONFIG", "GET", "maxmemory") == ["maxmemory", "104857600"]


def test_a_server_ends_whatever_its_test_does(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    def fail() -> None:
        with server:
            server.freeze()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gone(server.pid)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-option"):
        RedisServer(tmp_path, "--no-such-option", "1").__enter__()


def test_a_frozen_server_answers_again_when_it_is_thawed(redis_server: RedisServer) -> None:
    redis_server.freeze()
    assert not redis_server.running
    redis_server.thaw()
    assert redis_server.command("PING") == "PONG"


def test_urls_have_prefixes_of_their_own(redis_server: RedisServer) -> None:
    one, two = redis_server.url(), redis_server.url()
    assert one != two
    assert one.startswith(f"redis://127.0.0.1:{redis_server.port}/0?prefix=t")
    given = redis_server.url("shop", "me:word@", "rediss")
    assert given == f"rediss://me:word@127.0.0.1:{redis_server.port}/0?prefix=shop"


@pytest.mark.parametrize("in_file", [False, True], ids=["options", "file"])
def test_a_test_has_a_way_in_whoever_else_has_one(tmp_path: Path, in_file: bool) -> None:
    limited = "app on >word ~t* +@read"
    options = (
        ["--requirepass", "secret"] if in_file else ["--requirepass", "secret", "--user", *limited.split()]
    )
    with RedisServer(tmp_path, *options, acl=[f"user {limited}"] if in_file else None) as server:
        server.command("ACL", "SETUSER", "default", "off")
        with redis.Redis(port=server.port, username="app", password="word") as app:
            assert app.get("t") is None
            with pytest.raises(redis.exceptions.NoPermissionError):
                app.set("t", "x")


def test_a_server_with_tls_asks_for_certificates_if_it_is_told_to(tmp_path: Path) -> None:
    authority = Authority()
    with RedisServer(
        tmp_path, "--tls-auth-clients", "yes", tls=authority, executable=debian_redis()
    ) as server:
        assert server.command("PING") == "PONG"
        without = {"ssl": True, "ssl_ca_certs": str(tmp_path / "ca.pem"), "retry": Retry(NoBackoff(), 0)}
        with redis.Redis(port=server.port, **without) as client, pytest.raises(redis.ConnectionError):
            client.ping()


def test_a_cluster_and_sentinels_speak_tls_among_them(tmp_path: Path) -> None:
    tls = {"tls": Authority(), "executable": debian_redis()}
    with RedisCluster(tmp_path / "cluster", replicas=0, **tls) as cluster:
        source = cluster.master_of("moved")
        source.command("SET", "moved", "value")
        to = next(each for each in cluster.masters() if each is not source)
        cluster.move_slot(cluster.slot_of("moved"), to)
        assert to.command("GET", "moved") == "value"
    with RedisSentinels(tmp_path / "sentinels", **tls) as service:
        before = service.master()
        assert service.failover() is not before


def test_the_older_redis_is_another_one(redis_70: RedisServer, redis_server: RedisServer) -> None:
    assert redis_70.info("server")["redis_version"] < redis_server.info("server")["redis_version"]


def test_the_cluster_for_all_tests_has_every_slot(redis_cluster: RedisCluster) -> None:
    assert redis_cluster.masters() == redis_cluster.servers
    assert {redis_cluster.owner(slot) for slot in (0, 8000, 16383)} == set(redis_cluster.servers)
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in redis_cluster.servers)
    assert redis_cluster.url("shop") == f"redis+cluster://{hosts}/?prefix=shop"


def test_a_slot_moves_with_its_keys(cluster: RedisCluster) -> None:
    source = cluster.master_of("moved")
    to = next(each for each in cluster.masters() if each is not source)
    for n in range(250):
        source.command("SET", f"{{moved}}{n}", n)
    with cluster.moving(cluster.slot_of("moved"), to):
        assert source.command("GET", "{moved}7") == "7"
        with pytest.raises(redis.exceptions.AskError):
            source.command("GET", "{moved}none")
        cluster.carry(["{moved}7"], source, to)
        with pytest.raises(redis.exceptions.AskError):
            source.command("GET", "{moved}7")
    assert cluster.master_of("moved") is to
    assert [to.command("GET", f"{{moved}}{n}") for n in range(250)] == [str(n) for n in range(250)]
    with pytest.raises(redis.exceptions.MovedError):
        source.command("GET", "{moved}7")


def test_a_replica_takes_the_place_of_a_killed_master_and_gives_it_back(cluster: RedisCluster) -> None:
    master = cluster.master_of("key")
    master.command("SET", "key", "value")
    assert master.command("WAIT", 1, 5000) == 1
    [replica] = cluster.replicas_of(master)
    cluster.kill(master)
    assert cluster.promoted(master) is replica
    assert cluster.master_of("key") is replica
    assert replica.command("GET", "key") == "value"
    cluster.restart(master)
    assert cluster.replicas_of(replica) == [master]
    assert cluster.failover(replica) is master
    assert cluster.master_of("key") is master


def test_sentinels_let_the_replica_take_the_place_of_a_killed_master(tmp_path: Path) -> None:
    with RedisSentinels(tmp_path, "--requirepass", "secret") as service:
        master = service.master()
        master.command("SET", "key", "value")
        assert master.command("WAIT", 1, 5000) == 1
        replica = service.replica()
        service.kill(master)
        assert service.promoted(master) is replica
        assert service.master() is replica
        assert replica.command("GET", "key") == "value"
        service.restart(master)
        assert service.replica() is master
        assert service.failover() is master
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in service.sentinels)
        assert service.url("shop") == f"redis+sentinel://{hosts}/0?service=main&prefix=shop"


def test_ports_are_nobody_elses_while_a_server_is_down(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        server.kill()
        with reserved_port() as other:
            assert other != server.port
        server.start()
        assert server.command("PING") == "PONG"
