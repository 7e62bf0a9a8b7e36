"""What tests of sockets share: both transports, their own `app` served by them, and what the log complains of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from door import Complaints, listening
from nats_server import NatsServer
from wire import TRANSPORTS, serving

from aquilia.sockets import AquilaSockets


@pytest.fixture(scope="module", params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> Any:
    """What uvicorn takes as its `ws`: our own server, and its own."""
    return TRANSPORTS[request.param]


@pytest.fixture
async def base(transport: Any, app: AquilaSockets) -> AsyncIterator[str]:
    """Where the application of the test's file is served."""
    async with serving(app, ws=transport) as base:
        yield base


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """What is logged as a warning or worse; the test must take it all."""
    with listening() as complaints:
        yield complaints
    assert complaints.take() == []


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()
