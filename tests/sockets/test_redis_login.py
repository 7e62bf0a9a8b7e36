"""Logins and TLS of the Redis adapter, against real servers: what is enough, what is refused, and in which words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Authority
from redis_cluster import RedisCluster
from redis_sentinels import RedisSentinels
from redis_servers import RedisServer, debian_redis
from redis_starting import SECRET, refusal, told, works

from aquilia.sockets import Publication
from aquilia.sockets.adapters.redis import RedisAdapter
from aquilia.sockets.adapters.redis.calls import not_allowed

# Logins


async def test_a_wrong_password_and_one_that_is_missing_are_told(own_redis: RedisServer) -> None:
    own_redis.command("CONFIG", "SET", "requirepass", "of the server")
    told = await refusal(own_redis.url(login=f":{SECRET}@"))
    assert "the login is refused: the user or the password is wrong" in told
    told = await refusal(own_redis.url())
    assert "it wants a login: write it before the host, as in redis://user:password@host" in told
    await works(own_redis.url(login=":of%20the%20server@"))


async def test_a_user_whom_nobody_knows_is_told(redis_server: RedisServer) -> None:
    told = await refusal(redis_server.url(login=f"nobody:{SECRET}@"))
    assert "the login is refused: the user or the password is wrong" in told


def words_of_the_advice() -> list[str]:
    """What a login that lacks something is told to be given."""
    return not_allowed("", "", "app").split("`")[1].removeprefix("ACL SETUSER app ").split()


@pytest.fixture(scope="module", params=["newest", "oldest"])
def login(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Gives a login these rights, and the URL with it."""
    own_redis: RedisServer = request.getfixturevalue(
        {"newest": "redis_server", "oldest": "redis_70"}[request.param]
    )

    def allow(*words: str) -> str:
        own_redis.command("ACL", "SETUSER", "limited", "reset", "on", f">{SECRET}", *words)
        return own_redis.url("app", f"limited:{SECRET}@")

    return allow


async def test_what_the_advice_allows_is_enough(login: Callable[..., str]) -> None:
    await works(login(*words_of_the_advice()))


async def test_what_the_advice_allows_is_enough_in_a_cluster_and_with_replicas(
    redis_cluster: RedisCluster, redis_sentinels: RedisSentinels
) -> None:
    rights = ("ACL", "SETUSER", "limited", "reset", "on", f">{SECRET}", *words_of_the_advice())
    for server in (*redis_cluster.servers, *redis_sentinels.servers):
        server.command(*rights)
    await works(redis_cluster.url("app", f"limited:{SECRET}@"))
    await works(redis_sentinels.url("app", f"limited:{SECRET}@") + "&replicas=1")
    for server in redis_cluster.servers:
        server.command("ACL", "SETUSER", "limited", "-cluster|slots")
    told = await refusal(redis_cluster.url("app", f"limited:{SECRET}@"))
    assert "allow this login +cluster|slots" in told
    redis_sentinels.master().command("ACL", "SETUSER", "limited", "-wait")
    told = await refusal(redis_sentinels.url("app", f"limited:{SECRET}@") + "&replicas=1")
    assert "'wait' command" in told
    assert "ACL SETUSER" in told


@pytest.mark.parametrize(
    "denied", ["FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "CLIENT KILL ID 1", "EVAL x 0"]
)
async def test_what_the_advice_allows_is_not_more_than_that(redis_server: RedisServer, denied: str) -> None:
    redis_server.command("ACL", "SETUSER", "limited", "reset", *words_of_the_advice())
    told = redis_server.command("ACL", "DRYRUN", "limited", *denied.split())
    assert "has no permissions to run" in str(told)


@pytest.mark.parametrize(
    "lacks",
    [
        *("-ssubscribe", "-spublish", "-evalsha", "-script", "-time", "-xadd", "-xtrim", "-get", "-set"),
        *("resetkeys", "resetchannels"),
    ],
)
async def test_a_login_that_lacks_something_is_told_what_to_be_given(
    login: Callable[..., str], lacks: str
) -> None:
    told = await refusal(login(*words_of_the_advice(), lacks))
    assert "does not allow it to this login (" in told
    assert f"ACL SETUSER app {' '.join(words_of_the_advice())}" in told


async def test_a_password_in_a_file_is_replaced_while_it_runs(
    own_redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    url = f"{own_redis.url()}&password_file={file}"
    assert f"password_file={file}: the file cannot be read" in await refusal(url)
    file.write_text("first\n")
    own_redis.command("CONFIG", "SET", "requirepass", "first")
    adapter = RedisAdapter(url)
    got: asyncio.Queue[Publication] = asyncio.Queue()
    await adapter.broker.start(got.put_nowait)
    try:
        await adapter.broker.subscribe("/a", "plain")
        own_redis.command("CONFIG", "SET", "requirepass", "second")
        own_redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        async with asyncio.timeout(5):
            while adapter.broker.trouble != "refused":
                await asyncio.sleep(0.01)
        assert not adapter.broker.connected
        assert [each for each in caplog.messages if "the user or the password is wrong" in each]
        assert "first" not in caplog.text
        file.write_text("second\n")
        async with asyncio.timeout(5):
            while not adapter.broker.connected:
                await asyncio.sleep(0.01)
        assert adapter.broker.trouble is None
        await adapter.broker.publish(told("after", "plain"))
        assert (await asyncio.wait_for(got.get(), 5)).id == "after"
    finally:
        await adapter.broker.stop()


# TLS


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[RedisServer]:
    """A server with TLS."""
    folder = tmp_path_factory.mktemp("tls")
    with RedisServer(folder, tls=authority, executable=debian_redis()) as server:
        yield server


async def test_a_certificate_that_nobody_trusts_is_told(trusted: RedisServer, tmp_path: Path) -> None:
    ca = trusted.folder / "ca.pem"
    await works(f"{trusted.url(scheme='rediss')}&ca={ca}")
    told = await refusal(trusted.url(scheme="rediss"))
    assert "its certificate is not trusted" in told
    assert "name the CA that signed it with ca=FILE" in told
    other = tmp_path / "ca.pem"
    other.write_bytes(Authority().certificate)
    assert "its certificate is not trusted" in await refusal(f"{trusted.url(scheme='rediss')}&ca={other}")


async def test_a_certificate_for_another_host_is_told(trusted: RedisServer) -> None:
    ca = trusted.folder / "ca.pem"
    trusted.command("CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2")
    url = f"{trusted.url(scheme='rediss')}&ca={ca}".replace("127.0.0.1", "127.0.0.2")
    told = await refusal(url)
    assert "its certificate is for another host" in told
    assert "use a name that stands in it" in told


async def test_tls_and_none_are_not_mixed_up(trusted: RedisServer, redis_server: RedisServer) -> None:
    assert "if it wants TLS, say rediss in the place of redis" in await refusal(trusted.url())
    told = await refusal(redis_server.url(scheme="rediss"))
    assert "if it has no TLS, say redis in the place of rediss" in told


async def test_a_certificate_that_the_server_wants_is_asked_for(tmp_path: Path, authority: Authority) -> None:
    options = ("--tls-auth-clients", "yes")
    with RedisServer(tmp_path / "tls", *options, tls=authority, executable=debian_redis()) as server:
        url = f"{server.url(scheme='rediss')}&ca={server.folder / 'ca.pem'}"
        told = await refusal(url)
        assert "wants a certificate of us: name it with cert=FILE and key=FILE" in told
        await works(f"{url}&cert={server.folder / 'chain.pem'}&key={server.folder / 'key.pem'}")
