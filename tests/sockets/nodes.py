"""Nodes of one application: processes of uvicorn, each with its port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path


@contextlib.asynccontextmanager
async def node(folder: Path, app: str, url: str, port: int) -> AsyncIterator[str]:
    """A process that serves the `app` of this module, given as text, over the broker at `url`; gives `HOST:PORT`."""
    (folder / "node_app.py").write_text(app)
    words = ["-m", "uvicorn", "node_app:app", "--port", str(port), "--log-level", "warning"]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "AQ_WS_ADAPTER_URL": url}
    process = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=folder, env=env)
    try:
        async with asyncio.timeout(30):
            while not await listens(port):
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):  # the test has killed it
            process.terminate()
        async with asyncio.timeout(20):
            await process.wait()


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
