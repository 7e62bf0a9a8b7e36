"""What a test says by mistake to the test kit, and what it is told."""

from __future__ import annotations

from typing import Any

import pytest
import websockets
from kit_subject import ChatSocket, OtherSocket, mail
from legacy import DEPRECATED
from wire import serving

from aquilia.aquilary import BootError, Registry
from aquilia.asgi import Application
from aquilia.manifest import AppManifest
from aquilia.sockets.compat import Flow, FlowRequest
from aquilia.testing import HandshakeRefused, live_server, sockets_test


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"path": 7}, "a path begins with a slash, as /chat/x does, not 7"),
        ({"headers": {"x y": "z"}}, "the name of a header is a word of ASCII, not 'x y'"),
        ({"headers": {"a\r\nb": "c"}}, "the name of a header is a word of ASCII"),
        ({"headers": {"x": 7}}, "the header 'x' is one line of text, not 7"),
        ({"headers": {"x": "1\r\ny: 2"}}, "the header 'x' is one line of text"),
        ({"subprotocol": "a,b"}, "a subprotocol is a word of ASCII, not one of"),
        ({"subprotocol": [7]}, "a subprotocol is a word of ASCII, not one of [7]"),
    ],
)
async def test_a_handshake_that_no_client_can_send_is_refused(arguments: dict[str, Any], told: str) -> None:
    async with sockets_test(OtherSocket) as t:
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            await t.connect(**{"path": "/other", **arguments})
    assert told in str(refused.value)


@pytest.mark.parametrize("code", [7, 0, 5000, "x", None])
async def test_a_code_that_no_connection_ends_with_is_refused(code: Any) -> None:
    async with sockets_test(OtherSocket) as t:
        client = await t.connect("/other")
        with pytest.raises(ValueError, match="ends with a code from 1000 to 4999, not"):
            await client.disconnect(code)
        assert await client.request("enter", "r") == "r"


async def test_behind_the_end_nobody_is_let_in() -> None:
    async with sockets_test(ChatSocket, services=[mail]) as t:
        pass
    with pytest.raises(HandshakeRefused) as refused:
        await t.connect("/chat/x")
    assert (refused.value.code, refused.value.status) == ("WS_OVERLOADED", 503)
    assert t.application.sockets.live()["namespaces"] == 0


async def test_an_application_whose_lifespan_is_not_run_lets_nobody_in() -> None:
    app = Application(Registry.build([AppManifest("other", controllers=[OtherSocket])]))
    async with serving(app, lifespan="off") as base:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/other", proxy=None)
    assert refused.value.response.status_code == 503
    assert b"the application is not running: was its lifespan run?" in refused.value.response.body


@pytest.mark.parametrize("app", [7, None, OtherSocket])
def test_what_is_no_application_is_not_served(app: Any) -> None:
    with pytest.raises(TypeError, match="live_server takes an ASGI application, such as AquilaSockets, not"):
        with live_server(app):
            pass


async def test_a_setting_of_a_controller_is_not_one_of_the_application() -> None:
    with pytest.raises(BootError, match=r"each controller says that for itself: @Socket\(…, max_rooms=…\)"):
        async with sockets_test(OtherSocket, max_rooms=2):
            pass
    async with sockets_test(OtherSocket, max_connections=2):
        pass


@DEPRECATED
async def test_a_function_whose_clients_know_no_envelope_is_for_a_live_server() -> None:
    flow = Flow()

    @flow.ws("/old/:name")
    async def greet(request: FlowRequest) -> None:
        await request.accept()
        await request.send_json({"hello": request.path_params["name"]})
        await request.receive_text()

    async with sockets_test(OtherSocket, *flow.controllers) as t:
        with pytest.raises(TypeError, match=r"'/old/ann' is served by a function.*: use live_server"):
            await t.connect("/old/ann")
        assert await t.connect("/other")
