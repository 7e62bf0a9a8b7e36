"""The table of WS_* faults."""

from __future__ import annotations

import pytest

from aquilia import FaultDomain, Severity
from aquilia.sockets import CloseCode, SocketFault, faults

INFO, WARN, ERROR, FATAL = Severity.INFO, Severity.WARN, Severity.ERROR, Severity.FATAL

# code, severity, retryable, HTTP status (None: never over HTTP), close code of an open connection
TABLE = [
    (faults.ws_handshake_failed("x"), "WS_HANDSHAKE_FAILED", ERROR, False, 400, 4400),
    (faults.ws_auth_required(), "WS_AUTH_REQUIRED", WARN, True, 401, 4401),
    (faults.ws_token_expired(), "WS_TOKEN_EXPIRED", WARN, True, 401, 4401),
    (faults.ws_forbidden(), "WS_FORBIDDEN", WARN, False, 403, None),
    (faults.ws_origin_not_allowed("https://x"), "WS_ORIGIN_NOT_ALLOWED", WARN, False, 403, None),
    (faults.ws_namespace_not_found("/x"), "WS_NAMESPACE_NOT_FOUND", WARN, False, 404, 4404),
    (faults.ws_message_invalid("x"), "WS_MESSAGE_INVALID", WARN, True, None, None),
    (faults.ws_unsupported_event("x"), "WS_UNSUPPORTED_EVENT", WARN, False, None, None),
    (faults.ws_payload_too_large(2, 1), "WS_PAYLOAD_TOO_LARGE", WARN, False, 413, 1009),
    (faults.ws_rate_limit_exceeded("x"), "WS_RATE_LIMIT_EXCEEDED", WARN, True, 429, None),
    (faults.ws_rate_limit_exceeded("x", close=True), "WS_RATE_LIMIT_EXCEEDED", WARN, True, 429, 4529),
    (faults.ws_quota_exceeded("x"), "WS_QUOTA_EXCEEDED", WARN, False, 429, 4429),
    (faults.ws_quota_exceeded("x", close=False), "WS_QUOTA_EXCEEDED", WARN, False, 429, None),
    (faults.ws_overloaded("x"), "WS_OVERLOADED", ERROR, True, 503, None),
    (faults.ws_room_not_found("r"), "WS_ROOM_NOT_FOUND", WARN, True, None, None),
    (faults.ws_room_full("r", 1), "WS_ROOM_FULL", WARN, True, None, None),
    (faults.ws_not_subscribed("r"), "WS_NOT_SUBSCRIBED", WARN, True, None, None),
    (faults.ws_already_subscribed("r"), "WS_ALREADY_SUBSCRIBED", INFO, False, None, None),
    (faults.ws_connection_closed(), "WS_CONNECTION_CLOSED", INFO, False, None, None),
    (faults.ws_connection_timeout("x"), "WS_CONNECTION_TIMEOUT", WARN, True, None, 4508),
    (faults.ws_ack_timeout("e", 1.5), "WS_ACK_TIMEOUT", WARN, True, None, None),
    (faults.ws_already_handled(5), "WS_ALREADY_HANDLED", INFO, False, 409, None),
    (faults.ws_adapter_unavailable("x"), "WS_ADAPTER_UNAVAILABLE", FATAL, True, 503, None),
    (faults.ws_publish_failed("x"), "WS_PUBLISH_FAILED", ERROR, True, None, None),
    (faults.ws_messages_dropped(2), "WS_MESSAGES_DROPPED", WARN, False, None, None),
    (faults.ws_messages_dropped(), "WS_MESSAGES_DROPPED", WARN, False, None, None),
    (faults.ws_slow_consumer(), "WS_SLOW_CONSUMER", WARN, True, None, 4531),
    (faults.ws_kicked(), "WS_KICKED", INFO, False, None, 4409),
    (faults.ws_taken_over(), "WS_TAKEN_OVER", INFO, False, None, 4410),
    (faults.ws_internal_error("i"), "WS_INTERNAL_ERROR", ERROR, False, 500, None),
    (faults.ws_internal_error("i", close=True), "WS_INTERNAL_ERROR", ERROR, False, 500, 1011),
]


@pytest.mark.parametrize(("fault", "code", "severity", "retryable", "status", "close"), TABLE)
def test_a_fault_is_what_the_table_says(
    fault: SocketFault, code: str, severity: Severity, retryable: bool, status: int | None, close: int | None
) -> None:
    assert (fault.code, fault.severity, fault.retryable) == (code, severity, retryable)
    assert fault.domain is FaultDomain.NETWORK
    assert fault.close_code == close
    assert fault.recoverable is (close is None)
    if status is not None:
        assert fault.status == status


def test_every_factory_is_in_the_table() -> None:
    factories = {name for name in faults.__all__ if name.startswith("ws_")}
    assert {fault.code.lower() for fault, *_ in TABLE} == factories


def test_close_codes_of_45xx_tell_to_come_back_and_those_of_44xx_to_stop() -> None:
    for fault, *_ in TABLE:
        if fault.close_code is not None and fault.close_code >= 4500:
            assert fault.retryable
    assert CloseCode.TIMED_OUT == 4508


def test_an_unsupported_event_shows_the_nearest_of_the_names_that_it_is_given() -> None:
    assert faults.ws_unsupported_event("ecko").message == "event 'ecko' is not supported here"
    assert "did you mean 'echo'" in faults.ws_unsupported_event("ecko", ["echo", "other"]).message
