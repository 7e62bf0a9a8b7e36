"""Each reason to refuse a request has a code and a status."""

import pytest
from starlette.exceptions import HTTPException

from aquilia.faults import Severity
from aquilia.http_faults import (
    http_exception,
    http_internal_error,
    http_invalid_form,
    http_invalid_input,
    http_invalid_json,
    http_method_not_allowed,
    http_not_found,
    http_payload_too_large,
    http_unsupported_media_type,
)

WRONG = {"path": "query.a", "expected": "int", "got": "missing"}


@pytest.mark.parametrize(
    ("fault", "code", "status", "message"),
    [
        (http_not_found("/x"), "HTTP_NOT_FOUND", 404, "nothing is served at '/x'"),
        (
            http_method_not_allowed("PUT", ["GET", "HEAD"]),
            "HTTP_METHOD_NOT_ALLOWED",
            405,
            "PUT is not allowed here; allowed: GET, HEAD",
        ),
        (http_invalid_input([WRONG]), "HTTP_INVALID_INPUT", 422, "1 invalid input"),
        (http_invalid_input([WRONG, WRONG]), "HTTP_INVALID_INPUT", 422, "2 invalid inputs"),
        (http_invalid_json("eof"), "HTTP_INVALID_JSON", 400, "the body is not valid JSON: eof"),
        (http_invalid_form("eof"), "HTTP_INVALID_FORM", 400, "the form is malformed: eof"),
        (
            http_unsupported_media_type("", "application/json"),
            "HTTP_UNSUPPORTED_MEDIA_TYPE",
            415,
            "the Content-Type must be application/json, got none",
        ),
        (http_payload_too_large(9), "HTTP_PAYLOAD_TOO_LARGE", 413, "the body is above the limit of 9 bytes"),
        (http_internal_error("abc"), "HTTP_INTERNAL_ERROR", 500, "internal error, incident abc"),
        (http_exception(HTTPException(403)), "HTTP_FORBIDDEN", 403, "Forbidden"),
        (http_exception(HTTPException(418, "teapot")), "HTTP_IM_A_TEAPOT", 418, "teapot"),
        (http_exception(HTTPException(499, "gone")), "HTTP_499", 499, "gone"),
    ],
)
def test_a_fault_has_a_code_a_status_and_a_message(fault, code, status, message):
    assert (fault.code, fault.status, fault.message) == (code, status, message)
    assert not fault.retryable


def test_only_the_servers_own_failures_are_errors():
    assert http_internal_error("abc").severity is Severity.ERROR
    assert http_exception(HTTPException(503)).severity is Severity.ERROR
    assert http_exception(HTTPException(403)).severity is Severity.WARN
    assert http_not_found("/").severity is Severity.WARN


def test_invalid_input_tells_what_was_wrong():
    assert http_invalid_input([WRONG]).as_dict()["details"] == [WRONG]
