"""The promises of `aquilia.sockets.adapters.base` as tests, for adapters of your own.

A class of yours that inherits from one of these has its tests, once it has the fixture `make_adapter`:

- `AdapterContract`: all that follows, on several nodes;
- `SharedBrokerContract`, `SharedLogContract` and `SharedStoreContract`: its parts: plain rooms, rooms with history,
  and the store;
- `BrokerContract`, `LogContract` and `StoreContract`: the same for what one process has for itself.

`RestartContract`, with the fixture `restart`, is a broker that is killed and comes back with what it has kept.
`ClusterContract`, with the fixture `adapter_url`, is the whole application over two processes that have the adapter.

What your adapter does not promise is what your class does not inherit: `promises_of(SUITES, [TestMyBus])` has the
rest, in words. They need pytest and pytest-asyncio.
"""

from __future__ import annotations

from aquilia.testing.adapters.brokers import (
    BrokerContract,
    NamespaceOrderContract,
    SharedBrokerContract,
)
from aquilia.testing.adapters.cluster import ClusterContract
from aquilia.testing.adapters.contract import MakeAdapter
from aquilia.testing.adapters.logs import LogContract, SharedLogContract
from aquilia.testing.adapters.promises import promises_of
from aquilia.testing.adapters.restarts import Restart, RestartContract
from aquilia.testing.adapters.stores import SharedStoreContract, StoreContract

__all__ = [
    "SUITES",
    "AdapterContract",
    "BrokerContract",
    "ClusterContract",
    "LogContract",
    "MakeAdapter",
    "NamespaceOrderContract",
    "Restart",
    "RestartContract",
    "SharedBrokerContract",
    "SharedLogContract",
    "SharedStoreContract",
    "StoreContract",
    "promises_of",
]


class AdapterContract(SharedBrokerContract, SharedLogContract, SharedStoreContract):
    """All promises of an adapter, on several nodes."""


SUITES: tuple[type, ...] = (
    BrokerContract,
    SharedBrokerContract,
    NamespaceOrderContract,
    LogContract,
    SharedLogContract,
    StoreContract,
    SharedStoreContract,
    RestartContract,
    ClusterContract,
)
"""All that have tests of their own."""
