"""The files of a new workspace."""

from __future__ import annotations

__all__ = ["workspace_files"]


def workspace_files(name: str) -> dict[str, str]:
    """The text of each file, by its path in the workspace's folder."""
    title = "".join(part.capitalize() for part in name.split("_"))
    return {
        path: text.replace("__NAME__", name).replace("__TITLE__", title)
        for path, text in {
            "README.md": _README,
            ".gitignore": _GITIGNORE,
            f"modules/{name}/manifest.py": _MANIFEST,
            f"modules/{name}/controllers.py": _CONTROLLERS,
            f"modules/{name}/page.html": _PAGE,
        }.items()
    }


_README = """# __NAME__

    aq compile    # checks everything, and writes artifacts/ws.crous
    aq serve      # http://127.0.0.1:8000

`aq serve --reload` is for working on it. `aq ws inspect` shows what clients may send and receive.
"""

_GITIGNORE = """__pycache__/
.venv/
.aquilia/
"""

_MANIFEST = '''"""What the app consists of."""

from controllers import Page, __TITLE__Socket

from aquilia.manifest import AppManifest

manifest = AppManifest("__NAME__", controllers=[Page, __TITLE__Socket])
'''

_CONTROLLERS = '''"""The controllers: a page to look at, and the socket behind it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from starlette.responses import FileResponse

from aquilia import GET, Controller
from aquilia.sockets import Connection, Emits, Event, OnConnect, Socket, SocketController


class Line(msgspec.Struct):
    """Something that somebody says."""

    text: str


class Page(Controller):
    """The page at the root."""

    @GET("/")
    async def show(self) -> FileResponse:
        """The page."""
        return FileResponse(Path(__file__).with_name("page.html"))


@Socket("/__NAME__/:topic")
class __TITLE__Socket(SocketController):
    """Whoever connects to a topic hears what is said there."""

    said = Emits("said", Line)

    @OnConnect()
    async def enter(self, conn: Connection) -> None:
        """Everyone is in the one room of the topic."""
        await conn.join("everyone")

    @Event("say")
    async def say(self, conn: Connection, payload: Line) -> None:
        """Pass a line on, to its sender too."""
        await self.publish_room("everyone", self.said, payload)
'''

_PAGE = """<!doctype html>
<html lang="en">
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width">
  <title>__NAME__</title>
  <style>
    :root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
    body { max-width: 36rem; margin: 3rem auto; padding: 0 1rem }
    form { display: flex; gap: .5rem }
    input { flex: 1; font: inherit; padding: .5rem }
    button { font: inherit; padding: .5rem 1rem }
  </style>
  <h1>__NAME__</h1>
  <form>
    <input aria-label="A line" placeholder="Say something, and open this page in a second tab" autofocus>
    <button>Say</button>
  </form>
  <ul aria-live="polite"></ul>
  <script>
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/__NAME__/hello`);
    const show = (text) => {
      const item = document.createElement("li");
      item.textContent = text;
      document.querySelector("ul").append(item);
    };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.event === "said") show(message.payload.text);
      if (message.event === "error") show(message.payload.message);
    };
    socket.onclose = () => show("The connection has ended; load the page again.");
    document.querySelector("form").onsubmit = (submit) => {
      submit.preventDefault();
      const input = document.querySelector("input");
      socket.send(JSON.stringify({ event: "say", payload: { text: input.value } }));
      input.value = "";
    };
  </script>
</html>
"""
