"""RFC 6455 and 7692, by the cases of the Autobahn test suite: the quick ones, and in CI all of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conformance.compression import answer_fits
from conformance.suite import COMPRESSION, PROTOCOL, SUBJECTS, unexpected
from processes import succeeds

CI = os.environ.get("CI", "").lower() in {"1", "true"}
QUICK = "1.*,2.*,3.*,4.*,5.*,6.1.*,6.2.*,6.3.*,6.4.1,7.*,9.1.1,9.2.1,9.3.1,9.4.1,10.*"
CASES = PROTOCOL if CI else QUICK
FEW = [f"12.{data}.{5 + data}" for data in range(1, 6)] + [f"13.{offer}.{5 + offer}" for offer in range(1, 8)]
COMPRESSED = COMPRESSION if CI else ",".join(FEW)


async def verdicts(folder: Path, *options: str) -> dict[str, dict[str, str]]:
    """What `make conformance` tells; it fails where a case is worse than is known."""
    report = folder / "report.json"
    # In a process of its own: the suite leaves files open, which is a warning, which would be an error here.
    await succeeds("-m", "conformance", "--report", str(report), *options, seconds=170)
    return json.loads(report.read_text())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("transport", ["native", "asgi"])
async def test_every_case_is_as_the_rfc_asks_for_but_those_that_are_known(
    transport: str, tmp_path: Path
) -> None:
    found = await verdicts(tmp_path, "--transports", transport, "--cases", CASES)

    assert len(found[transport]) > (300 if CI else 100)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("subject", SUBJECTS)
async def test_every_case_of_compression_is_ok(subject: str, tmp_path: Path) -> None:
    found = await verdicts(tmp_path, "--transports", subject, "--cases", COMPRESSED)

    assert len(found[subject]) == (216 if CI else len(FEW))
    assert set(found[subject].values()) == {"OK"}


@pytest.mark.parametrize(
    ("offered", "answered", "fits"),
    [
        ("permessage-deflate", None, True),
        ("permessage-deflate", "permessage-deflate", True),
        ("permessage-deflate", "permessage-deflate; server_max_window_bits=12", True),
        ("permessage-deflate", "permessage-deflate; client_max_window_bits=12", False),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate; client_max_window_bits=12", True),
        (
            "permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=10",
            False,
        ),
        ("permessage-deflate; server_max_window_bits=9", "permessage-deflate", False),
        ("permessage-deflate; server_no_context_takeover", "permessage-deflate", False),
        ("permessage-deflate; server_no_context_takeover, permessage-deflate", "permessage-deflate", True),
        ("permessage-deflate", "permessage-deflate; mux", False),
        ("permessage-deflate", "x-deflate", False),
        ("permessage-deflate", "permessage-deflate, permessage-deflate", False),
    ],
)
def test_an_answer_that_was_not_offered_is_seen(offered: str, answered: str | None, fits: bool) -> None:
    heads = [
        f"X: 1\r\nSec-WebSocket-Extensions: {value}\r\nY: 2\r\n" if value else "X: 1\r\n"
        for value in (offered, answered)
    ]
    assert answer_fits(*heads) is fits


@pytest.mark.timeout(180)
async def test_other_asgi_applications_on_the_native_transport_keep_to_it_as_well(tmp_path: Path) -> None:
    cases = CASES if CI else "1.*,5.*,6.4.1,7.*,9.3.1,9.4.1"
    found = await verdicts(tmp_path, "--transports", "native", "--path", "asgi", "--cases", cases)

    assert len(found["native"]) > 60


def test_a_case_that_is_worse_than_known_is_told() -> None:
    assert unexpected("native", {"1.1.1": "OK", "6.4.3": "NON-STRICT", "7.1.6": "INFORMATIONAL"}) == []
    assert unexpected("native", {"12.1.1": "UNIMPLEMENTED"}) == ["native 12.1.1: UNIMPLEMENTED"]
    assert unexpected("native", {"6.4.3": "FAILED", "1.1.1": "NON-STRICT"}) == [
        "native 6.4.3: FAILED",
        "native 1.1.1: NON-STRICT",
    ]
