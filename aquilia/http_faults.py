"""The HTTP_* faults: a factory for each reason to refuse a request, and Starlette's exceptions as faults."""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.exceptions import HTTPException

from aquilia.faults import Fault, FaultDomain, Severity

__all__ = [
    "http_exception",
    "http_internal_error",
    "http_invalid_form",
    "http_invalid_input",
    "http_invalid_json",
    "http_method_not_allowed",
    "http_not_found",
    "http_payload_too_large",
    "http_unsupported_media_type",
]


def http_not_found(path: str) -> Fault:
    """No controller of any app serves this path."""
    return _refusal(404, "HTTP_NOT_FOUND", f"nothing is served at {path!r}", domain=FaultDomain.ROUTING)


def http_method_not_allowed(method: str, allowed: Iterable[str]) -> Fault:
    """The path is served, but not for this method; `allowed` belongs into the header `Allow` (RFC 9110)."""
    message = f"{method} is not allowed here; allowed: {', '.join(allowed)}"
    return _refusal(405, "HTTP_METHOD_NOT_ALLOWED", message, domain=FaultDomain.ROUTING)


def http_invalid_input(details: Sequence[Any]) -> Fault:
    """Well-formed, but of the wrong shape. Each of `details` is `{"path": …, "expected": …, "got": …}`."""
    message = f"{len(details)} invalid input{'s' if len(details) > 1 else ''}"
    return _refusal(422, "HTTP_INVALID_INPUT", message, domain=FaultDomain.MODEL, details=details)


def http_invalid_json(reason: str) -> Fault:
    """The body is not JSON (RFC 8259): `reason` says where it breaks."""
    return _refusal(
        400, "HTTP_INVALID_JSON", f"the body is not valid JSON: {reason}", domain=FaultDomain.MODEL
    )


def http_invalid_form(reason: str) -> Fault:
    """The body is not the form that its Content-Type announces."""
    return _refusal(400, "HTTP_INVALID_FORM", f"the form is malformed: {reason}", domain=FaultDomain.MODEL)


def http_unsupported_media_type(got: str, accepted: str) -> Fault:
    """The Content-Type is none that the handler reads."""
    message = f"the Content-Type must be {accepted}, got {got or 'none'}"
    return _refusal(415, "HTTP_UNSUPPORTED_MEDIA_TYPE", message)


def http_payload_too_large(limit: int) -> Fault:
    """A body above `limit` bytes."""
    return _refusal(413, "HTTP_PAYLOAD_TOO_LARGE", f"the body is above the limit of {limit} bytes")


def http_internal_error(incident: str) -> Fault:
    """An unforeseen exception; the log has its traceback under `incident`."""
    return Fault("HTTP_INTERNAL_ERROR", f"internal error, incident {incident}", status=500)


def http_exception(error: HTTPException) -> Fault:
    """The fault for Starlette's own exception: its code is the name of the status, as `HTTP_FORBIDDEN`."""
    try:
        name = http.HTTPStatus(error.status_code).name
    except ValueError:
        name = str(error.status_code)
    severity = Severity.ERROR if error.status_code >= 500 else Severity.WARN
    return _refusal(error.status_code, f"HTTP_{name}", error.detail, severity=severity)


def _refusal(
    status: int,
    code: str,
    message: str,
    *,
    domain: FaultDomain = FaultDomain.NETWORK,
    severity: Severity = Severity.WARN,
    details: Sequence[Any] = (),
) -> Fault:
    return Fault(code, message, domain=domain, severity=severity, status=status, details=details)
