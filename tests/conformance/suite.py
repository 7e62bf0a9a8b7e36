"""The cases of the Autobahn suite against an echo on one transport, and what is known of them.

The cases are Autobahn's own; kosoku runs them on the Python of today, where `wstest` needs Python 2.7.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any, NamedTuple

from kosoku import FailureError, run_fuzzingclient
from wire import TRANSPORTS, serving

from conformance import compression, echo_app

VERDICTS = ("OK", "NON-STRICT", "INFORMATIONAL", "FAILED", "UNIMPLEMENTED")
PROTOCOL = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*"
COMPRESSION = "12.*,13.*"


class Subject(NamedTuple):
    """A transport, and the compression of the application behind it."""

    transport: str
    protocol: str | None
    """Which, for the cases of RFC 6455; None: they are not for it."""
    compression: str
    """Which, for those of RFC 7692, groups 12 and 13."""


SUBJECTS = {
    "native": Subject("native", "off", "shared"),
    "native-context": Subject("native", None, "context"),
    "asgi": Subject("asgi", "off", "off"),  # there it is the server's own, which is on
}

_AT_ONCE = "uvicorn closes by itself, before what came just before a broken frame is answered"
KNOWN: dict[str, dict[str, tuple[str, str]]] = {
    "native": {
        "6.4.[34]": ("NON-STRICT", "text is checked when its frame is complete, not while that still comes"),
    },
    "native-context": {},
    "asgi": {
        "3.[234]": ("NON-STRICT", _AT_ONCE),
        "4.[12].[345]": ("NON-STRICT", _AT_ONCE),
        "5.15": ("NON-STRICT", _AT_ONCE),
        "6.4.[1234]": ("NON-STRICT", "text is checked when its message is complete, by uvicorn"),
        "7.1.5": ("FAILED", "a close within a fragmented message is answered with 1002, by uvicorn"),
    },
}
"""The cases that do not have to be OK: by subject and pattern, the worst that they may be, and why."""


def verdict(result: Any) -> str:
    """The worse of what a case says of its messages, and of how the connection closed."""
    if not compression.answer_fits(result.http_request, result.http_response):
        return "FAILED"
    if result.behavior.value == "UNIMPLEMENTED":
        return "UNIMPLEMENTED"
    close = result.behavior_close.value
    words = (result.behavior.value, close if close in VERDICTS else "FAILED")
    ranks = ("OK", "INFORMATIONAL", "NON-STRICT", "FAILED")
    return max(words, key=lambda word: ranks.index(word) if word in ranks else len(ranks))


def unexpected(subject: str, verdicts: dict[str, str]) -> list[str]:
    """The cases that are worse than `KNOWN` has them."""
    found = []
    for case, word in verdicts.items():
        known = next((worst for key, (worst, _) in KNOWN[subject].items() if fnmatch(case, key)), "OK")
        if word not in ("OK", "INFORMATIONAL", known):
            found.append(f"{subject} {case}: {word}")
    return found


async def run(subject: str, cases: list[str], path: str = "flow") -> dict[str, str]:
    """The verdict of each case that is for this subject."""
    transport, protocol, packing = SUBJECTS[subject]
    of_compression = [case for case in cases if case.split(".")[0] in compression.GROUPS]
    of_protocol = [case for case in cases if case not in of_compression]
    found = {}
    for chosen, mode in (of_protocol, protocol), (of_compression, packing):
        if chosen and mode is not None:
            found |= await _run(transport, chosen, path, mode)
    return found


async def _run(transport: str, cases: list[str], path: str, mode: str) -> dict[str, str]:
    options = {"ws": TRANSPORTS[transport], "ws_max_size": echo_app.MAX_SIZE, "log_level": "critical"}
    async with serving(echo_app.echoing(mode), **options) as base:
        try:
            results = await run_fuzzingclient(f"{base}/{path}", cases=cases, concurrency=2)
        except FailureError as failure:
            results = failure.results
    return {result.case_id: verdict(result) for result in results}


compression.adapt()
