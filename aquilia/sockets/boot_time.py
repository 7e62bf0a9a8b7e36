"""How long this process took to start: about as long as the next one will, which its clients have to wait for."""

from __future__ import annotations

import os
import time

from aquilia.clock import Clock

__all__ = ["AHEAD", "LONGEST_BOOT", "USUAL_BOOT", "age", "boot_time"]

AHEAD = "AQ_WS_BOOT_AHEAD"
"""The variable that `aq serve` sets for its workers: the seconds before the first of them was started."""
USUAL_BOOT = 1.0
"""Seconds that are taken where nothing is known."""
LONGEST_BOOT = 10.0
"""Seconds: a process that is older was not started for this application alone, such as a notebook's."""
_IMPORTED = time.monotonic()
_STARTED = 19
"""The place of `starttime` in /proc/self/stat behind the command's name: see proc_pid_stat(5)."""


def boot_time(clock: Clock) -> float:
    """Seconds from the start of the process until now, where that can be its boot; USUAL_BOOT where it cannot.

    The clock of a test knows of no process.
    """
    if clock.monotonic is not time.monotonic:
        return USUAL_BOOT
    since = age()
    return since + float(os.environ.get(AHEAD, 0.0)) if since <= LONGEST_BOOT else USUAL_BOOT


def age() -> float:
    """Seconds since this process was started."""
    since_import = time.monotonic() - _IMPORTED
    try:
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b")")[2].split()[_STARTED])
        known = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # no Linux
        return since_import
    return max(known, since_import)
