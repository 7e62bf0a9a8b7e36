"""The table of promises by adapter in docs/BROKERS.md: what the classes of tests inherit, and what no suite has.

`make promises` writes it anew; `test_docs_promises.py` fails where another one stands there.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from aquilia.testing.adapters import (
    SUITES,
    ClusterContract,
    NamespaceOrderContract,
    RestartContract,
    SharedBrokerContract,
    SharedLogContract,
    SharedStoreContract,
    StoreContract,
    promises_of,
)

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "BROKERS.md"
MODULES = ("test_adapters", "test_adapter_restarts", "test_adapter_clusters")
COLUMNS = {
    "inmemory": ("TestInMemory",),
    "local": ("TestLocal",),
    "NATS": ("TestNats",),
    "Redis": ("TestRedis",),
    "Redis Cluster": ("TestRedisCluster",),
    "Kafka": ("TestKafka", "TestKafkaWithAStoreApart"),
}
"""What the page calls an adapter, and the classes of its tests, in whichever module."""

ALONE = "It is one process, and its memory."
SPREAD = (
    "The rooms of a namespace are on several servers, or in several partitions: each room has its own order."
)
STORELESS = "Kafka has no store, and takes [that of another adapter](#a-store-apart-from-the-broker)."
UNKEPT = "The broker that speaks Kafka in the tests keeps nothing when it is killed."
WHY: dict[str, dict[type, str]] = {
    "inmemory": dict.fromkeys(
        (SharedBrokerContract, SharedLogContract, SharedStoreContract, RestartContract, ClusterContract),
        ALONE,
    ),
    "Redis Cluster": {NamespaceOrderContract: SPREAD},
    "Kafka": {
        NamespaceOrderContract: SPREAD,
        StoreContract: STORELESS,
        SharedStoreContract: STORELESS,
        RestartContract: UNKEPT,
    },
}
"""Why an adapter does not have what a suite asks for."""


_FAILOVER = (
    "test_redis_failover.py::test_what_one_replica_has_is_kept_and_stored_once_when_its_master_is_killed"
)
ONE_SERVER = "It is one server."
UNTRIED = "Several brokers of Kafka have not been run."
BY_ONE_TEST: dict[str, dict[str, str]] = {
    "With `replicas`, nothing acknowledged is lost when a server is killed and another takes its place": {
        "NATS": "test_nats_cluster.py::test_nothing_acknowledged_is_lost_or_doubled_when_the_leader_is_killed",
        "Redis": f"{_FAILOVER}[sentinels]",
        "Redis Cluster": f"{_FAILOVER}[cluster]",
    },
}
"""Promises that need servers of a kind of their own: the test of each adapter below `sockets/`."""
WHY_NO_TEST = {"inmemory": ALONE, "local": ONE_SERVER, "Kafka": UNTRIED}


class Row(NamedTuple):
    """A promise, and by adapter why it is not kept, or None."""

    promise: str
    why: dict[str, str | None]


def classes() -> dict[str, list[type]]:
    """The classes of tests, by adapter."""
    modules = [import_module(name) for name in MODULES]
    return {
        column: [found for module in modules for name in names if (found := getattr(module, name, None))]
        for column, names in COLUMNS.items()
    }


def rows() -> list[Row]:
    """All promises, in the order of the suites. Whoever does not keep one has its reason in `WHY`."""
    found = []
    for suite in SUITES:
        kept = {column: promises_of([suite], having) for column, having in classes().items()}
        for promise in promises_of([suite], ()):
            why = {column: None if kept[column][promise] else _why(column, suite) for column in COLUMNS}
            found.append(Row(promise, why))
    for promise, tests in BY_ONE_TEST.items():
        found.append(Row(promise, {name: None if name in tests else WHY_NO_TEST[name] for name in COLUMNS}))
    return found


def _why(column: str, suite: type) -> str:
    said = WHY.get(column, {}).get(suite)
    assert said, f"{column} does not pass all of {suite.__name__}, and WHY does not say why"
    return said


def written() -> str:
    """The table with its notes, in Markdown."""
    notes: list[str] = []

    def cell(why: str | None) -> str:
        if why is None:
            return "yes"
        if why not in notes:
            notes.append(why)
        return f"no ({notes.index(why) + 1})"

    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {' | '.join([row.promise, *map(cell, row.why.values())])} |" for row in rows()]
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]) + "\n"


def on_the_page() -> str:
    """The one that stands there."""
    found = re.search(r"^\| \| inmemory \|.*\n(?:\|.*\n)+\n(?:\d+\. .*\n)*", PAGE.read_text(), re.MULTILINE)
    assert found is not None, f"{PAGE.name} has no table of promises"
    return found[0]


if __name__ == "__main__":
    sys.path.append(str(TESTS / "sockets"))
    PAGE.write_text(PAGE.read_text().replace(on_the_page(), written()))
