"""The audit file outlives what happens to it: kills, other processes, full disks, other secrets."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aquilia.aquilary import BootError
from aquilia.clock import Clock
from aquilia.sockets.audit import file as audit_file
from aquilia.sockets.audit.chain import Verdict, Verifier
from aquilia.sockets.audit.file import QUEUE, AuditFile, AuditFileError
from aquilia.sockets.audit.records import AuditRecord
from aquilia.sockets.audit.trail import AuditTrail

NOW = 1_800_000_000.0
SECRET = b"s" * 32


def record(event: Any = "connection.kicked", **fields: Any) -> AuditRecord:
    return AuditRecord(time="2027-01-15T08:00:00.000Z", event=event, outcome="done", **fields)


def opened(path: Path, secret: bytes | None = None) -> AuditFile:
    file = AuditFile(path, secret, lambda: NOW)
    file.open()
    return file


def run(path: Path, records: int = 1, secret: bytes | None = None) -> None:
    """One process, from its beginning to its end."""
    file = opened(path, secret)
    for _ in range(records):
        file.append(record())
    file.close(record("audit.closed"))


def verified(path: Path, secret: bytes | None = None) -> Verdict:
    with path.open("rb") as lines:
        return Verifier(secret).read(lines)


def events(path: Path) -> list[str]:
    return [json.loads(line).get("event") for line in path.read_text().splitlines() if line.endswith("}")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "audit.jsonl"


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_restart_goes_on_with_the_chain(path: Path, secret: bytes | None) -> None:
    run(path, 2, secret)
    run(path, 1, secret)

    verdict = verified(path, secret)
    assert (verdict.problem, verdict.lines, verdict.begun, verdict.closed) == (None, 7, 2, 2)
    assert events(path)[2:5] == ["connection.kicked", "audit.closed", "audit.opened"]


def test_nobody_else_may_read_it_whatever_the_umask_and_its_mode_before(path: Path) -> None:
    before = os.umask(0)
    try:
        run(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        run(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize("cut", [1, 2, 30, 120])
def test_a_line_that_a_kill_has_torn_is_sealed_and_verifies(
    path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    run(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    run(path, 1)

    verdict = verified(path)
    assert verdict.problem is None
    if cut == 1:  # the newline alone
        assert (verdict.sealed, verdict.begun, verdict.closed) == (0, 2, 2)
    else:
        assert (verdict.sealed, verdict.begun, verdict.closed) == (1, 2, 1)
        assert "ended in the middle of a line" in caplog.text
        assert "did not close it" in path.read_text()


def test_a_torn_first_line_is_sealed_too(path: Path) -> None:
    run(path, 0)
    path.write_bytes(path.read_bytes()[:40])
    run(path)

    assert (verified(path).problem, verified(path).sealed) == (None, 1)


def test_a_tail_that_does_not_verify_is_put_aside_and_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(path, 1, SECRET)
    before = path.read_bytes()
    run(path, 1, b"t" * 32)

    assert "does not verify" in caplog.text
    (aside,) = path.parent.glob("audit.jsonl.unverified-*")
    assert aside.read_bytes() == before
    assert verified(path, b"t" * 32).lines == 3
    assert aside.name in path.read_text()


def test_what_is_no_audit_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text("import this\n")
    with pytest.raises(AuditFileError, match="no audit file"):
        opened(file)
    with pytest.raises(AuditFileError, match="cannot be written to"):
        opened(file / "below" / "audit.jsonl")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AuditFileError, match="no audit file"):
        opened(tmp_path / "pipe")
    assert file.read_text() == "import this\n"


def test_processes_of_one_folder_have_a_file_each_and_a_free_one_is_taken_again(path: Path) -> None:
    first, second = opened(path), opened(path)
    first.append(record())
    second.append(record())
    second.close(record("audit.closed"))
    third = opened(path)
    for file in (first, third):
        file.close(record("audit.closed"))

    beside = path.with_name("audit.2.jsonl")
    assert (first.path, second.path, third.path) == (path, beside, beside)
    assert (verified(path).problem, verified(beside).problem) == (None, None)
    assert (verified(path).begun, verified(beside).begun) == (1, 2)


class Disk:
    """What `os` has for the file, with a switch for what fails."""

    def __init__(self) -> None:
        self.full = self.short = False
        self.failed = threading.Event()
        self.held = threading.Event()
        self.held.set()
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, data: Any) -> int:
        self.held.wait(10)
        if self.short:  # a part, then nothing
            self.short, self.full = False, True
            return os.write(descriptor, bytes(data)[:50])
        if self.full:
            self.failed.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.writes += 1
        return os.write(descriptor, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(audit_file, "os", disk)
    monkeypatch.setattr(audit_file, "RETRY", 0.01)
    yield disk
    disk.held.set()


def fill(disk: Disk) -> None:
    disk.full = True


def fill_within_a_line(disk: Disk) -> None:
    disk.short = True


@pytest.mark.parametrize("fail", [fill, fill_within_a_line])
def test_what_waited_for_a_full_disk_is_written_when_there_is_room(
    path: Path, disk: Disk, fail: Callable[[Disk], None], caplog: pytest.LogCaptureFixture
) -> None:
    file = opened(path)
    fail(disk)
    for n in range(20):
        file.append(record(reason=str(n)))
    assert disk.failed.wait(10)
    disk.full = False
    file.close(record("audit.closed"))

    verdict = verified(path)
    assert (verdict.problem, verdict.lines, verdict.lost) == (None, 22, 0)
    told = [line.levelno for line in caplog.records if "cannot be written" in line.message]
    assert told == [logging.ERROR], "it is said once"


def test_what_no_longer_found_room_in_the_queue_is_counted_in_the_chain(
    path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    file = opened(path)
    fill(disk)
    for _ in range(QUEUE + 30):
        file.append(record())
    file.append(record("limit.hit", count=12))
    assert disk.failed.wait(10)
    disk.full = False
    file.close(record("audit.closed"))

    verdict = verified(path)
    assert verdict.problem is None
    # The record of the opening may have been written, or waited with them.
    assert verdict.lost in (42, 43)
    assert len(events(path)) == verdict.lines
    assert len([line for line in caplog.messages if "records are lost from now on" in line]) == 1


def test_a_disk_that_hangs_holds_nobody_up(path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_file, "FAREWELL", 0.05)
    file = opened(path)
    disk.held.clear()
    file.append(record())
    file.close(record("audit.closed"))
    disk.held.set()


async def test_a_process_begins_and_ends_it_and_logs_its_last_hash(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aquilia.audit")
    monkeypatch.setenv("AQ_AUDIT_SECRET", SECRET.decode())
    trail = AuditTrail(Clock(), str(path))
    trail.start()
    trail.start()
    trail.note("admin.action", outcome="done", reason="by hand")
    await trail.stop()
    await trail.stop()

    verdict = verified(path, SECRET)
    assert events(path) == ["audit.opened", "admin.action", "audit.closed"]
    assert f"line 3, {verdict.head}" in caplog.messages[-1]


def test_a_short_secret_is_refused_at_the_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQ_AUDIT_SECRET", "short")
    with pytest.raises(BootError, match="AQ_AUDIT_SECRET has 5 bytes, and 32 are needed"):
        AuditTrail(Clock(), str(path)).start()
    assert not path.exists()
