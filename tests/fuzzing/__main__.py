"""`make fuzz`: each target in a process of its own, for so many seconds; fails at the first that does not hold.

    make fuzz                                       # all of them, a minute each
    make fuzz ARGS="--seconds 600 --only frames"
    make fuzz ARGS="--only frames --input FILE"     # once more what a run has found

What atheris learns lies in `artifacts/fuzzing/`, for the next run; what breaks a target lies there as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

if "--here" in sys.argv:  # in the process that fuzzes: its coverage is what leads the fuzzer
    import atheris

    with atheris.instrument_imports(include=["aquilia"]):
        from fuzzing.targets import TARGETS
else:
    from fuzzing.targets import TARGETS

FOLDER = Path(__file__).parent.parent.parent / "artifacts" / "fuzzing"


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
    options += [f"-artifact_prefix={FOLDER}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=", description="Hostile bytes, led by coverage")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--only", choices=sorted(TARGETS), help="this target alone")
    parser.add_argument(
        "--input", type=Path, help="a file that a run has left: try it once more, with --only"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.input is not None:
        if options.only is None:
            parser.error("--input is for one target: add --only")
        TARGETS[options.only](options.input.read_bytes())
    elif options.here:
        fuzz(options.only, options.seconds)
    else:
        for name in [options.only] if options.only else TARGETS:
            print(f"== {name}", flush=True)
            command = [sys.executable, "-m", "fuzzing", "--here", "--only", name]
            command += ["--seconds", str(options.seconds)]
            if (code := subprocess.run(command, check=False).returncode) != 0:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
