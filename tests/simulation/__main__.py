"""`python -m simulation`: see `simulation`."""

from __future__ import annotations

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(
        sys.executable,
        [sys.executable, "-m", "simulation", *sys.argv[1:]],
        {**os.environ, "PYTHONHASHSEED": "0"},
    )

from simulation import chance  # isort: skip  # before all that takes time and chance by name

import argparse
import gc
from collections import Counter

from simulation.world import FAULTS, Outcome, run


def main() -> int:
    """Run what was asked for. 1: a seed failed."""
    parser = argparse.ArgumentParser(
        prog="make simulate ARGS=", description="Whole nodes and clients, by a seed."
    )
    parser.add_argument("--seed", type=int, help="run this one alone, and print all that happens")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed (0)")
    parser.add_argument("--seeds", type=int, default=1000, help="how many of them (1000)")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails")
    parser.add_argument(
        "--every-fault", action="store_true", help="fail unless every kind of fault came to pass"
    )
    parser.add_argument("--digests", action="store_true", help="print a digest of each run")
    asked = parser.parse_args()
    gc.freeze()
    gc.disable()  # what is collected when is nobody's choice
    if asked.seed is not None:
        return _show(run(asked.seed))
    return _block(asked)


def _show(outcome: Outcome) -> int:
    print("\n".join(outcome.trace))
    print(f"seed {outcome.seed}: faults {dict(outcome.faults)}, digest {outcome.digest}")
    for problem in outcome.problems:
        print(f"seed {outcome.seed}: {problem}")
    return bool(outcome.problems)


def _block(asked: argparse.Namespace) -> int:
    faults: Counter[str] = Counter()
    failed: list[int] = []
    seen = gaps = 0
    begun = chance.real_time()
    for seed in range(asked.first, asked.first + asked.seeds):
        outcome = run(seed)
        faults += outcome.faults
        seen += outcome.seen
        gaps += outcome.gaps
        if asked.digests:
            print(f"{seed} {outcome.digest}")
        if outcome.problems:
            failed.append(seed)
            for problem in outcome.problems[:5]:
                print(f"seed {seed}: {problem}", flush=True)
            if asked.stop:
                break
        gc.collect()
    took = chance.real_time() - begun
    told = ", ".join(f"{name} {faults[name]}" for name in FAULTS)
    print(f"{asked.seeds} seeds in {took:.1f} s: {seen} messages seen, {gaps} gaps told; {told}")
    if missing := [name for name in FAULTS if not faults[name]]:
        print(f"never came to pass: {', '.join(missing)}")
    if failed:
        print(f"failed: {failed}")
        print(f"again, with all that happens: make simulate ARGS='--seed {failed[0]}'")
    return bool(failed or (asked.every_fault and missing))


if __name__ == "__main__":
    sys.exit(main())
