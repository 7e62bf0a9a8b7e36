"""Faults, and the engine that turns whatever was raised into one."""

from __future__ import annotations

import logging

import pytest

from aquilia import Fault, FaultDomain, FaultEngine, Severity


def internal(incident: str) -> Fault:
    return Fault("INTERNAL", f"incident {incident}")


def test_a_fault_shows_its_code_and_what_a_client_may_see() -> None:
    fault = Fault("ROOM_LOCKED", "the room is locked", status=423, retryable=True, details=[{"room": "a"}])
    assert str(fault) == "ROOM_LOCKED: the room is locked"
    assert fault.as_dict() == {
        "code": "ROOM_LOCKED",
        "message": "the room is locked",
        "details": [{"room": "a"}],
        "retryable": True,
    }
    assert "details" not in Fault("A", "b").as_dict()
    assert (fault.domain, fault.severity, fault.status) == (FaultDomain.SYSTEM, Severity.ERROR, 423)


def test_only_a_fatal_fault_is_not_recoverable() -> None:
    recoverable = {severity: Fault("A", "b", severity=severity).recoverable for severity in Severity}
    assert recoverable == {
        Severity.INFO: True,
        Severity.WARN: True,
        Severity.ERROR: True,
        Severity.FATAL: False,
    }


def test_severities_stand_for_log_levels() -> None:
    levels = [severity.log_level for severity in Severity]
    assert levels == [logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]


def test_a_fault_is_answered_as_it_is_and_observed() -> None:
    engine, seen = FaultEngine(), []
    engine.observe(lambda fault, where: seen.append((fault.code, where)))
    fault = Fault("A", "b")
    assert engine.process(fault, "here", internal=internal) is fault
    assert seen == [("A", "here")]


def test_the_translation_of_the_nearest_class_wins() -> None:
    engine = FaultEngine()
    engine.translate(LookupError, lambda error: Fault("LOOKUP", str(error)))
    engine.translate(KeyError, lambda error: Fault("KEY", str(error.args[0])))
    assert engine.process(KeyError("k"), "here", internal=internal).code == "KEY"
    assert engine.process(IndexError("i"), "here", internal=internal).code == "LOOKUP"


def test_an_unforeseen_error_is_logged_with_its_traceback_under_an_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = FaultEngine().process(ZeroDivisionError("secret"), "the handler", internal=internal)
    assert fault.code == "INTERNAL"
    incident = fault.message.removeprefix("incident ")
    (record,) = caplog.records
    assert record.getMessage() == f"the handler failed, incident {incident}"
    assert record.exc_info is not None
    assert "secret" not in fault.message


def test_an_observer_that_fails_changes_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    engine, seen = FaultEngine(), []

    def broken(fault: Fault, where: str) -> None:
        raise RuntimeError("no connection to the collector")

    engine.observe(broken)
    engine.observe(lambda fault, where: seen.append(fault.code))
    fault = Fault("A", "b")
    assert engine.process(fault, "here", internal=internal) is fault
    assert seen == ["A"]
    assert "no connection to the collector" in caplog.text


@pytest.mark.parametrize("into", [lambda error: 1 // 0, lambda error: "no fault"])
def test_a_translation_that_fails_leaves_the_error_unforeseen(
    into: object, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FaultEngine()
    engine.translate(KeyError, into)  # type: ignore[arg-type]
    assert engine.process(KeyError("k"), "the handler", internal=internal).code == "INTERNAL"
    assert "the translation of KeyError" in caplog.text
    assert "the handler failed, incident" in caplog.text
