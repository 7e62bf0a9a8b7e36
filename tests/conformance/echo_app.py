"""What the suite talks to: whatever comes goes back, through Aquilia at `/flow` and through plain ASGI at `/asgi`."""

from __future__ import annotations

import warnings
from typing import Any

from aquilia.sockets import AquilaSockets, Compression
from aquilia.sockets.compat import Flow, FlowRequest

MAX_SIZE = 17 * 2**20
"""Bytes of a message; the suite's largest has 16 MiB."""
COMPRESSION: dict[str, bool | Compression] = {
    "off": False,
    "shared": True,
    "context": Compression(mode="context", min_size=0),
}

warnings.filterwarnings("ignore", category=DeprecationWarning, module=__name__)
flow = Flow()


@flow.ws("/flow", max_message_size=MAX_SIZE)
async def echo(request: FlowRequest) -> None:
    await request.accept()
    async for message in request:
        if isinstance(message, str):
            await request.send_text(message)
        else:
            await request.send_bytes(message)


def echoing(compression: str) -> Any:
    """Both, as one ASGI application."""
    sockets = AquilaSockets.from_controllers(flow.controllers, compression=COMPRESSION[compression])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket" or scope["path"] != "/asgi":
            await sockets(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})

    return app
