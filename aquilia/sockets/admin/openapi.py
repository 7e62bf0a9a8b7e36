"""The OpenAPI 3.1 description of the admin's HTTP endpoints, made from the operations themselves."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from aquilia.sockets.admin.operations import OPERATIONS, Operation

__all__ = ["description"]

_REFERENCE = "#/components/schemas/{name}"
_FAULT = {
    "type": "object",
    "required": ["code", "message", "retryable"],
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "details": {"type": "array"},
    },
}
_REFUSALS = {
    "400": "The body is no JSON, or the Host none that is served.",
    "401": "The secret or token is missing or wrong.",
    "403": "The token is that of somebody who is no admin.",
    "422": "What is asked for has the wrong shape.",
    "429": "Too many wrong secrets or tokens came from this address.",
    "503": "The broker is away, or the server stops.",
}


def description(path: str) -> dict[str, Any]:
    """The document, for endpoints below `path`."""
    kinds = [kind for operation in OPERATIONS.values() for kind in (operation.order, operation.answer)]
    references, schemas = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    named = dict(zip(kinds, references, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Aquilia: admin of the sockets", "version": "1"},
        "security": [{"secret": []}],
        "paths": {
            f"{path}/{name}": {"post" if operation.acts else "get": _operation(operation, named, schemas)}
            for name, operation in OPERATIONS.items()
        },
        "components": {
            "securitySchemes": {"secret": {"type": "http", "scheme": "bearer"}},
            "schemas": {**schemas, "Fault": _FAULT},
        },
    }


def _operation(
    operation: Operation, named: dict[Any, dict[str, Any]], schemas: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": inspect.cleandoc(operation.order.__doc__ or "").partition("\n")[0],
    }
    if operation.acts:
        told["requestBody"] = {"required": True, "content": _json(named[operation.order])}
    else:
        told["parameters"] = [
            {"name": name, "in": "query", "schema": schema}
            for name, schema in schemas[operation.order.__name__]["properties"].items()
        ]
    refusals = {
        status: {"description": why, "content": _json({"$ref": _REFERENCE.format(name="Fault")})}
        for status, why in _REFUSALS.items()
    }
    answer = {"description": "What was found or done.", "content": _json(named[operation.answer])}
    told["responses"] = {"200": answer, **refusals}
    return told


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
