"""What the process holds."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Any

COUNTED = ("aquilia", "picows", "uvicorn")


def timers() -> int:
    """Timers that wait to fire, or that something holds though they have; on asyncio's loop and on uvloop.

    uvloop shows nobody what is scheduled. But its handles are objects that the garbage collector sees, and each lives
    as long as it waits, or is held.
    """
    return sum(type(each).__name__ == "TimerHandle" and not each.cancelled() for each in gc.get_objects())


def held() -> dict[str, Any]:
    """All of it, by its kind, once garbage is gone."""
    gc.collect()
    kinds = Counter(
        f"{type(each).__module__}.{type(each).__qualname__}"
        for each in gc.get_objects()
        if str(type(each).__module__).startswith(COUNTED) and not isinstance(each, Enum)
    )
    loop = asyncio.get_running_loop()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "loop": type(loop).__module__.partition(".")[0],
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "tasks": len(asyncio.all_tasks()),
        "timers": timers(),
        "objects": dict(kinds),
    }
