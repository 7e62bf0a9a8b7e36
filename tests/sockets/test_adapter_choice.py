"""Which adapter an application has: its settings, and the environment's URL over them."""

from __future__ import annotations

import pytest
from nats_server import NatsServer
from redis_servers import RedisServer
from shared_hall import Hall, application, heard

from aquilia import AppManifest
from aquilia.aquilary import BootError, Registry
from aquilia.sockets import AquilaSockets


async def test_two_applications_at_one_nats_are_one_hall(nats_server: NatsServer) -> None:
    url = nats_server.url()
    assert await heard(application(adapter="nats", adapter_url=url), application(adapter_url=url)) == "hello"


async def test_the_environment_wins_over_the_settings(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQ_WS_ADAPTER_URL", nats_server.url())
    assert await heard(application(adapter="inmemory"), application()) == "hello"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nat://ada:s3cret@h", "did you mean nats://"),
        ("kafka://", "there is no host"),
        ("redis://", "there is no host"),
        ("redis://:s3/cret@h", "%2F"),
        ("redis://h/app", "the option prefix"),
        ("rediss+cluster://h/1", "the database 0 alone"),
        ("s3cret", "an URL is needed: memory://, local://"),
        ("memory://s3cret", "followed by nothing"),
        ("mybus://ada:s3cret@h", "none of memory://"),
        ("local://folder", "local:///path/to/folder"),
        ("local://?sync=never", "?sync=always"),
        ("local:///f?size=1", "unknown option 'size' (accepted: sync)"),
        ("local:///f?snyc=always", "did you mean sync?"),
        ("nats://ada:s3cret@h:x", "host"),
        ("nats://ada:s3/cret@h", "%2F"),
        ("nats://h?replica=3", "replicas"),
    ],
)
def test_a_wrong_url_in_the_environment_is_refused_at_boot(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQ_WS_ADAPTER_URL", url)
    with pytest.raises(BootError) as refused:
        application()
    assert "AQ_WS_ADAPTER_URL" in str(refused.value)
    assert told in str(refused.value)
    assert "cret" not in str(refused.value)


def test_an_adapter_and_an_url_that_disagree_are_refused() -> None:
    with pytest.raises(BootError) as refused:
        application(adapter="inmemory", adapter_url="nats://ada:s3cret@h")
    assert "adapter_url: it is that of 'nats', and adapter says 'inmemory'" in str(refused.value)
    assert "s3cret" not in str(refused.value)


async def test_two_applications_at_one_redis_are_one_hall(redis_server: RedisServer) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/1?prefix=one"
    ways = [{"adapter": "redis", "redis_url": url}, {"redis_url": url}, {"adapter_url": url}]
    for way in ways:
        assert await heard(application(**ways[0]), application(**way)) == "hello"


async def test_the_redis_of_a_hosting_platform_is_taken_where_nothing_else_says_which(
    redis_server: RedisServer, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}"
    monkeypatch.setenv("REDIS_URL", url)
    assert await heard(application(adapter="redis"), application(redis_url=url)) == "hello"
    monkeypatch.setenv("REDIS_URL", "nats://not.there")
    assert await heard(application(redis_url=url), application(adapter_url=url)) == "hello"
    monkeypatch.setenv("AQ_WS_ADAPTER_URL", nats_server.url())
    assert await heard(application(adapter="redis"), application()) == "hello"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("unix://:s3cret@/run/redis.sock", "a URL of Redis is needed: redis://host:6379"),
        ("s3cret", "a URL of Redis is needed"),
        ("redis://:s3cret@h?ssl_cert_reqs=none", "unknown option 'ssl_cert_reqs'"),
        ("redis://s3cret@h", "written :password@host"),
    ],
)
def test_a_wrong_url_of_a_hosting_platform_is_refused_by_its_name(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    application()  # which has another adapter
    with pytest.raises(BootError) as refused:
        application(adapter="redis")
    assert "REDIS_URL: " in str(refused.value)
    assert told in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_wrong_redis_url_is_refused_by_its_name() -> None:
    with pytest.raises(BootError) as refused:
        application(redis_url="redis://ada:s3/cret@h")
    assert "redis_url: one login is accepted" in str(refused.value)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (
            {"redis_url": "redis://a"},
            {"redis_url": "redis://b"},
            "redis_url is one here, and another in another",
        ),
        (
            {"redis_url": "redis://a"},
            {"adapter_url": "redis://b"},
            "redis_url: in another manifest, adapter_url says",
        ),
        (
            {"redis_url": "redis://a"},
            {"adapter": "nats"},
            "adapter is 'nats' here, and 'redis' in another manifest",
        ),
        (
            {"store_url": "redis://a"},
            {"store_url": "redis://b"},
            "store_url is one here, and another in another",
        ),
        (
            {"adapter": "nats", "adapter_url": "redis://a", "redis_url": "redis://a"},
            {},
            "redis_url: it is that of 'redis', and adapter says 'nats'",
        ),
    ],
    ids=["two-redis", "two-settings", "two-adapters", "two-stores", "all-at-once"],
)
def test_manifests_that_disagree_are_refused_by_name(
    one: dict[str, str], other: dict[str, str], told: str
) -> None:
    manifests = [
        AppManifest("one", controllers=[Hall], websockets=one),
        AppManifest("other", websockets=other),
    ]
    with pytest.raises(BootError) as refused:
        AquilaSockets(Registry.build(manifests))
    assert told in str(refused.value)
    assert "redis://" not in str(refused.value)
