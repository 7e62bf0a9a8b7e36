"""`aq serve` at the door: `--trusted-proxies`, whose word on who a client is counts, and `--max-header-size`."""

from __future__ import annotations

import pytest
import websockets
from workspaces import Workspace

MANIFEST = "modules/echo/manifest.py"


async def test_only_proxies_that_are_named_are_believed(echo: Workspace) -> None:
    echo.edit(MANIFEST, 'version="1.2.3"', 'version="1.2.3", websockets={"trusted_proxies": ["10.0.0.1"]}')
    echo.compile()
    told = {"Forwarded": "for=192.0.2.1;proto=https;host=a.example", "Origin": "https://a.example"}

    async def is_let_in(url: str) -> bool:
        try:
            async with websockets.connect(url.replace(":room", "x"), proxy=None, additional_headers=told):
                return True
        except websockets.InvalidStatus as refused:
            assert refused.response.status_code == 403
            return False

    for words, believed in (((), False), (("--trusted-proxies", "10.0.0.0/8,127.0.0.1"), True)):
        async with echo.serving(*words) as server:
            assert await is_let_in(server.sockets[0]) is believed


def test_what_names_no_proxies_is_refused(compiled: Workspace) -> None:
    told = compiled.refused("serve", "--trusted-proxies", "127.0.0.1,proxy.example", code=2)
    assert "'proxy.example'" in told


async def test_the_head_of_a_request_has_a_size_of_its_own(compiled: Workspace) -> None:
    async with compiled.serving("--max-header-size", "2000") as server:
        url = server.sockets[0].replace(":room", "x")
        async with websockets.connect(url, proxy=None, additional_headers={"cookie": "x" * 1000}):
            pass
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, proxy=None, additional_headers={"cookie": "x" * 2000})
        assert refused.value.response.status_code == 431
