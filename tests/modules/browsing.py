"""The chat's page under test: its server, a person at the page, and the wire between the two."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Locator, Page, WebSocketRoute, expect

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "modules/chat"
TIMEOUT = 20.0


class Server:
    """`aq serve` in a process of its own, which can be stopped and started again at the same address."""

    def __init__(self, workspace: Path, port: int) -> None:
        self.port = port
        self._workspace = workspace
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def start(self) -> None:
        self._process = await self._aq("serve", "--port", str(self.port), "--log-level", "warning")
        async with asyncio.timeout(TIMEOUT), httpx.AsyncClient() as client:
            while True:
                assert self._process.returncode is None, "the server ended"
                try:
                    await client.get(self.url)
                    return
                except httpx.TransportError:
                    await asyncio.sleep(0.02)

    async def compile(self) -> None:
        assert await (await self._aq("compile")).wait() == 0

    async def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        assert await asyncio.wait_for(self._process.wait(), TIMEOUT) == 0

    async def _aq(self, *arguments: str) -> asyncio.subprocess.Process:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AQ_")}
        environment = {**kept, "PYTHONPATH": str(ROOT)}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aquilia.cli", *arguments, cwd=self._workspace, env=environment
        )


def under_strict_policy(html: str) -> str:
    """The page with a Content-Security-Policy that allows its own script and style, and its own server."""
    hashes = {
        tag: base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        for tag, code in re.findall(r"<(style|script)[^>]*>(.*?)</\1>", html, re.DOTALL)
    }
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'"
    )
    return html.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{policy}">', 1)


class Tab:
    """One person at the page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.status = page.locator("#status")
        self.bubbles = page.locator("#log .bubble")
        self.own = page.locator("#log .own")
        self.members = page.locator("#members .member bdi")
        self.rooms = page.locator("#list bdi")
        self.typing = page.locator("#typing")
        self.message = page.get_by_label("Message", exact=True)

    async def enter(self, name: str, status: str = "Connected") -> None:
        await self.page.get_by_label("Name", exact=True).fill(name)
        await self.page.get_by_role("button", name="Continue").click()
        await expect(self.status).to_have_text(status)

    async def say(self, text: str) -> None:
        await self.message.fill(text)
        await self.message.press("Enter")

    async def open_room(self, name: str) -> None:
        await self.page.get_by_label("Create or join a room").fill(name)
        await self.page.get_by_role("button", name="Join", exact=True).click()

    def room(self, name: str) -> Locator:
        return self.page.locator(f"#list li[class~=room]:has(bdi:text-is('{name}'))")


class Wire:
    """Stands between a page and the server, and may keep frames back."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        self.keep_down: Callable[[dict[str, Any]], bool] = lambda frame: False
        self.keep_up: Callable[[dict[str, Any]], bool] = lambda frame: False
        self.opened = 0
        self.route: WebSocketRoute

    async def install(self, page: Page) -> None:
        await page.route_web_socket(re.compile("/chat/"), self._connect)

    async def install_with_clock(self, page: Page) -> None:
        """With a clock besides that `page.clock.run_for` moves on."""
        await page.clock.install()
        await self.install(page)

    def _connect(self, route: WebSocketRoute) -> None:
        self.route, server = route, route.connect_to_server()
        self.opened += 1

        def up(data: str | bytes) -> None:
            frame = json.loads(data)
            self.sent.append(frame)
            if not self.keep_up(frame):
                server.send(data)

        def down(data: str | bytes) -> None:
            frame = json.loads(data)
            if not self.keep_down(frame):
                route.send(data)
                self.received.append(frame)

        route.on_message(up)
        server.on_message(down)

    async def has_received(self, what: str) -> None:
        """Wait for a frame of this type, or event of this name."""
        async with asyncio.timeout(TIMEOUT):
            while not any(what in (each["type"], each.get("event")) for each in self.received):
                await asyncio.sleep(0.01)
