"""The seeded simulation finds nothing wrong, and is what it says: the same run for the same seed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
BLOCK = 25


async def simulate(*words: str) -> tuple[int, str]:
    """`make simulate` with these words: its exit code, and what it says. It has a process for itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "simulation",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "PYTHONHASHSEED": "0"},
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("first", [0, 25, 50, 75, 100, 125, 150, 175])
async def test_nothing_is_lost_or_doubled_whatever_goes_wrong(first: int) -> None:
    code, said = await simulate("--from", str(first), "--seeds", str(BLOCK), "--every-fault")
    assert code == 0, said


async def test_a_seed_is_the_same_run_again() -> None:
    """In another process, where all objects lie elsewhere in memory."""
    first, second = await asyncio.gather(
        *(simulate("--from", "200", "--seeds", "4", "--digests") for _ in "12")
    )
    digests = [said.splitlines()[:4] for _, said in (first, second)]
    assert digests[0] == digests[1]
    assert len({line.split()[1] for line in digests[0]}) == 4


async def test_one_seed_tells_all_that_happens() -> None:
    code, said = await simulate("--seed", "5")
    assert code == 0, said
    assert "node0.1 is up" in said
    assert "no more faults" in said
    assert "all is well" in said
