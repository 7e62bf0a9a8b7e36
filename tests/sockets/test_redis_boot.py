"""What is wrong with a Redis server is an error when the application starts, and says what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
from redis_cluster import RedisCluster
from redis_sentinels import RedisSentinels
from redis_servers import RedisServer, within
from redis_starting import SECRET, refusal, told_by, works

from aquilia.sockets import SocketFault
from aquilia.sockets.adapters.redis import RedisAdapter

# Which server it is


async def test_a_server_that_is_not_there_is_named(own_redis: RedisServer) -> None:
    own_redis.stop()
    assert f"Redis at {own_redis.address} cannot be reached: Connect call failed" in await refusal(
        own_redis.url()
    )


async def test_a_node_of_a_cluster_is_no_single_server_and_a_single_server_none(
    redis_cluster: RedisCluster, redis_server: RedisServer
) -> None:
    node = redis_cluster.servers[0]
    assert "is a node of a Redis Cluster: write redis+cluster://…" in await refusal(node.url())
    told = await refusal(redis_server.url(scheme="redis+cluster"))
    assert "is no node of a Redis Cluster: write redis://…" in told


async def test_a_sentinel_is_no_server_and_a_server_no_sentinel(
    redis_sentinels: RedisSentinels, redis_server: RedisServer
) -> None:
    told = await refusal(redis_sentinels.sentinels[0].url())
    assert "is a sentinel: write redis+sentinel://…?service=NAME" in told
    told = await refusal(f"redis+sentinel://{redis_server.address}/?service=main")
    assert "is a Redis server, and no sentinel: redis:// is for servers" in told


async def test_a_service_that_no_sentinel_knows_is_named(redis_sentinels: RedisSentinels) -> None:
    told = await refusal(redis_sentinels.url().replace("service=main", "service=other"))
    assert "watches no master called 'other': see service=NAME" in told


async def test_the_login_of_the_sentinels_is_their_own(
    redis_sentinels: RedisSentinels, tmp_path: Path
) -> None:
    for sentinel in redis_sentinels.sentinels:
        sentinel.command("ACL", "SETUSER", "default", "off")
        sentinel.command("ACL", "SETUSER", "watcher", "on", f">{SECRET}", "~*", "&*", "+@all")
    try:
        assert "it wants a login" in await refusal(redis_sentinels.url())
        file = tmp_path / "password"
        file.write_text("wrong")
        url = f"{redis_sentinels.url()}&sentinel_user=watcher&sentinel_password_file={file}"
        assert "the login is refused: the user or the password is wrong" in await refusal(url)
        file.write_text(f"{SECRET}\n")
        await works(url)
    finally:
        for sentinel in redis_sentinels.sentinels:
            sentinel.command("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")


async def test_a_replica_takes_no_writes(redis_sentinels: RedisSentinels) -> None:
    told = await refusal(redis_sentinels.replica().url())
    assert "is a replica, which takes no writes: name its master, or write redis+sentinel://…" in told


async def test_replicas_that_are_not_there_are_missed(
    redis_sentinels: RedisSentinels, redis_server: RedisServer
) -> None:
    told = await refusal(f"{redis_server.url()}&replicas=1")
    assert "has 0 replicas, and replicas=1 in the URL wants each publication on so many: add some" in told
    assert "has 1 replicas, and replicas=2" in await refusal(f"{redis_sentinels.url()}&replicas=2")
    await works(f"{redis_sentinels.url()}&replicas=1")


async def test_a_database_is_used_and_one_that_is_not_there_is_told(redis_server: RedisServer) -> None:
    await works(f"redis://{redis_server.address}/3?prefix=third")
    assert int(redis_server.info("keyspace")["db3"].split(",")[0].removeprefix("keys=")) > 0
    told = await refusal(f"redis://{redis_server.address}/99")
    assert "it has no database 99: there are as many as its setting `databases` says" in told


@asynccontextmanager
async def saying(reply: bytes) -> AsyncIterator[int]:
    """Somebody on a port who answers whatever comes with this: no old Redis is at hand."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1000):
            writer.write(reply)
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            b"%4\r\n+server\r\n+redis\r\n+version\r\n+6.2.14\r\n+mode\r\n+standalone\r\n+role\r\n+master\r\n",
            "is version 6.2.14: Aquilia needs 7.0 or later",
        ),
        (
            b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n",
            "it is too old: Aquilia needs",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what it says is not Redis' protocol"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING Redis is loading"),
        (b"%4\r\n+server\r\n", "no answer within 2 s"),
        (b"+OK\r\n", "it is no Redis server"),
        (b"*1\r\n+x\r\n", "it is no Redis server"),
        (b"%0\r\n", "it is no Redis server"),
    ],
    ids=["6.2", "5", "http", "loading", "half", "text", "list", "nothing"],
)
async def test_who_answers_as_no_redis_of_today_is_told(reply: bytes, words: str) -> None:
    async with saying(reply) as port:
        assert words in await refusal(f"redis://127.0.0.1:{port}")


# What state it is in


async def test_a_server_with_too_many_clients_is_told(own_redis: RedisServer) -> None:
    own_redis.command("CONFIG", "SET", "maxclients", "1")
    with redis.Redis(port=own_redis.port) as client:
        client.ping()
        told = await refusal(own_redis.url())
    assert "it has as many clients as its setting `maxclients` says" in told


async def test_a_server_that_throws_keys_away_is_warned_of(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aquilia.sockets.redis")
    await works(own_redis.url())
    assert [each for each in caplog.messages if "writes no log of its own (appendonly no)" in each]
    assert told_by(caplog, logging.WARNING) == []
    own_redis.command("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    await works(own_redis.url())
    [warning] = told_by(caplog, logging.WARNING)
    assert "throws keys away when its memory is full (maxmemory-policy allkeys-lru)" in warning
    assert "set noeviction" in warning


async def test_a_full_server_is_told(own_redis: RedisServer) -> None:
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    adapter = RedisAdapter(own_redis.url())
    with pytest.raises(SocketFault, match="its memory is full"):
        await adapter.broker.start(lambda publication: None)


async def test_a_server_that_still_reads_its_files_is_told(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "slow", "--enable-debug-command", "yes") as server:
        server.command("DEBUG", "POPULATE", "2000")
        server.command("SAVE")
        # Two milliseconds for each key, and a look at its clients behind each few of them.
        server.use("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
        server.kill()
        server.launch()
        with within(10, "it reads") as pause:
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", server.port)):
                        break
                except ConnectionRefusedError:
                    pause()
        assert "LOADING" in await refusal(server.url())
