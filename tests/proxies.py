"""nginx and HAProxy as real processes, with the configurations of `deploy/`: other ports and paths, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import Pair

ROOT = Path(__file__).resolve().parent.parent
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


@dataclass
class Place:
    """Where a proxy listens, whom it passes on to, and its folder."""

    folder: Path
    port: int
    plain: int
    server: int
    timeout: str


def executable(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"needs {name}: make system-deps")
    return found


def changed(text: str, changes: dict[str, str]) -> str:
    for pattern, put in changes.items():
        text, count = re.subn(pattern, put, text, flags=re.MULTILINE)
        assert count, f"nothing in the configuration is like {pattern!r}"
    return text


def nginx(place: Place) -> list[str]:
    folder = place.folder
    text = changed(
        (ROOT / "deploy" / "nginx.conf").read_text(),
        {
            r"^.*listen \[::\].*\n": "",
            r"listen 80\b": f"listen 127.0.0.1:{place.plain}",
            r"listen 443\b": f"listen 127.0.0.1:{place.port}",
            r"127\.0\.0\.1:8000": f"127.0.0.1:{place.server}",
            r"\bexample\.com": "localhost",
            "/etc/ssl/aquilia": str(folder),
            "/var/log/nginx": str(folder),
            "/run/nginx.pid": f"{folder}/nginx.pid",
            r"(proxy_(read|send)_timeout +)60s": rf"\g<1>{place.timeout}",
            "^http {": "http {\n"
            + "".join(
                f"    {name}_temp_path {folder}/{name};\n"
                for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
        },
    )
    (folder / "nginx.conf").write_text(text)
    command = [executable("nginx"), "-p", str(folder), "-c", "nginx.conf"]
    return [*command, "-g", "daemon off;"]


def haproxy(place: Place) -> list[str]:
    folder = place.folder
    both = (folder / "chain.pem").read_bytes() + (folder / "key.pem").read_bytes()
    (folder / "aquilia.pem").write_bytes(both)
    text = changed(
        (ROOT / "deploy" / "haproxy.cfg").read_text(),
        {
            "bind :80$": f"bind 127.0.0.1:{place.plain}",
            "bind :443": f"bind 127.0.0.1:{place.port}",
            r"127\.0\.0\.1:8000": f"127.0.0.1:{place.server}",
            r"\bexample\.com": "localhost",
            "/etc/haproxy": str(folder),
            "(timeout (client|server|tunnel) +)60s": rf"\g<1>{place.timeout}",
            "inter 2s": "inter 200ms",
            "maxconn 30000": "maxconn 300",
        },
    )
    (folder / "haproxy.cfg").write_text(text)
    return [executable("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


PROXIES: dict[str, Callable[[Place], list[str]]] = {"nginx": nginx, "haproxy": haproxy}


@contextlib.asynccontextmanager
async def running(name: str, place: Place, pair: Pair) -> AsyncIterator[asyncio.subprocess.Process]:
    """The proxy, once it listens."""
    place.folder.mkdir(parents=True, exist_ok=True)
    pair.write(place.folder)
    told = place.folder / "told.log"
    with told.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*PROXIES[name](place), stdout=output, stderr=output)
    try:
        async with asyncio.timeout(20):
            while not await _listens(place.port):
                assert process.returncode is None, told.read_text()
                await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True
