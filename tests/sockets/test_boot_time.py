"""How long a process took to start: what its clients are told by, when it leaves."""

from __future__ import annotations

import subprocess
import sys

from aquilia.clock import Clock
from aquilia.sockets.boot_time import LONGEST_BOOT, USUAL_BOOT, boot_time


def told_by_a_process(code: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return float(done.stdout)


SLOW = "import time; time.sleep(1.2); "
ASK = "from aquilia.sockets.boot_time import boot_time; from aquilia.clock import Clock; "


def test_it_is_counted_from_the_import_at_least() -> None:
    assert 1.2 <= told_by_a_process(f"{ASK}{SLOW}print(boot_time(Clock()))") <= LONGEST_BOOT


def test_on_linux_what_comes_before_the_import_counts_as_well() -> None:
    least = 1.2 if sys.platform.startswith("linux") else 0.0  # others do not tell
    assert least <= told_by_a_process(f"{SLOW}{ASK}print(boot_time(Clock()))") <= LONGEST_BOOT


def test_a_process_that_is_old_was_not_started_for_this() -> None:
    sooner = "import aquilia.sockets.boot_time as module; module.LONGEST_BOOT = 0.01; "
    assert told_by_a_process(f"{ASK}{sooner}{SLOW}print(boot_time(Clock()))") == USUAL_BOOT


def test_the_clock_of_a_test_knows_of_no_process() -> None:
    assert boot_time(Clock(monotonic=lambda: 5.0)) == USUAL_BOOT


def test_what_went_before_a_worker_counts_as_well() -> None:
    ahead = "import os; os.environ['AQ_WS_BOOT_AHEAD'] = '4.5'; "
    assert 4.5 <= told_by_a_process(f"{ASK}{ahead}print(boot_time(Clock()))") <= 4.5 + LONGEST_BOOT
