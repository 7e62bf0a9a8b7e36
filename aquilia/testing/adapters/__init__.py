"""The promises of `aquilia.sockets.adapters.base` as tests, for adapters of your own.

A class of yours that inherits from one of these has its tests, once it has the fixture `make_adapter`:

- `AdapterContract`: all that follows, on several nodes;
- `SharedBrokerContract`, `SharedLogContract` and `SharedStoreContract`: its parts: plain rooms, rooms with history,
  and the store;
- `BrokerContract`, `LogContract` and `StoreContract`: the same for what one process has for itself.

`ClusterContract`, with the fixture `adapter_url`, is the whole application over two processes that have the adapter.

What your adapter does not promise is what your class does not inherit. They need pytest and pytest-asyncio.
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
from aquilia.testing.adapters.stores import SharedStoreContract, StoreContract

__all__ = [
    "AdapterContract",
    "BrokerContract",
    "ClusterContract",
    "LogContract",
    "MakeAdapter",
    "NamespaceOrderContract",
    "SharedBrokerContract",
    "SharedLogContract",
    "SharedStoreContract",
    "StoreContract",
]


class AdapterContract(SharedBrokerContract, SharedLogContract, SharedStoreContract):
    """All promises of an adapter, on several nodes."""
