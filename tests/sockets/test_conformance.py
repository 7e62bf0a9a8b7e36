"""RFC 6455, by the cases of the Autobahn test suite: the quick ones, and in CI all of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conformance.suite import COMPRESSION, PROTOCOL, unexpected
from processes import succeeds

CI = os.environ.get("CI", "").lower() in {"1", "true"}
QUICK = "1.*,2.*,3.*,4.*,5.*,6.1.*,6.2.*,6.3.*,6.4.1,7.*,9.1.1,9.2.1,9.3.1,9.4.1,10.*"
CASES = PROTOCOL if CI else QUICK


async def verdicts(folder: Path, *options: str) -> dict[str, dict[str, str]]:
    """What `make conformance` tells; it fails where a case is worse than is known."""
    report = folder / "report.json"
    # In a process of its own: the suite leaves files open, which is a warning, which would be an error here.
    await succeeds("conformance", "--report", str(report), *options, seconds=170)
    return json.loads(report.read_text())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("transport", ["native", "asgi"])
async def test_every_case_is_as_the_rfc_asks_for_but_those_that_are_known(
    transport: str, tmp_path: Path
) -> None:
    found = await verdicts(tmp_path, "--transports", transport, "--cases", CASES)

    assert len(found[transport]) > (300 if CI else 100)


@pytest.mark.timeout(180)
async def test_compression_is_not_agreed_on_unless_it_is_asked_for(tmp_path: Path) -> None:
    found = await verdicts(tmp_path, "--transports", "native", "--cases", COMPRESSION.lstrip(","))

    assert len(found["native"]) > 200
    assert set(found["native"].values()) == {"UNIMPLEMENTED"}


@pytest.mark.timeout(180)
async def test_other_asgi_applications_on_the_native_transport_keep_to_it_as_well(tmp_path: Path) -> None:
    cases = CASES if CI else "1.*,5.*,6.4.1,7.*,9.3.1,9.4.1"
    found = await verdicts(tmp_path, "--transports", "native", "--path", "asgi", "--cases", cases)

    assert len(found["native"]) > 60


def test_a_case_that_is_worse_than_known_is_told() -> None:
    assert unexpected("native", {"1.1.1": "OK", "6.4.3": "NON-STRICT", "7.1.6": "INFORMATIONAL"}) == []
    assert unexpected("native", {"6.4.3": "FAILED", "1.1.1": "NON-STRICT"}) == [
        "native 6.4.3: FAILED",
        "native 1.1.1: NON-STRICT",
    ]
