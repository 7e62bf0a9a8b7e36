"""The files of a new workspace."""

from __future__ import annotations

__all__ = ["workspace_files"]


def workspace_files(name: str) -> dict[str, str]:
    """The text of each file, by its path in the workspace's folder; `name` is that of its one app."""
    module = name.replace("-", "_")
    words = {
        "__NAME__": name,
        "__MODULE__": module,
        "__CLASS__": "".join(part.capitalize() for part in module.split("_")),
    }
    return {path: _filled(text, words) for path, text in _FILES.items() for path in [_filled(path, words)]}


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


_README = """# __NAME__

```sh
aq compile           # checks everything, and writes artifacts/ws.crous
aq serve             # http://127.0.0.1:8000: open it in two tabs
aq serve --reload    # the same while you work, without compiling
aq ws inspect        # what clients may send and get
```

| file | what is in it |
|---|---|
| `modules/__MODULE__/manifest.py` | what the app consists of |
| `modules/__MODULE__/controllers.py` | the page, and what is live on it |
| `modules/__MODULE__/page.html` | the page itself |
| `artifacts/ws.crous` | the contract with clients, once compiled; it belongs into git |
"""

_GITIGNORE = """__pycache__/
.venv/
.aquilia/
"""

_MANIFEST = '''"""What the app consists of, as data."""

from aquilia.manifest import AppManifest
from controllers import __CLASS__Page, __CLASS__Socket

manifest = AppManifest("__NAME__", version="0.1.0", controllers=[__CLASS__Page, __CLASS__Socket])
'''

_CONTROLLERS = '''"""The page, and what is live on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from aquilia import GET, Controller
from aquilia.sockets import Connection, Emits, Event, Socket, SocketController
from msgspec import Meta, Struct
from starlette.responses import FileResponse


class Line(Struct):
    """What somebody says. A payload that is no Line never reaches a handler: its sender gets an error."""

    text: Annotated[str, Meta(min_length=1, max_length=500)]


class __CLASS__Page(Controller):
    """Plain HTTP."""

    @GET("/")
    async def show(self) -> FileResponse:
        """The page for browsers."""
        return FileResponse(Path(__file__).with_name("page.html"))


@Socket("/__NAME__/:topic")
class __CLASS__Socket(SocketController):
    """Whoever is connected to a topic hears what is said there; each topic is a world of its own."""

    said = Emits("said", Line)

    @Event("say")
    async def say(self, conn: Connection, payload: Line) -> int:
        """Pass a line on to everyone, its sender too. Answers with its length, to clients that ask for an ack."""
        await self.broadcast(self.said, payload)
        return len(payload.text)
'''

_PAGE = """<!doctype html>
<html lang="en">
  <head>
    <link rel="icon" href="data:,">
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width">
    <title>__NAME__</title>
    <style>
      :root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
      body { max-width: 36rem; margin: 3rem auto; padding: 0 1rem; }
      form { display: flex; gap: .5rem; }
      input { flex: 1; min-width: 0; }
      input, button { font: inherit; padding: .5rem .75rem; }
      ul { padding: 0; list-style: none; }
    </style>
  </head>
  <body>
    <h1>__NAME__</h1>
    <form>
      <input aria-label="A line" placeholder="Say something, with two tabs open" maxlength="500" required autofocus>
      <button>Say</button>
    </form>
    <ul aria-live="polite"></ul>
    <script>
      const scheme = location.protocol === "https:" ? "wss" : "ws";
      const socket = new WebSocket(`${scheme}://${location.host}/__NAME__/lobby`);
      const form = document.querySelector("form");
      const input = document.querySelector("input");
      const show = (text) => {
        const item = document.createElement("li");
        item.textContent = text;
        document.querySelector("ul").prepend(item);
      };
      socket.onmessage = ({ data }) => {
        const { event, payload } = JSON.parse(data);
        if (event === "said") show(payload.text);
        if (event === "error") show(payload.message);
      };
      socket.onclose = () => show("The connection has ended: load the page again.");
      form.onsubmit = (submit) => {
        submit.preventDefault();
        if (socket.readyState !== WebSocket.OPEN) return;
        socket.send(JSON.stringify({ event: "say", payload: { text: input.value } }));
        input.value = "";
      };
    </script>
  </body>
</html>
"""

_FILES = {
    "README.md": _README,
    ".gitignore": _GITIGNORE,
    "modules/__MODULE__/manifest.py": _MANIFEST,
    "modules/__MODULE__/controllers.py": _CONTROLLERS,
    "modules/__MODULE__/page.html": _PAGE,
}
