"""The same server on FastAPI, as its documentation has it: Pydantic models, and a manager that holds connections."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field


class Text(BaseModel):
    """The payload of every event: something said, or a room's name."""

    text: Annotated[str, Field(max_length=2000)]


class Message(BaseModel):
    """What comes and goes."""

    type: str = "event"
    event: str
    payload: Text
    id: str | None = None


class ConnectionManager:
    """Who has joined."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    def disconnect(self, websocket: WebSocket) -> None:
        """Forget one, if it is there."""
        if websocket in self.active_connections:
            self.active_connections.remove(websocket)

    async def broadcast(self, text: str) -> None:
        """Send to all; encoded once."""
        for connection in self.active_connections:
            await connection.send_text(text)


app = FastAPI()
manager = ConnectionManager()


@app.websocket("/")
async def serve(websocket: WebSocket) -> None:
    """One connection."""
    await websocket.accept()
    try:
        while True:
            message = Message.model_validate_json(await websocket.receive_text())
            if message.event == "echo":
                await websocket.send_text(message.model_dump_json(exclude_none=True))
            elif message.event == "join":
                manager.active_connections.append(websocket)
                await websocket.send_json({"type": "ack", "id": message.id})
            elif message.event == "pub":
                await manager.broadcast(message.model_dump_json(exclude_none=True))
    except WebSocketDisconnect:
        manager.disconnect(websocket)
