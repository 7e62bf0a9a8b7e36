"""The Autobahn test suite against both transports: RFC 6455, and RFC 7692.

`python -m conformance`, with `tests` and `tests/sockets` on the path, as `make conformance` has them:

    make conformance                                  # all cases
    make conformance ARGS=--write                     # the same, into docs/CONFORMANCE.md
    make conformance ARGS="--cases 6.*,7.1.2 --transports native"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from conformance.suite import COMPRESSION, KNOWN, PROTOCOL, SUBJECTS, VERDICTS, run, unexpected

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "CONFORMANCE.md"
REPORT = ROOT / "artifacts" / "conformance.json"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"
GROUPS = {
    "1": "text and binary messages",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "reserved opcodes",
    "5": "fragments",
    "6": "UTF-8",
    "7": "closing",
    "9": "large messages, many fragments",
    "10": "fragments as they are sent automatically",
    "12": "compression",
    "13": "compression, by its parameters",
}


def table(reports: dict[str, dict[str, str]]) -> str:
    """The counts of each group, and the cases that are not OK, in Markdown."""
    lines = [f"| cases | transport | {' | '.join(VERDICTS)} |", "|---|---|" + "---:|" * len(VERDICTS)]
    for group, words in GROUPS.items():
        for subject, verdicts in reports.items():
            found = Counter(word for case, word in verdicts.items() if case.split(".")[0] == group)
            if found:
                counts = " | ".join(str(found[word] or "") for word in VERDICTS)
                lines.append(f"| {group}: {words} | {subject} | {counts} |")
    lines += ["", "| transport | case | may be | why |", "|---|---|---|---|"]
    for subject in reports:
        lines += [f"| {subject} | {key} | {worst} | {why} |" for key, (worst, why) in KNOWN[subject].items()]
    return "\n".join(lines) + "\n"


def write(reports: dict[str, dict[str, str]]) -> None:
    """Put the table into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, behind = text.split(BEGIN)[0], text.split(END)[1]
    of = f"kosoku {version('kosoku')}, picows {version('picows')}, uvicorn {version('uvicorn')}, "
    of += f"websockets {version('websockets')}"
    DOCUMENT.write_text(f"{before}{BEGIN}With {of}.\n\n{table(reports)}{END}{behind}", encoding="utf-8")


async def main() -> int:
    """See above. The exit status."""
    parser = argparse.ArgumentParser(description="The Autobahn test suite against both transports")
    subjects = ",".join(SUBJECTS)
    parser.add_argument("--transports", default=subjects, help=f"of {subjects}, those wanted")
    parser.add_argument(
        "--cases", default=f"{PROTOCOL},{COMPRESSION}", help="patterns with commas, as in '6.*,7.1.2'; or all"
    )
    parser.add_argument(
        "--path", default="flow", choices=["flow", "asgi"], help="through Aquilia, or plain ASGI"
    )
    parser.add_argument("--write", action="store_true", help="write the results into docs/CONFORMANCE.md")
    parser.add_argument(
        "--report", type=Path, default=REPORT, help="where the verdict of each case is written"
    )
    options = parser.parse_args()
    logging.getLogger("aquilia").setLevel(logging.CRITICAL)
    reports = {}
    cases = options.cases.split(",")
    for subject in options.transports.split(","):
        reports[subject] = await run(subject, cases, options.path)
    options.report.parent.mkdir(exist_ok=True)
    options.report.write_text(json.dumps(reports, indent=1), encoding="utf-8")
    if options.write:
        write(reports)
    print(table(reports), end="")
    problems = [line for subject, verdicts in reports.items() for line in unexpected(subject, verdicts)]
    if problems:
        print("\n".join(["", *problems]), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    status = asyncio.run(main())
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of kosoku's have no end. One that wakes the loop while the interpreter is taken down aborts the process.
    os._exit(status)
