"""The settings: what is accepted, what is refused, and which one wins."""

from __future__ import annotations

from typing import Any

import pytest

from aquilia.sockets import Compression
from aquilia.sockets.declaration import SocketDeclaration
from aquilia.sockets.outbox.queue import Backpressure
from aquilia.sockets.settings import (
    NodeSettings,
    SettingsError,
    SocketSettings,
    node_settings,
    socket_settings,
)


def test_the_defaults() -> None:
    assert node_settings({}, "m") == NodeSettings(
        adapter="inmemory",
        max_connections=10_000,
        max_namespaces=10_000,
        allowed_hosts=None,
        heartbeat=25,
        handshake_timeout=10,
        handler_timeout=None,
        sockets=SocketSettings(
            max_message_size=65_536, backpressure=Backpressure("buffer", 1000, 1 << 20), max_rooms=100
        ),
    )


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("adaptor", "inmemory", "did you mean 'adapter'"),
        ("adapter", "rediss", "did you mean 'redis'"),
        ("adapter", "inmemry", "did you mean 'inmemory'"),
        ("adapter", "kafak", "did you mean 'kafka'"),
        ("adapter_url", "redis+clustr://h", "did you mean redis+cluster://?"),
        ("adapter_url", "nat://h", "did you mean nats://?"),
        ("adapter_url", "h", "an URL is needed"),
        (
            "redis_url",
            "nats://h",
            "a URL of Redis is needed: redis://host:6379, rediss://host:6379, redis+cluster://",
        ),
        ("redis_url", "localhost:6379", "a URL of Redis is needed"),
        ("redis_url", 6379, "a URL of Redis is needed"),
        ("store_url", "reddis://h", "did you mean redis://?"),
        ("store_url", 7, "an URL is needed"),
        ("max_connections", 0, "at least 1"),
        ("max_connections", True, "at least 1"),
        ("max_namespaces", "many", "at least 1"),
        ("max_message_size", 1.5, "at least 1"),
        ("message_rate_limit", 0, "above 0"),
        ("message_rate_limit", float("inf"), "above 0"),
        ("heartbeat", "25", "above 0"),
        ("handshake_timeout", -1, "above 0"),
        ("handler_timeout", False, "above 0"),
        ("require_auth", "yes", "True or False"),
        ("compression", 1, "True, False, or Compression(mode=…)"),
        ("compression", "shared", "True, False, or Compression(mode=…)"),
        ("allowed_origins", "https://a", "a list of strings"),
        ("allowed_origins", ["example.com"], "a scheme and a host"),
        ("allowed_hosts", [""], "each entry is a string"),
        ("allowed_hosts", 7, "a list of strings"),
        ("backpressure", "buffer", "a mapping like"),
        ("backpressure", {"strategy": "bufer"}, "did you mean 'buffer'"),
        ("backpressure", {"buffersize": 1}, "did you mean 'buffer_size'"),
        ("backpressure", {"buffer_bytes": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(key: str, value: Any, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        node_settings({key: value}, "manifest 'chat'")
    assert refused.value.where == "manifest 'chat'"
    assert refused.value.key.startswith(key)
    assert told in str(refused.value)


@pytest.mark.parametrize(("wrong", "meant"), [("adaptor", "adapter"), ("redis_uri", "redis_url")])
def test_an_unknown_setting_is_told_what_is_accepted(wrong: str, meant: str) -> None:
    with pytest.raises(SettingsError) as refused:
        node_settings({wrong: "x"}, "m")
    assert f"did you mean '{meant}'?" in refused.value.problem
    for known in ("adapter_url", "redis_url", "store_url"):
        assert known in refused.value.problem


@pytest.mark.parametrize(
    ("settings", "key", "told"),
    [
        ({"adapter": "nats", "redis_url": "redis://h"}, "redis_url", "of 'redis', and adapter says 'nats'"),
        ({"adapter": "inmemory", "redis_url": "rediss://h"}, "redis_url", "and adapter says 'inmemory'"),
        ({"adapter_url": "nats://h", "redis_url": "redis://h"}, "redis_url", "and adapter says 'nats'"),
        ({"adapter_url": "redis://h", "redis_url": "redis://h"}, "redis_url", "adapter_url says where"),
    ],
    ids=["of-nats", "of-memory", "two-adapters", "said-twice"],
)
def test_two_settings_that_disagree_are_refused_by_name(settings: Any, key: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        node_settings(settings, "m")
    assert refused.value.key == key
    assert told in refused.value.problem


def test_a_redis_url_names_the_adapter() -> None:
    for said in ({}, {"adapter": "redis"}):
        taken = node_settings({**said, "redis_url": "redis+cluster://a,b"}, "m")
        assert (taken.adapter, taken.adapter_url, taken.redis_url) == ("redis", None, "redis+cluster://a,b")
    assert "s3cret" not in repr(node_settings({"redis_url": "redis://:s3cret@a"}, "m"))
    assert "s3cret" not in repr(node_settings({"store_url": "redis://:s3cret@a"}, "m"))


def test_every_key_is_taken() -> None:
    taken = node_settings(
        {
            "adapter": "nats",
            "adapter_url": "nats://h",
            "redis_url": None,
            "store_url": "redis://h",
            "max_connections": 5,
            "max_namespaces": 6,
            "message_rate_limit": 7,
            "max_message_size": 8,
            "backpressure": {"strategy": "drop_oldest", "buffer_size": 9},
            "allowed_origins": ["https://a.example", "*"],
            "allowed_hosts": ["a.example"],
            "require_auth": False,
            "compression": Compression(level=1),
            "heartbeat": 10,
            "handshake_timeout": 11,
            "handler_timeout": 12,
        },
        "m",
    )
    assert (taken.adapter, taken.adapter_url, taken.store_url) == ("nats", "nats://h", "redis://h")
    assert (taken.max_connections, taken.max_namespaces) == (5, 6)
    assert (taken.heartbeat, taken.handshake_timeout, taken.handler_timeout) == (10, 11, 12)
    assert taken.allowed_hosts == ("a.example",)
    assert taken.sockets == SocketSettings(
        message_rate_limit=7,
        max_message_size=8,
        compression=Compression(level=1),
        backpressure=Backpressure("drop_oldest", 9),
        allowed_origins=("https://a.example", "*"),
    )


def test_a_controllers_own_settings_win_over_its_manifests() -> None:
    node = node_settings({"max_message_size": 100, "message_rate_limit": 5, "max_connections": 7}, "m")
    settings = socket_settings(
        SocketDeclaration("/a", max_message_size=200, max_rooms=3, room_size=4), node, "w"
    )
    assert (settings.max_message_size, settings.message_rate_limit) == (200, 5)
    assert (settings.max_rooms, settings.room_size) == (3, 4)
    assert settings.max_connections is None  # the process's bound is no controller's


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"history": object()}, "or a map of room patterns"),
        ({"presence": ["team:*"]}, "True, False, or Presence"),
        ({"resume": 1}, "True or False is needed, not 1"),
        ({"compression": {"mode": "shared"}}, "True, False, or Compression"),
        ({"require_auth": "yes"}, "True or False"),
        ({"max_rooms": 0}, "at least 1"),
        ({"room_size": "big"}, "at least 1"),
        ({"subprotocols": "chat"}, "a list of strings"),
    ],
)
def test_a_controller_that_asks_for_what_is_not_there_is_refused(fields: Any, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        socket_settings(SocketDeclaration("/a", **fields), NodeSettings(), "w")
