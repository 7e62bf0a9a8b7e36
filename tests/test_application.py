"""The application's start and stop where more than one thing goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from aquilia import GET, AppManifest, Controller
from aquilia.aquilary import BootError, Registry
from aquilia.asgi import Application


class Stuck(Controller):
    @GET("/stuck")
    async def page(self) -> None: ...

    async def on_shutdown(self) -> None:
        raise RuntimeError("stuck")


class Broken(Controller):
    @GET("/broken")
    async def page(self) -> None: ...

    async def on_startup(self) -> None:
        raise RuntimeError("no disk")


def application(*controllers: Any) -> Application:
    return Application(Registry.build([AppManifest("app", controllers=controllers)]))


async def test_what_the_start_failed_of_is_raised_even_if_it_cannot_be_undone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(RuntimeError, match="no disk"):
        await application(Stuck, Broken).startup()
    assert "stuck" in caplog.text


async def test_a_server_is_told_that_the_stop_failed(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Any] = []
    asked = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(asked)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await application(Stuck)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.failed"]
    assert "stuck" in caplog.text


def test_a_controller_that_is_none_is_refused() -> None:
    class Plain:
        pass

    with pytest.raises(BootError, match="Plain does not extend Controller"):
        application(Plain)
