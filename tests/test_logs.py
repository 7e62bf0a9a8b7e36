"""The lines of the log: what a JSON object holds, whatever the record, and what neither form ever shows."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from typing import Any

import pytest

from aquilia.faults import Fault, FaultEngine
from aquilia.logs import JsonFormatter, PathsOnly, TextFormatter


def record(text: str = "said %s", /, *arguments: Any, name: str = "app", **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, "file.py", 1, text, arguments, None)
    vars(made).update(fields)
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(made)
    assert "\n" not in text
    read: dict[str, Any] = json.loads(text)
    return read


def test_a_line_has_time_level_logger_and_message() -> None:
    told = line(record("said %s", "hello"))

    assert {key: told[key] for key in ("level", "logger", "message")} == {
        "level": "INFO",
        "logger": "app",
        "message": "said hello",
    }
    assert told["timestamp"].endswith("Z")
    assert datetime.fromisoformat(told["timestamp"]).utcoffset() is not None
    assert set(told) == {"timestamp", "level", "logger", "message"}


def test_fields_of_the_record_are_kept_and_do_not_hide_those_of_the_line() -> None:
    told = line(record("x", user="ann", sizes=[1, 2], level="mine", message="mine"))

    assert (told["user"], told["sizes"]) == ("ann", [1, 2])
    assert (told["level"], told["level_"], told["message"]) == ("INFO", "mine", "x")


def test_an_exception_is_one_field() -> None:
    made = record("it failed")
    try:
        raise ZeroDivisionError("by\nzero")
    except ZeroDivisionError:
        made.exc_info = sys.exc_info()

    exception = line(made)["exception"]
    assert exception.startswith("Traceback")
    assert exception.endswith("ZeroDivisionError: by\nzero")


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


ROUND: list[Any] = []
ROUND.append(ROUND)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Odd(), "<odd>"),
        ({Odd(): 1}, {"<odd>": 1}),
        (ROUND, "[[...]]"),
        ("half \ud800", "half \\ud800"),
        (float("nan"), None),
        (1 << 80, 1 << 80),
    ],
    ids=["object", "odd keys", "in itself", "half a surrogate pair", "nan", "large"],
)
def test_what_json_cannot_say_is_written_as_python_does(value: Any, written: Any) -> None:
    told = line(record("x", field=value, other="kept"))

    assert told["field"] == written
    assert (told["message"], told["other"]) == ("x", "kept")


class Unshown:
    def __repr__(self) -> str:
        raise ZeroDivisionError("no repr")


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Unshown(), "<Unshown, which cannot be shown: ZeroDivisionError>"),
        (DEEP, "<list, which cannot be shown: RecursionError>"),
        (10**5000, "<int, which cannot be shown: ValueError>"),
    ],
    ids=["an error", "too deep", "too large"],
)
def test_what_python_cannot_write_either_is_named(value: Any, written: str) -> None:
    told = line(record("x", field=value, other=1 << 80))

    assert (told["message"], told["field"], told["other"]) == ("x", written, 1 << 80)


def test_a_string_of_a_class_of_its_own_is_a_string() -> None:
    class Name(str): ...

    assert line(record("x", field=Name("ann")))["field"] == "ann"


def test_a_field_may_have_any_name() -> None:
    assert line(record("x", **{"half \ud800": 1}))["half \\ud800"] == 1


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (record("%d of %s", "one", "two"), "%d of %s with ('one', 'two'): TypeError("),
        (record("%r", Unshown()), "%r with <tuple, which cannot be shown: ZeroDivisionError>: "),
        (record(Unshown()), "<Unshown, which cannot be shown: ZeroDivisionError> with (): "),  # type: ignore[arg-type]
    ],
    ids=["not fitting", "argument", "message"],
)
def test_a_message_that_cannot_be_formatted_is_a_line_even_so(made: logging.LogRecord, message: str) -> None:
    assert line(made)["message"].startswith(message)


def test_text_of_clients_forges_no_second_line_and_moves_no_cursor() -> None:
    made = record("said %s", "x\r\n2026-01-01 INFO forged\x1b[2J\x85y\tz")
    try:
        raise ValueError("bad\n2026-01-01 INFO forged")
    except ValueError:
        made.exc_info = sys.exc_info()

    first, *others = TextFormatter("%(levelname)s %(message)s").format(made).split("\n")
    assert first == "INFO said x\\x0d"
    assert others[0] == "    2026-01-01 INFO forged\\x1b[2J\\x85y\tz"
    assert others[-1] == "    2026-01-01 INFO forged"
    assert all(other.startswith("    ") for other in others)


def access(path: str) -> logging.LogRecord:
    return record('%s - "%s %s HTTP/%s" %d', "c:1", "GET", path, "1.1", 200, name="uvicorn.access")


def test_a_request_is_logged_in_fields_and_without_its_query() -> None:
    made = access("/a?token=secret")
    assert PathsOnly().filter(made)

    told = line(made)
    assert told["message"] == 'c:1 - "GET /a HTTP/1.1" 200'
    assert (told["client"], told["method"], told["path"], told["status"]) == ("c:1", "GET", "/a", 200)


def test_an_incident_is_logged_with_its_id_code_and_place(caplog: pytest.LogCaptureFixture) -> None:
    FaultEngine().process(
        ZeroDivisionError("x"), "Page.show", internal=lambda id: Fault("BROKEN", id), about={"event": "say"}
    )

    (made,) = caplog.records
    told = line(made)
    assert told["message"] == f"Page.show failed, incident {told['incident']}"
    assert (told["code"], told["where"], told["event"]) == ("BROKEN", "Page.show", "say")
    assert "ZeroDivisionError" in told["exception"]
