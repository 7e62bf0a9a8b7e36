"""Responses out of what handlers return, and out of faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import PlainTextResponse, Response

from aquilia.faults import Fault

__all__ = ["fault_response", "json_response", "response_of"]

_BODILESS = frozenset({204, 205, 304})


def response_of(value: Any, status: int = 200) -> Response:
    """The response for a handler's return value, of this status; how, is told in `aquilia.controller`."""
    if isinstance(value, Response):
        return value
    if value is None:
        return Response(status_code=204 if status == 200 else status)
    if isinstance(value, str):
        return PlainTextResponse(value, status)
    if isinstance(value, bytes):
        return Response(value, status, media_type="application/octet-stream")
    return json_response(value, status)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON. Raises TypeError for what is no data."""
    return Response(_encode(value), status, headers, media_type="application/json")


def fault_response(fault: Fault, headers: Mapping[str, str] | None = None) -> Response:
    """The response that tells a client of a fault: its status, and `fault.as_dict()` as JSON."""
    if fault.status in _BODILESS:
        return Response(status_code=fault.status, headers=headers)
    return json_response(fault.as_dict(), fault.status, headers)


def _model(value: Any) -> Any:
    if hasattr(type(value), "__pydantic_serializer__"):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"a {type(value).__qualname__} cannot be written as JSON: return data, or a Response")


_encode = msgspec.json.Encoder(enc_hook=_model).encode
