"""How a link to Kafka is made: one host after the other, the topics, and in words why it would not do."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from typing import Any

from aquilia.sockets.adapters.kafka.login import connect_options
from aquilia.sockets.adapters.kafka.url import Target

__all__ = ["DENIED", "EPOCHS", "LOG", "MISSING", "PLAIN", "DialError", "allow", "dial"]

logger = logging.getLogger("aquilia.sockets.kafka")

MISSING = "the Kafka adapter needs aiokafka: pip install 'aquilia[kafka]'"
PLAIN, LOG, EPOCHS = "plain", "log", "epochs"
"""The topics, behind the prefix."""
CONNECT = 5.0
"""Seconds that it may take."""
PLAIN_RETENTION = 600
"""Seconds that the topic of plain rooms is made to keep: longer than any node that is not lost lags behind."""
_EXISTS, _UNKNOWN = 36, 3
DENIED = (29, 30, 31)
"""Errors of what a login may not do."""
_NOT_YET = (3, 5, 6)
_SECRET = (
    "give user and password in the adapter's URL, kafka://user:password@host, or user@host?password_file=FILE"
)


class DialError(Exception):
    """Why no link could be made, in words for who runs the application; the `weight` of its reason."""

    def __init__(self, words: str, weight: int = 0) -> None:
        super().__init__(words)
        self.weight = weight


async def dial(target: Target, on_broken: Callable[[Any, str], None]) -> Any:
    """A link, whose topics are there.

    Raises:
        DialError: it cannot be made.
        ImportError: aiokafka is not installed.
    """
    from aiokafka.errors import IncompatibleBrokerVersion

    from aquilia.sockets.adapters.kafka.link import Link, LinkBrokenError

    try:
        options = await asyncio.to_thread(connect_options, target)
    except ValueError as error:
        raise DialError(f"Kafka at {target}: {error}", 2) from None
    link = Link(options, on_broken)
    try:
        async with asyncio.timeout(CONNECT):
            await _bootstrap(target, link)
            await _open_topics(target, link)
    except BaseException as error:
        await link.close()
        if isinstance(error, (IncompatibleBrokerVersion, NotImplementedError)):
            raise DialError(
                f"Kafka at {target} does not speak what Aquilia needs ({error}): Kafka 1.0 or later is needed",
                3,
            ) from error
        if isinstance(error, (LinkBrokenError, TimeoutError)):
            words = str(error) or "no answer in time"
            raise DialError(f"Kafka at {target} cannot be used: {words}") from error
        raise
    return link


async def _bootstrap(target: Target, link: Any) -> None:
    from aiokafka.errors import IncompatibleBrokerVersion, KafkaError

    failures: list[DialError] = []
    for host, port in random.sample(target.servers, len(target.servers)):
        try:
            async with asyncio.timeout(CONNECT / len(target.servers)):
                await link.bootstrap(host, port)
        except IncompatibleBrokerVersion:
            raise
        except (
            KafkaError,
            OSError,
            asyncio.IncompleteReadError,
            AssertionError,
            ValueError,
            KeyError,
        ) as error:
            failures.append(_refusal(target, f"Kafka at {host}:{port}", error))
        else:
            if link.brokers:
                return
            failures.append(DialError(f"Kafka at {host}:{port} knows of no broker"))
    heaviest = max(failure.weight for failure in failures)
    words = [str(failure) for failure in failures if failure.weight == heaviest]
    raise DialError("; ".join(sorted(words)), heaviest)


def _refusal(target: Target, where: str, error: Exception) -> DialError:
    """What to do about it."""
    from aiokafka.errors import SaslAuthenticationFailed, UnsupportedSaslMechanismError

    words = str(error) or type(error).__name__
    if isinstance(error, UnsupportedSaslMechanismError):
        return DialError(
            f"{where} does not take a login by {target.mechanism}: name another one, as in ?mechanism=SCRAM-SHA-512",
            3,
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        if ca := target.files.get("ca"):
            return DialError(
                f"{where}: its certificate is not the one of a CA in {ca}: {error.verify_message}", 2
            )
        return DialError(
            f"{where}: its certificate is not accepted ({error.verify_message}): name the file of its CA, as in "
            "?ca=FILE",
            2,
        )
    if isinstance(error, ssl.SSLError):
        return DialError(f"{where}: TLS fails ({words}): is that a port with TLS?", 2)
    if target.user and isinstance(error, (SaslAuthenticationFailed, AssertionError, ValueError, KeyError)):
        return DialError(f"{where} refuses the login of {target.user!r} by {target.mechanism}: {_SECRET}", 3)
    if isinstance(error, TimeoutError):
        words = "no answer in time" + ("; is that a port with TLS?" if target.tls else "")
    elif "closed" in words:
        asked = [] if target.tls else ["for TLS: write kafka+ssl://"]
        asked.append(
            f"for another login than by {target.mechanism}" if target.user else f"for a login: {_SECRET}"
        )
        return DialError(f"{where} ends the connection; it may ask {', or '.join(asked)}")
    return DialError(f"{where} cannot be reached ({words}): is the broker running, and the URL right?")


# Topics


async def _open_topics(target: Target, link: Any) -> None:
    """Find the topics, or make those that are missing."""
    names = [target.topic(name) for name in (PLAIN, LOG, EPOCHS)]
    errors = await link.describe(names)
    _require_allowed(target, errors)
    if missing := [name for name in names if errors.get(name, _UNKNOWN) == _UNKNOWN]:
        await _make_topics(target, link, missing)
    while any(link.count(name) < _wanted(target, name) for name in names):
        if not missing and not any(code in _NOT_YET for code in errors.values()):
            _require_partitions(target, link, names)
        await asyncio.sleep(0.05)
        errors = await link.describe(names)
        missing = [name for name in names if not _counted(link, name)]
        _require_allowed(target, errors)
    await _check_log(target, link)


def _counted(link: Any, name: str) -> int:
    return sum(1 for topic, _ in link.leaders if topic == name)


def _wanted(target: Target, name: str) -> int:
    return 1 if name == target.topic(EPOCHS) else target.partitions


def _require_allowed(target: Target, errors: dict[str, int]) -> None:
    denied = [name for name, code in errors.items() if code in DENIED]
    if denied:
        raise DialError(
            f"Kafka at {target} does not allow this login to use the topic {denied[0]}: {allow(target)}", 3
        )


def allow(target: Target) -> str:
    """What a login has to be allowed."""
    return f"allow it to read, write, describe and create the topics that begin with {target.prefix}."


def _require_partitions(target: Target, link: Any, names: list[str]) -> None:
    for name in names:
        has, needs = _counted(link, name), _wanted(target, name)
        if has < needs:
            raise DialError(
                f"the topic {name} on Kafka has {has} partitions, and {needs} are needed: add some (kafka-topics "
                f"--alter --topic {name} --partitions {needs}) before anything uses it, or say ?partitions={has}",
                3,
            )


async def _make_topics(target: Target, link: Any, missing: list[str]) -> None:
    from aiokafka.protocol.admin import CreateTopicsRequest

    replicas = target.replicas or min(3, len(link.brokers))
    configs = {
        PLAIN: {
            "cleanup.policy": "delete",
            "retention.ms": str(PLAIN_RETENTION * 1000),
            "segment.ms": "600000",
        },
        LOG: {
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(target.retention * 1000),
        },
        EPOCHS: {"cleanup.policy": "compact"},
    }
    if replicas > 2:
        configs[LOG]["min.insync.replicas"] = configs[EPOCHS]["min.insync.replicas"] = "2"
    asked: list[Any] = [
        (name, _wanted(target, name), replicas, [], list(configs[name.rpartition(".")[2]].items()))
        for name in missing
    ]
    node = link.controller if link.controller in link.brokers else link.any_broker()
    told = await link.ask(node, "say", CreateTopicsRequest(asked, 4000, False))
    for name, code, *words in told.topic_errors:
        if code and code != _EXISTS:
            said = words[0] if words and words[0] else f"error {code}"
            raise DialError(
                f"the topic {name} is missing on Kafka at {target}, and cannot be made ({said}): make it, with "
                f"{_wanted(target, name)} partitions, or allow this login to create the topics that begin with "
                f"{target.prefix}.",
                3,
            )


async def _check_log(target: Target, link: Any) -> None:
    """Whether the topic of the log is one that can be replayed; how long it keeps what it has."""
    from aiokafka.protocol.admin import DescribeConfigsRequest

    name = target.topic(LOG)
    told = await link.ask(link.any_broker(), "say", DescribeConfigsRequest([(2, name, None)], False))
    ((code, words, _, _, entries),) = told.resources
    if code:
        logger.warning("how the topic %s is set cannot be read: %s", name, words or f"error {code}")
        return
    settings = {entry[0]: entry[1] for entry in entries}
    alter = f"kafka-configs --alter --entity-type topics --entity-name {name} --add-config"
    if settings.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
        raise DialError(
            f"the topic {name} on Kafka has the time of who writes: {alter} message.timestamp.type=LogAppendTime",
            3,
        )
    if "compact" in settings.get("cleanup.policy", "delete"):
        raise DialError(f"the topic {name} on Kafka is compacted: {alter} cleanup.policy=delete", 3)
    kept = int(settings.get("retention.ms", "-1"))
    link.retention = None if kept < 0 else kept / 1000
