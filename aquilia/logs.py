"""Logs: records as lines, for people or as JSON, and how the process that serves writes them.

A record's own fields (`extra=…`) are kept in JSON. Nothing here writes payloads, tokens or query strings: what is
logged of a request is its path.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

__all__ = ["JsonFormatter", "LogFormat", "PathsOnly", "TextFormatter", "log_config"]

LogFormat = Literal["text", "json"]

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "color_message"}
"""What `logging` itself, or uvicorn for terminals, puts into a record."""
_DIGITS = 4096
"""Bits of a number that is still written in digits, whose cost grows with their square: Python refuses many more."""
_OURS = ("timestamp", "level", "logger", "message", "exception")


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
_CONTROLS |= {0x2028: "\\u2028", 0x2029: "\\u2029"}


class TextFormatter(logging.Formatter):
    """A line for people. What a client had written into it neither looks like another line nor moves the cursor.

    Control characters are shown by their numbers, and only the first line of a record begins where lines begin.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return super().format(record).translate(_CONTROLS).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """One JSON object in one line.

    It has `timestamp` (RFC 3339, UTC), `level`, `logger`, `message`, the record's own fields, and of an error
    `exception`, the traceback as a string. What JSON cannot say stands there as Python writes it. A field that is
    named like one of these ends in `_`. A record that cannot be written as it is becomes a line even so.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        line["timestamp"] = line["timestamp"].replace("+00:00", "Z")
        for name, value in vars(record).items():
            if name not in _OF_EVERY_RECORD:
                line[f"{name}_" if name in _OURS else name] = value
        line.update(_of_access(record))
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return _encoded(line)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # its arguments do not fit, or cannot be written
        return f"{_shown(record.msg)} with {_shown(record.args)}: {_shown(error)}"


def _encoded(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=_simple).decode()
    except Exception:  # keys that are no strings, a list within itself: the line is worth more than its form
        return msgspec.json.encode({_whole(name): _plain(value) for name, value in line.items()}).decode()


def _simple(value: Any) -> str:
    return str.__str__(value) if isinstance(value, str) else _shown(value)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value.bit_length() < _DIGITS:
        return int(value)
    return _whole(value if isinstance(value, str) else _shown(value))


def _shown(value: object) -> str:
    """As Python writes it, if it can."""
    if isinstance(value, str):
        return value
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__qualname__}, which cannot be shown: {type(error).__name__}>"


def _whole(text: Any) -> str:
    return str(text).encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no UTF-8


def _of_access(record: logging.LogRecord) -> dict[str, Any]:
    """What uvicorn notes of a request, as fields."""
    arguments = record.args
    if record.name != "uvicorn.access" or not isinstance(arguments, tuple) or len(arguments) != 5:
        return {}
    return dict(zip(("client", "method", "path", "http_version", "status"), arguments, strict=True))


class PathsOnly(logging.Filter):
    """Takes the query out of what uvicorn notes of requests and handshakes: it may hold a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(_without_query, record.args))
        return True


def _without_query(argument: object) -> object:
    if isinstance(argument, str) and argument.startswith("/"):
        return argument.partition("?")[0]
    return argument


def log_config(level: str, form: LogFormat = "text") -> Mapping[str, Any]:
    """The configuration for `logging.config.dictConfig`: a line for each record, of whatever logger, on stderr."""
    level = level.upper()
    # How uvicorn starts and stops is told by `aq serve` itself.
    quiet = "INFO" if level == "DEBUG" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"paths": {"()": PathsOnly}},
        "formatters": {
            "text": {
                "()": TextFormatter,
                "fmt": "%(asctime)s %(levelname)-8s %(message)s",
                "datefmt": "%Y-%m-%d %H:%M:%S",
            },
            "json": {"()": JsonFormatter},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "uvicorn": {"level": level},
            "uvicorn.error": {"level": quiet if level in ("DEBUG", "INFO") else level, "filters": ["paths"]},
            "uvicorn.access": {"level": level, "filters": ["paths"]},
        },
    }
