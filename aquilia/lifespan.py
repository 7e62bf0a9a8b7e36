"""The life of an application: the ASGI protocol of its start and its end, and the undoing of a start that failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.types import Receive, Send

from aquilia.aquilary import BootError
from aquilia.faults import Fault, Severity

__all__ = ["serve_lifespan", "undone_by"]

logger = logging.getLogger("aquilia")

Step = Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def undone_by(undo: Step) -> AsyncIterator[None]:
    """What fails in the block is undone, and raised; an error of the undoing is only logged."""
    try:
        yield
    except BaseException:
        try:
            await undo()
        except Exception:
            logger.exception("what had started did not stop cleanly")
        raise


async def serve_lifespan(startup: Step, shutdown: Step, receive: Receive, send: Send) -> None:
    """Start and stop when the server says so, and tell it of what fails. See the ASGI specification, Lifespan."""
    for step, name in ((startup, "startup"), (shutdown, "shutdown")):
        try:
            await receive()
        except asyncio.CancelledError:
            if name == "shutdown":  # told to end at once: a server logs with its trace what is raised here
                return
            raise
        try:
            await step()
        except Exception as error:
            # These say what to do, and the server logs what they say: no trace would add to that.
            fatal = isinstance(error, Fault) and error.severity is Severity.FATAL
            told = fatal or isinstance(error, BootError)
            logger.log(logging.DEBUG if told else logging.ERROR, "%s failed", name, exc_info=True)
            await send({"type": f"lifespan.{name}.failed", "message": str(error)})
            return
        await send({"type": f"lifespan.{name}.complete"})
